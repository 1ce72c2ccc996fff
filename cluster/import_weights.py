"""`picpoint import-weights`: a public checkpoint becomes an encoder of ours, tensor by tensor."""

from collections.abc import Sequence
from pathlib import Path

from cluster.compose import ConfigError, compose_config, load_job
from cluster.jobs.pretrain import PretrainJob
from picpoint.model import PointEncoderConfig, build_point_encoder
from picpoint.weights.encoder_file import save_encoder
from picpoint.weights.import_public import (
    ImportRefusedError,
    import_public,
    match_public,
    read_public,
    untold,
)
from picpoint.weights.table import format_lines


def main(source: str, out: str, overrides: Sequence[str], initialise: Sequence[str]) -> int:
    """Import a file, print what became of each tensor, and write the encoder.

    Args:
        source: the public checkpoint.
        out: the folder to write.
        overrides: `point_encoder=NAME` and `point_encoder.KEY=VALUE`.
        initialise: beginnings of names of ours that may keep their initial values.
    """
    config = point_encoder_config(overrides)
    state = read_public(Path(source))
    encoder = build_point_encoder(config, ghost_batch=1)
    try:
        lines = import_public(encoder, config, state, tuple(initialise))
    except ImportRefusedError:
        print(format_lines(match_public(encoder, config, state)))
        raise
    print(format_lines(lines))
    print(f"taken as given, for no tensor tells it: {untold(config)}")
    save_encoder(encoder, Path(out))
    print(f"written: {out}")
    return 0


def point_encoder_config(overrides: Sequence[str]) -> PointEncoderConfig:
    """Compose the shape of a point encoder as `picpoint pretrain` would.

    Raises:
        ConfigError: an override is wrong, or of something else.
    """
    for override in overrides:
        if not override.startswith(("point_encoder=", "point_encoder.")):
            raise ConfigError(
                f"{override}: only the point encoder's shape can be set here, as "
                "point_encoder=pointnext_s point_encoder.width=64"
            )
    config = compose_config("pretrain", ["out=none", "data.shards=none", *overrides])
    return load_job(PretrainJob, config).point_encoder
