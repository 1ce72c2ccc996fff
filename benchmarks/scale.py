"""What would ShapeNet, Objaverse and Objaverse-XL take on 1 to 512 GPUs, and does planning hold?

    python -m benchmarks.scale                     a record, and the tables of docs/scale.md
    python -m benchmarks.scale --quick             few shapes and starts, in two minutes
    python -m benchmarks.scale --assume usd_per_gpu_h=1.8 --assume gpu_speedup_training=60

First the manifest and the planner run at 10 million samples, in processes of their own
(benchmarks/resume.py): `plan_s` is CPU time from opening the set to a rank's share of a batch,
`plan_mb` what memory grew by. Then what a shape costs is taken from benchmarks/results, or, where
nothing there tells it, measured on demo shapes; and reckoned up (benchmarks/scale_model.py).
The last line of stdout is one JSON object.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Numerical libraries read these when they are loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import torch

from benchmarks.pretrain import prepare
from benchmarks.pretrain_parts import sizes_of
from benchmarks.record import RESULTS, Json, write_record
from benchmarks.resume import make_set, measure_starts
from benchmarks.scale_model import Assumed, Measured, table
from benchmarks.scale_page import PAGE, with_tables
from benchmarks.simulated_ranks import Fabric
from cluster.compose import compose_config, load_job
from cluster.doctor_image import pictures_per_s
from cluster.jobs.pretrain import PretrainJob
from picpoint.encoders.image import ImageEncoder
from picpoint.train.pretrain import _open_run
from picpoint.train.settings import PretrainConfig
from shards.codec import decode_picture
from shards.column_sets import load_columns
from shards.columns import MemberSpan
from shards.fetch import MAX_GAP_BYTES, Run, coalesce
from shards.manifest import Manifest, load_manifest
from shards.reader import PAIRING, Request, ShardReader
from shards.schema import META

_PACKAGES = ("torch", "numba", "numpy", "pyarrow", "simplejpeg", "obstore")
_VIEWS = 20


def main() -> None:
    """Run, reckon, print; in full write the record and the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small, no record")
    parser.add_argument("--assume", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    assumed = _assumed(options.assume)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        at_scale = _plan_at_scale(Path(folder) / "large", num_starts=3 if options.quick else 10)
        shapes, rounds = (4, 2) if options.quick else (32, 7)
        measured = _measure(Path(folder), num_shapes=shapes, rounds=rounds)
    results = at_scale | {"simulated": table(measured, assumed, Fabric())}
    if not options.quick and assumed == Assumed():
        print(f"wrote {write_record('scale', results, _PACKAGES)}")
        PAGE.write_text(with_tables(PAGE.read_text(), results))
    print(json.dumps(results))


def _assumed(given: list[str]) -> Assumed:
    try:
        return Assumed().replaced(dict(each.split("=", 1) for each in given))
    except ValueError as error:
        sys.exit(f"--assume: {error}")


def _plan_at_scale(folder: Path, num_starts: int) -> dict[str, Json]:
    """Publish the manifest of 10 million samples, and plan batches of it in new processes."""
    folder.mkdir()
    started_s = time.process_time()
    make_set(folder)
    published_s = time.process_time() - started_s
    return {"publish_s": round(published_s, 3), **measure_starts(folder, num_starts)}


def _measure(folder: Path, num_shapes: int, rounds: int) -> Measured:
    """Take what a shape costs from the records, and measure the rest on demo shapes."""
    job, steps, views, stream = (
        _record(name) for name in ("render_job", "pretrain", "render", "stream")
    )
    prepare(folder, num_shapes)
    shards = load_manifest(folder / "shards")
    requests, read_bytes = _traffic(shards, folder / "features")
    config = _config(folder, num_shapes)
    data_cpu_s, sizes = _data_cpu_s(config, folder, rounds)
    features = load_columns(folder / "features")
    return Measured(
        render_cpu_s=job["workers"]["1"]["cpu_s_per_shape"],
        render_views=_VIEWS,
        render_faces=_mean_faces(shards),
        view_ms_by_faces=tuple(
            (size["num_faces"], size["ms_per_view"]["picpoint_2x2"])
            for size in views["sizes"].values()
        ),
        shard_bytes=shards.num_bytes / shards.num_samples,
        picture_cpu_s=_decoding_s(shards),
        encode_cpu_s=1
        / pictures_per_s(
            ImageEncoder(config.image_encoder), config.image_encoder.input_px, torch.device("cpu")
        ),
        feature_bytes=sum(shard.num_bytes for shard in features.shards) / shards.num_samples,
        encode_requests=stream["s3"]["all_views"]["requests_per_sample"],
        step_cpu_s=1e-3 * steps["cached_ms_a_shape"],
        data_cpu_s=data_cpu_s,
        read_requests=requests,
        read_bytes=read_bytes,
        request_cpu_s=1 / stream["s3"]["points"]["requests_per_cpu_s"],
        latent_width=sizes["latent_width"],
        views_per_step=sizes["views"],
        gradient_bytes=sizes["gradient_bytes"],
        statistics_bytes=sizes["statistics_bytes"],
    )


def _record(name: str) -> Mapping[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def _config(folder: Path, num_shapes: int) -> PretrainConfig:
    overrides = [
        *(f"out={folder / 'run'}", f"data.shards={folder / 'shards'}", "epochs=100000"),
        *("precision=fp32", "image_encoder.precision=float32", "data.holdout.num_folds=0"),
        *("data.image_features=cached", f"data.features={folder / 'features'}"),
        *(f"global_batch={num_shapes}", f"ghost_batch={num_shapes}"),
    ]
    return load_job(PretrainJob, compose_config("pretrain", overrides)).training


def _data_cpu_s(config: PretrainConfig, folder: Path, rounds: int) -> tuple[float, dict[str, int]]:
    """Time reading, decoding and pairing of a shape with kept features, as training does it."""
    run = _open_run(config, folder / "run", torch.device("cpu"), "never")
    found: list[float] = []
    with contextlib.closing(run.batches):
        for number in range(rounds + config.data.read_ahead + 1):
            started_s = time.process_time()
            next(run.batches)
            if number > config.data.read_ahead:  # the first were read ahead, and compile
                found.append(time.process_time() - started_s)
        return statistics.median(found) / config.global_batch, sizes_of(run)


def _traffic(shards: Manifest, features: Path) -> tuple[float, float]:
    """Count requests and bytes of a shape in a step with kept features, over a network."""
    columns = load_columns(features)
    num_requests = num_bytes = 0
    wanted = {*PAIRING, META}
    for number in range(shards.num_samples):
        shard, row = shards.locate(number)
        of_view = f"view{number % _VIEWS:02d}."
        spans = [span for span in shards.row(number).members if span.name in wanted]
        more = columns.parts[shard].samples.rows()[row].members
        kept = [span for span in more if span.name.startswith(of_view)]
        for runs in (_runs(spans), _runs(kept)):
            num_requests += len(runs)
            num_bytes += sum(length for _, length, _ in runs)
    return num_requests / shards.num_samples, num_bytes / shards.num_samples


def _runs(spans: list[MemberSpan]) -> list[Run]:
    return coalesce(spans, MAX_GAP_BYTES["network"])


def _mean_faces(shards: Manifest) -> int:
    reader = ShardReader(shards)
    metas = [reader.read(Request(number)) for number in range(shards.num_samples)]
    return round(statistics.mean(each.meta.num_faces for each in metas if each is not None))


def _decoding_s(shards: Manifest) -> float:
    """Time decoding of pictures, a second of it at least."""
    sample = ShardReader(shards).read(Request(0, tuple(range(_VIEWS))))
    assert sample is not None
    contents = list(sample.pictures.values())
    count, started_s = 0, time.process_time()
    while time.process_time() - started_s < 1.0:
        for content in contents:
            decode_picture(content)
        count += len(contents)
    return (time.process_time() - started_s) / count


if __name__ == "__main__":
    main()
