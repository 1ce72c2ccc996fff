"""`picpoint cache-features`: asks the image encoder of every picture, once, and keeps the answers.

Pre-training with `data.image_features=cached` then decodes no picture and runs no image encoder.
Kill anything and run the same command again, as with `picpoint render`.
"""

import dataclasses
import time
from dataclasses import dataclass, field

from cluster.cores import usable_cores
from cluster.fleet import FleetConfig, run_tasks
from cluster.progress import ProgressLine
from cluster.record import keep_or_start
from cluster.runtime import absolute_place
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig
from picpoint.features.describe import (
    DescribedShard,
    FeaturesConfig,
    FeatureTask,
    best_device,
    finish_shard,
    prepare_features,
    publish_features,
)
from shards.manifest import Manifest, load_manifest


@dataclass(frozen=True, slots=True)
class CacheFeaturesJob:
    """Which pictures are described, by whom, and to where.

    Attributes:
        shards: folder or URL of the shard set.
        out: folder or URL of the features.
        image_encoder: the frozen network.
        features: what is kept.
        fleet: where the work runs.
    """

    shards: str
    out: str
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)


def describe(job: CacheFeaturesJob) -> list[str]:
    """Say what would be read, run and written."""
    manifest = load_manifest(job.shards)
    kept = job.features.format
    if kept == "int8":
        kept += f", up to {job.features.num_axes} axes"
    return [
        f"read   {manifest.num_samples} shapes from {job.shards}",
        f"ask    {job.image_encoder.name} at {job.image_encoder.input_px} px of every picture, "
        f"with {job.fleet.num_workers} workers ({job.fleet.name})",
        f"write  {len(manifest.shards)} shards of features ({kept}) to {job.out}",
    ]


def run(job: CacheFeaturesJob) -> None:
    """Describe every picture of a shard set; what is finished is kept.

    Raises:
        RunExistsError: the output holds other features.
        MissingWeightsError: the image encoder's weights cannot be found.
        ShardError: a shard cannot be read, or the output not be written.
    """
    manifest = load_manifest(job.shards)
    moot = ("shards", "out", "fleet")
    stage = keep_or_start(job.out, "cache_features", job, manifest.digest, moot)
    if stage.kept:
        return
    started = time.perf_counter()
    encoder = ImageEncoder(job.image_encoder, best_device())
    codec, fidelity = prepare_features(manifest, job.out, encoder, job.image_encoder, job.features)
    print(
        f"kept as {codec.info.format}: {fidelity.bytes_per_view:.0f} bytes a view; cosine to live "
        f"features {fidelity.local_cosine:.4f} (cells, about their mean), "
        f"{fidelity.pooled_cosine:.5f} (pooled)",
        flush=True,
    )
    del encoder
    finished: list[DescribedShard] = []
    tasks = _tasks(job, manifest, codec.info.precision)
    with ProgressLine("cache-features") as progress:
        for shard in run_tasks(finish_shard, tasks, job.fleet):
            finished.append(shard)
            num_shapes = sum(each.entry.num_samples for each in finished)
            elapsed_s = time.perf_counter() - started
            progress.show(
                f"{len(finished)}/{len(tasks)} shards  {num_shapes} shapes  "
                f"{num_shapes / elapsed_s:.1f} shapes/s"
            )
    order = {shard.name: number for number, shard in enumerate(manifest.shards)}
    entries = sorted((each.entry for each in finished), key=lambda entry: order[entry.name])
    publish_features(manifest, job.out, entries)
    stage.finish()


def _tasks(job: CacheFeaturesJob, manifest: Manifest, precision: str) -> list[FeatureTask]:
    cores = usable_cores()
    num_threads = max(1, cores // job.fleet.num_workers) if job.fleet.name == "local" else 1
    # All machines compute alike.
    encoder = dataclasses.replace(job.image_encoder, precision=precision)
    return [
        FeatureTask(
            shards=absolute_place(job.shards),
            number=number,
            out=absolute_place(job.out),
            image_encoder=encoder,
            num_threads=num_threads,
        )
        for number in range(len(manifest.shards))
    ]
