"""Exact streaming over plain WebDataset tars. Knows bytes; never imports torch or ray.

Writing a set, shard by shard, and reading it in the order of a plan (which any number of ranks
shares, and any position resumes):

    import numpy as np
    from shards import Cloud, CloudReader, ReadPlan, Request
    from shards import open_store, publish_manifest, publish_part, shard_name, write_clouds

    store = open_store("boxes")  # or s3://bucket/prefix, gs://, az://
    points = np.random.default_rng(0).normal(size=(6, 128, 3)).astype(np.float32)
    clouds = [Cloud(f"box/{number}", "box", each) for number, each in enumerate(points)]
    shard = write_clouds(store, shard_name(0), clouds)
    publish_manifest(store, [publish_part(store, shard)], kind="clouds")

    reader = CloudReader("boxes")
    plan = ReadPlan(reader.manifest.digest, reader.manifest.num_samples, 2, 0, "drop_last")
    samples_seen = 0
    while samples_seen < plan.samples_per_epoch:
        batch = plan.batch_at(samples_seen)
        for cloud in reader.stream(map(Request, batch.sample_index.tolist())):
            print(cloud.source_id, cloud.points.shape)
        samples_seen += batch.num_samples

Shapes with pictures: `write_shard` and `ShardReader`. `python -m shards verify DIR` tells whether
every byte of a set is as it was written. What is wrong with a set or its store is a ShardError.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.adapter import as_webdataset, plan_requests
    from shards.cache import CacheConfig
    from shards.cloud_sets import CloudReader, write_clouds
    from shards.clouds import Cloud
    from shards.column_sets import Column, load_columns, publish_columns, write_columns
    from shards.columns import shard_name
    from shards.errors import ShardError
    from shards.manifest import Manifest, load_manifest, load_part, publish_manifest, publish_part
    from shards.plan import ReadPlan
    from shards.reader import Request, ShardReader
    from shards.schema import Sample, SampleMeta
    from shards.store import open_store
    from shards.writer import write_shard

_HOME = {
    "adapter": ("as_webdataset", "plan_requests"),
    "cache": ("CacheConfig",),
    "cloud_sets": ("CloudReader", "write_clouds"),
    "clouds": ("Cloud",),
    "column_sets": ("Column", "load_columns", "publish_columns", "write_columns"),
    "columns": ("shard_name",),
    "errors": ("ShardError",),
    "manifest": ("Manifest", "load_manifest", "load_part", "publish_manifest", "publish_part"),
    "plan": ("ReadPlan",),
    "reader": ("Request", "ShardReader"),
    "schema": ("Sample", "SampleMeta"),
    "store": ("open_store",),
    "writer": ("write_shard",),
}
_HOME_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "CacheConfig",
    "Cloud",
    "CloudReader",
    "Column",
    "Manifest",
    "ReadPlan",
    "Request",
    "Sample",
    "SampleMeta",
    "ShardError",
    "ShardReader",
    "as_webdataset",
    "load_columns",
    "load_manifest",
    "load_part",
    "open_store",
    "plan_requests",
    "publish_columns",
    "publish_manifest",
    "publish_part",
    "shard_name",
    "write_clouds",
    "write_columns",
    "write_shard",
]


def __getattr__(name: str) -> object:
    """Load a public name from where it lives: whoever needs one file of ours loads no other."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'shards' has no attribute {name!r}")
    return getattr(import_module(f"shards.{_HOME_OF[name]}"), name)
