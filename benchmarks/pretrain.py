"""What does a pre-training step cost, and against one written from the paper by hand?

    python -m benchmarks.pretrain            batch 16, a record
    python -m benchmarks.pretrain --quick    batch 4, under a minute

Demo shapes are rendered and their image features kept first. Then three ways of training take turns
on one core, a step each: ours with live pictures, ours with cached features, and the plain one
(benchmarks/plain_pretrain.py). All have the sizes of DGCNN's classification encoder, 1,024 points,
128 correspondences, one view at 224 px. Times are CPU time, all threads; medians over the rounds.
The last line of stdout is one JSON object: `vs_plain_live` and `vs_plain_cached` say how many times
less a step costs than the plain one; `data_wait_fraction` is the share of its wall time in which a
live step waited for its batch.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.plain_pretrain import PlainSizes, plain_steps
from benchmarks.record import Json, write_record
from cluster.app import main as picpoint
from cluster.compose import compose_config, load_job
from cluster.jobs.pretrain import PretrainJob
from picpoint.assets import DEMO_SHAPES
from picpoint.render.sources import list_shapes
from picpoint.train.pretrain import pretrain

_PACKAGES = ("torch", "numba", "numpy", "webdataset", "pillow", "simplejpeg")


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small, in under a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    sizes = PlainSizes(
        num_points=1024,
        correspondences=128,
        batch=4 if quick else 16,
        picture_px=224,
        latent_width=512,
        temperature=0.1,
        lr=1e-3,
    )
    with tempfile.TemporaryDirectory() as folder:
        results = compare(Path(folder), sizes, rounds=2 if quick else 7)
    if not quick:
        print(f"wrote {write_record('pretrain', results, _PACKAGES)}")
    print(json.dumps(results))


def compare(folder: Path, sizes: PlainSizes, rounds: int) -> dict[str, Json]:
    """Let the three ways take turns."""
    prepare(folder, num_shapes=sizes.batch)
    runs = {name: _our_steps(folder, sizes, name, rounds) for name in ("live", "cached")} | {
        "plain": _plain_steps(folder, sizes)
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, step in runs.items():
            started = time.process_time()
            next(step)
            if number:  # the first one compiles, and fills what is read ahead
                seconds[name].append(time.process_time() - started)
    waits = _waits(folder)
    runs.clear()  # which ends their threads
    a_shape = {name: statistics.median(each) / sizes.batch for name, each in seconds.items()}
    for name, s in a_shape.items():
        print(f"{name:7} {s * 1e3:8.1f} CPU-ms a shape")
    return {
        "vs_plain_live": round(a_shape["plain"] / a_shape["live"], 2),
        "vs_plain_cached": round(a_shape["plain"] / a_shape["cached"], 2),
        "data_wait_fraction": waits["live"],
        "data_wait_fraction_cached": waits["cached"],
        "batch": sizes.batch,
        "rounds": rounds,
        **{f"{name}_ms_a_shape": round(1e3 * s, 2) for name, s in a_shape.items()},
    }


def prepare(folder: Path, num_shapes: int) -> None:
    """Render shapes and keep what the image encoder says of them."""
    rows = ["source_id,label,file"]
    meshes = folder / "meshes"
    for shape in list_shapes(DEMO_SHAPES)[:num_shapes]:
        path = meshes / Path(shape.file).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_member(DEMO_SHAPES, shape.file))
        rows.append(f"{shape.source_id},,{path}")
    (folder / "list.csv").write_text("\n".join(rows))
    one_core = "fleet.max_workers=1"
    _run("render", f"source={folder / 'list.csv'}", f"out={folder / 'shards'}", one_core)
    features = ["image_encoder.precision=float32", one_core]
    _run("cache-features", f"shards={folder / 'shards'}", f"out={folder / 'features'}", *features)


def _member(archive: Path, name: str) -> bytes:
    with zipfile.ZipFile(archive) as file:
        return file.read(name)


def _run(*command: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        code = picpoint(command)
    if code:
        raise RuntimeError(f"picpoint {' '.join(command)} ended with {code}")


def _our_steps(folder: Path, sizes: PlainSizes, name: str, rounds: int) -> Iterator[object]:
    """Train as `picpoint pretrain` does, on one rank; one report a step."""
    overrides = [
        *(f"out={folder / name}", f"data.shards={folder / 'shards'}"),
        *("precision=fp32", "image_encoder.precision=float32", "log_every=1"),
        *(f"global_batch={sizes.batch}", f"ghost_batch={sizes.batch}", f"epochs={100 * rounds}"),
        *(f"data.num_points={sizes.num_points}", "data.holdout.num_folds=0"),
        f"data.correspondences={sizes.correspondences}",
    ]
    if name == "cached":
        overrides += ["data.image_features=cached", f"data.features={folder / 'features'}"]
    job = load_job(PretrainJob, compose_config("pretrain", overrides))
    return pretrain(job.training, folder / name, torch.device("cpu"))


def _plain_steps(folder: Path, sizes: PlainSizes) -> Iterator[object]:
    return plain_steps(sorted((folder / "shards").glob("*.tar")), sizes)


def _waits(folder: Path) -> dict[str, float]:
    """Read from the logs for which share of the time the steps waited for data."""
    waits: dict[str, float] = {}
    for name in ("live", "cached"):
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        waits[name] = round(json.loads(lines[-1])["data_wait"], 4)
    return waits


if __name__ == "__main__":
    main()
