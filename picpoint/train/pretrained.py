"""Where does a task's point encoder begin? In an encoder's folder, on the Hub, or in a run."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from picpoint.model import PointEncoderConfig
from picpoint.train.checkpoint import CheckpointError
from picpoint.train.restore import load_named
from picpoint.weights.encoder_file import CONFIG_FILE, load_encoder

_PREFIX = "point_encoder."


@dataclass(frozen=True, slots=True)
class PretrainedEncoder:
    """Weights of a point encoder, and what it is.

    Attributes:
        place: where they came from.
        config: the encoder's shape.
        state: its tensors by name.
        sha256: over names and values, in hexadecimal.
    """

    place: str
    config: PointEncoderConfig
    state: dict[str, Tensor]
    sha256: str


def read_pretrained(place: str) -> PretrainedEncoder:
    """Read the weights of a pre-trained point encoder.

    Args:
        place: folder that `picpoint export` or `import-weights` wrote, or `owner/name` on the Hub;
            or a pre-training run: its folder, its folder of checkpoints or one step-*.pt.

    Raises:
        EncoderFileError: an encoder's folder is damaged, or the Hub has no such name.
        CheckpointError: a run holds no whole checkpoint.
    """
    is_local = Path(place).exists()
    if (Path(place) / CONFIG_FILE).exists() or ("://" not in place and not is_local):
        encoder = load_encoder(place)
        return _described(place, encoder.config, encoder.state_dict())
    checkpoint = load_named(place, f"weights={place}")
    state = {
        name.removeprefix(_PREFIX): value
        for name, value in checkpoint.state["model"].items()
        if name.startswith(_PREFIX)
    }
    return _described(place, encoder_config_of(checkpoint.settings, f"weights={place}"), state)


def encoder_config_of(settings: Mapping[str, Any], place: str) -> PointEncoderConfig:
    """Read the encoder's shape from the flat settings of its run.

    Raises:
        CheckpointError: this version knows no such encoder; the message begins with `place`.
    """
    told = {
        name.removeprefix(_PREFIX): value
        for name, value in settings.items()
        if name.startswith(_PREFIX)
    }
    try:
        return TypeAdapter(PointEncoderConfig).validate_python(told)
    except (ValidationError, ValueError) as error:
        raise CheckpointError(
            f"{place}: is of no point encoder that this version knows ({error}); export it "
            "with the version that trained it"
        ) from error


def _described(
    place: str, config: PointEncoderConfig, state: Mapping[str, Tensor]
) -> PretrainedEncoder:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].detach().cpu().contiguous().numpy().tobytes())
    return PretrainedEncoder(place, config, dict(state), digest.hexdigest())
