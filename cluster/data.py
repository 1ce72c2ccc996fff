"""`picpoint data prepare NAME --from PATH --out DIR`: a data set of others as labelled shards."""

import argparse

from cluster.compose import ConfigError
from cluster.progress import ProgressLine
from picpoint.data.split import HoldoutConfig
from picpoint.datasets.prepare import open_source, prepare
from shards.describe import stats

_MESHES = ("folder", "modelnet40_off", "modelnet10_off", "shapenetcore", "sweethome3d", "kicad")
# Of which sets an option is; of others it would say nothing.
_SETS_OF = {
    "num_points": _MESHES,
    "up": ("folder", "modelnet40_off", "modelnet10_off", "shapenetcore", "kicad"),
    "fold": ("rendered", "sweethome3d", "kicad"),
    "holdout_unit": ("rendered",),
}
_NUM_POINTS = 2048


def main(options: argparse.Namespace) -> int:
    """Prepare a data set and tell what it holds.

    Raises:
        ConfigError: an option is not of this set, or its value cannot be.
    """
    _check(options)
    holdout = HoldoutConfig(fold=options.fold or 0, unit=options.holdout_unit or "shape")
    num_points = _NUM_POINTS if options.num_points is None else options.num_points
    source = open_source(
        options.name, options.place, num_points, holdout, options.up or "", options.partial
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
    if source.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(source.left_out.items()))
        print(f"left out {source.left_out.total()} files of other kinds: {kinds}")
    return 0


def _check(options: argparse.Namespace) -> None:
    for name, sets in _SETS_OF.items():
        if (value := getattr(options, name)) is not None and options.name not in sets:
            raise ConfigError(
                f"--{name.replace('_', '-')} {value}: {options.name} takes none; leave it out "
                f"(it is for {', '.join(sets)})"
            )
    for name in ("num_points", "clouds_per_shard"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least 1")
