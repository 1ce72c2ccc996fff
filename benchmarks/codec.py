"""Which picture codec, and at which quality? Size, decoding time, and what it does to features.

    python -m benchmarks.codec            112 views of 28 demo shapes; a record
    python -m benchmarks.codec --quick    8 views of 4, fewer qualities, under a minute

Renders at 224 px, compressed by each codec, decoded by simplejpeg (JPEG) or Pillow, and shown to
EfficientNet-Lite0, whose features are compared with those of PNG: the mean cosine of the pooled
features, and of the local ones the mean and the worst hundredth. Decoding is CPU time of one core,
the codecs in turns. The last line of stdout is one JSON object, by codec and quality.
"""

import argparse
import io
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

# Numerical libraries read these when they are loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from benchmarks.record import Json, write_record
from picpoint.assets import DEMO_SHAPES
from picpoint.batch import ImageFeatures
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig
from picpoint.geometry.clouds import fit_unit_sphere
from picpoint.geometry.rigs import RigConfig, build_cameras
from picpoint.render.rasterizer import RasterizerConfig, render
from picpoint.render.sources import SourceShape, list_shapes
from shards.codec import decode_picture, encode_picture

Picture = UInt8[np.ndarray, "H W 3"]

_VIEWS = (0, 5, 10, 15)
_PACKAGES = ("pillow", "simplejpeg", "torch", "numpy")


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to compress a picture."""

    encode: Callable[[Picture], bytes]
    decode: Callable[[bytes], Picture]


def main() -> None:
    """Measure, print, and (in full) write the record."""
    parser = argparse.ArgumentParser(description="Compare picture codecs on renders.")
    parser.add_argument("--quick", action="store_true", help="few pictures, no record")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    shapes = list_shapes(DEMO_SHAPES)[:: 43 if quick else 6][: 4 if quick else 28]
    pictures = [
        picture for shape in shapes for picture in photograph(shape, _VIEWS[: 2 if quick else 4])
    ]
    results = measure(pictures, (80, 94) if quick else (80, 85, 90, 94, 95), 2 if quick else 5)
    for name, found in results.items():
        print(name, found)
    if not quick:
        print("wrote", write_record("codec", results, _PACKAGES))
    print(json.dumps(results))


def photograph(shape: SourceShape, views: Sequence[int]) -> list[Picture]:
    """Render some views of a shape, as `picpoint render` does before it compresses them."""
    cameras = build_cameras(RigConfig())
    mesh = shape.read_mesh()
    world = replace(mesh, vertices=fit_unit_sphere(mesh.vertices, mesh.faces).apply(mesh.vertices))
    rendering = render(world, cameras, RasterizerConfig())
    return [np.ascontiguousarray(rendering.colour[view]) for view in views]


def codecs(qualities: Sequence[int]) -> dict[str, Codec]:
    """Name the ways to compress: PNG, lossless WebP, and JPEG and WebP at each quality."""
    found = {
        "png": Codec(lambda rgb: _pillow(rgb, "PNG"), _unpillow),
        "webp_lossless": Codec(lambda rgb: _pillow(rgb, "WEBP", lossless=True), _unpillow),
    }
    for quality in qualities:
        found[f"jpeg_q{quality}"] = Codec(
            lambda rgb, quality=quality: encode_picture(rgb, quality), decode_picture
        )
        found[f"webp_q{quality}"] = Codec(
            lambda rgb, quality=quality: _pillow(rgb, "WEBP", quality=quality), _unpillow
        )
    return found


def _pillow(rgb: Picture, kind: str, **options: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(rgb).save(content, kind, **options)
    return content.getvalue()


def _unpillow(content: bytes) -> Picture:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def measure(
    pictures: Sequence[Picture], qualities: Sequence[int], repeats: int
) -> dict[str, dict[str, Json]]:
    """Compress, time and compare."""
    encoder = ImageEncoder(ImageEncoderConfig(precision="float32"))
    expected = _describe(encoder, pictures)
    results: dict[str, dict[str, Json]] = {}
    contents: dict[str, list[bytes]] = {}
    for name, codec in codecs(qualities).items():
        contents[name] = [codec.encode(picture) for picture in pictures]
        found = _describe(encoder, [codec.decode(content) for content in contents[name]])
        local = torch.cosine_similarity(found.local, expected.local, dim=2)
        pooled = torch.cosine_similarity(found.pooled, expected.pooled, dim=2)
        results[name] = {
            "bytes": round(statistics.mean(map(len, contents[name]))),
            "pooled_cosine": round(float(pooled.mean()), 5),
            "local_cosine": round(float(local.mean()), 5),
            "local_cosine_p1": round(float(local.flatten().quantile(0.01)), 5),
        }
    for name, decode_us in _time(codecs(qualities), contents, repeats).items():
        results[name]["decode_us"] = round(decode_us)
    return results


def _time(
    ways: dict[str, Codec], contents: dict[str, list[bytes]], repeats: int
) -> dict[str, float]:
    """Give the median time to decode a picture."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, codec in ways.items():
            start_s = time.process_time()
            for content in contents[name]:
                codec.decode(content)
            spent[name].append((time.process_time() - start_s) / len(contents[name]))
    return {name: 1e6 * statistics.median(times) for name, times in spent.items()}


@torch.no_grad()
def _describe(encoder: ImageEncoder, pictures: Sequence[Picture]) -> ImageFeatures:
    batch = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2)[:, None].copy())
    return encoder(batch)


if __name__ == "__main__":
    main()
