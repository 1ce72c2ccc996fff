"""How does a public checkpoint of DGCNN or PointNeXt become an encoder of ours? Tensor by tensor.

Every tensor of the file and every one of the encoder is accounted for: used, initialised anew
because the file does not have it, left over because it is known to be of no use here, or refused.
Only tensors are read from a file; nothing in it is run.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.image_weights import why_unread
from picpoint.encoders.pointnext import PointNextConfig
from picpoint.weights.public_names import public_names
from picpoint.weights.table import Line

# Where the public code wraps a state: its trainers save it under a name, its parallel wrappers and
# its tasks put a name before each key.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "base_model")
_PREFIX = re.compile(r"^(module\.)?")
# What a file may hold beyond the encoder, and why that is no fault.
_KNOWN = {
    re.compile(r"\.?num_batches_tracked$"): "a count of steps",
    re.compile(r"^bn\d+\."): "a BatchNorm that its block holds too, or the classifier's",
    re.compile(r"^(linear\d+|prediction)\."): "the public classifier; heads are trained anew",
    re.compile(r"^inv_head\."): "CrossPoint's projection head; heads are trained anew",
    re.compile(r"^(decoder|head\.head)\."): "the public segmenter's; heads are trained anew",
}


class ImportRefusedError(ValueError):
    """A file does not hold the weights of the encoder; the message says what differs."""


def read_public(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a public checkpoint, named as their encoder and head name them.

    Raises:
        ImportRefusedError: the file cannot be read without running what is in it, or holds no
            tensors.
        OSError: it cannot be read at all.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of any kind: a page or a pointer is no pickle at all
        raise ImportRefusedError(
            f"{path}: holds more than tensors, or is damaged ({why_unread(error)}); save its state "
            "dict alone with torch.save, in the code that it came from, and import that"
        ) from error
    if isinstance(content, Mapping):
        wrapped = [content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
        content = wrapped[0] if wrapped else content
    if not isinstance(content, Mapping) or not any(isinstance(x, Tensor) for x in content.values()):
        raise ImportRefusedError(f"{path}: holds no state dict; export one and import that")
    return {
        _PREFIX.sub("", str(name)): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }


def match_public(
    encoder: nn.Module, config: DgcnnConfig | PointNextConfig, state: Mapping[str, Tensor]
) -> list[Line]:
    """Say what becomes of each tensor of the file and of the encoder, without changing it."""
    state = _without_task(state)
    names = public_names(config)
    lines = [
        _match(ours, value, names[ours], state) for ours, value in encoder.state_dict().items()
    ]
    used = set(names.values())
    lines += [_explain(name, value) for name, value in state.items() if name not in used]
    return lines


def import_public(
    encoder: nn.Module,
    config: DgcnnConfig | PointNextConfig,
    state: Mapping[str, Tensor],
    initialise: tuple[str, ...] = (),
) -> list[Line]:
    """Copy a public checkpoint's tensors into an encoder.

    Args:
        encoder: what `config` describes; unchanged if the file is refused.
        config: its shape.
        state: what `read_public` gave.
        initialise: beginnings of names of ours that may keep their initial values where the file
            lacks them or has another shape.

    Returns:
        What became of every tensor.

    Raises:
        ImportRefusedError: a tensor is missing, has another shape or is of unknown use.
    """
    _refuse_dgcnn_segmenter(config, state)
    lines = [
        Line("initialised", line.ours, line.theirs, line.note)
        if line.fate == "refused" and line.ours and line.ours.startswith(initialise)
        else line
        for line in match_public(encoder, config, state)
    ]
    refused = [line for line in lines if line.fate == "refused"]
    if refused:
        first = refused[0]
        raise ImportRefusedError(
            f"{len(refused)} of {len(lines)} tensors do not fit {config.name}, as "
            f"{first.ours or first.theirs}: {first.note}; state the shape that the file has "
            f"(point_encoder=..., point_encoder.KEY=...), or name what may be initialised anew"
        )
    source = _without_task(state)
    own = encoder.state_dict()
    for line in lines:
        if line.fate == "used":
            own[line.ours].copy_(source[line.theirs].reshape(own[line.ours].shape))
    return lines


def untold(config: DgcnnConfig | PointNextConfig) -> str:
    """Name what no tensor of a file can contradict, as it is in the config: `KEY=VALUE, ...`."""
    match config:
        case DgcnnConfig():
            names = ("num_neighbours",)
        case PointNextConfig():
            names = ("strides", "radius", "radius_scaling", "num_neighbours")
    return ", ".join(f"point_encoder.{name}={getattr(config, name)}" for name in names)


def _refuse_dgcnn_segmenter(
    config: DgcnnConfig | PointNextConfig, state: Mapping[str, Tensor]
) -> None:
    """Refuse DGCNN for parts or scenes: it has names of the encoder for layers of another kind.

    Raises:
        ImportRefusedError: the file has more convolutions than the encoder.
    """
    if isinstance(config, DgcnnConfig) and f"conv{len(config.widths) + 2}.0.weight" in state:
        raise ImportRefusedError(
            "the file holds DGCNN's segmentation network, whose layers are others than the "
            "encoder's, so that none carries over; import a classification network's file"
        )


def _without_task(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the `encoder.` that openpoints' tasks put before their encoder's `encoder.0...`."""
    doubled = any(name.startswith("encoder.encoder.") for name in state)
    return {
        name.removeprefix("encoder.") if doubled else name: value for name, value in state.items()
    }


def _match(ours: str, value: Tensor, theirs: str, state: Mapping[str, Tensor]) -> Line:
    """Say whether the file has a tensor of ours."""
    if theirs not in state:
        return Line("refused", ours, theirs, "not in the file")
    shape = tuple(state[theirs].shape)
    bare = shape[: value.ndim]
    if bare != tuple(value.shape) or any(size != 1 for size in shape[value.ndim :]):
        return Line("refused", ours, theirs, f"{shape} in the file, {tuple(value.shape)} here")
    if not bool(torch.isfinite(state[theirs]).all()):
        return Line("refused", ours, theirs, "not finite")
    return Line("used", ours, theirs, str(tuple(value.shape)))


def _explain(name: str, value: Tensor) -> Line:
    """Say why a tensor of the file is not used."""
    for pattern, reason in _KNOWN.items():
        if pattern.search(name):
            return Line("left over", "", name, reason)
    return Line("refused", "", name, f"{tuple(value.shape)}, of unknown use")
