"""`picpoint data prepare NAME --from PATH --out DIR`: a data set of others as labelled shards."""

import argparse

from cluster.compose import ConfigError
from cluster.progress import ProgressLine
from picpoint.data.split import HoldoutConfig
from picpoint.datasets.prepare import open_source, prepare
from shards.describe import stats

_MAY_STAND_OTHERWISE = ("folder", "modelnet40_off", "modelnet10_off", "shapenetcore", "kicad")


def main(options: argparse.Namespace) -> int:
    """Prepare a data set and tell what it holds."""
    if options.up and options.name not in _MAY_STAND_OTHERWISE:
        raise ConfigError(
            f"--up={options.up}: {options.name} says itself which way is up; leave it out "
            f"(it is for {', '.join(_MAY_STAND_OTHERWISE)})"
        )
    holdout = HoldoutConfig(fold=options.fold, unit=options.holdout_unit)
    source = open_source(
        options.name, options.place, options.num_points, holdout, options.up, options.partial
    )
    with ProgressLine("data") as progress:
        manifest = prepare(
            source,
            options.out,
            options.partial,
            options.clouds_per_shard,
            lambda done: progress.show(f"{done} clouds"),
        )
    print(stats(manifest.url))
    print(f"source   {source.info.name}, {source.info.url or options.place}")
    return 0
