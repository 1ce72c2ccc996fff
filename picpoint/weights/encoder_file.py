"""How is a point encoder kept? As a folder in the layout of the Hugging Face Hub, nothing to run.

config.json          its shape
model.safetensors    its tensors
README.md            its model card, where it was exported; see card.py
"""

import dataclasses
import json
import re
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from picpoint.encoders.dgcnn import Dgcnn
from picpoint.encoders.pointnext import PointNext
from picpoint.model import PointEncoderConfig, build_point_encoder
from picpoint.optional import import_optional
from picpoint.publish import publish_bytes, publish_text

FORMAT = "picpoint point encoder 2"
CONFIG_FILE, TENSORS_FILE = "config.json", "model.safetensors"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class EncoderFileError(ValueError):
    """A folder or a name holds no point encoder; the message says what is wrong."""


def save_encoder(encoder: Dgcnn | PointNext, folder: Path) -> None:
    """Write an encoder into a folder; its config comes last, and without it nothing is loaded."""
    state = {name: value.contiguous() for name, value in encoder.state_dict().items()}
    config = {"format": FORMAT, "point_encoder": dataclasses.asdict(encoder.config)}
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    publish_bytes(save(state, metadata={"format": "pt"}), folder / TENSORS_FILE)
    publish_text(json.dumps(config, indent=1) + "\n", folder / CONFIG_FILE)


def load_encoder(
    name_or_path: str | Path, *, revision: str | None = None, ghost_batch: int = 32
) -> Dgcnn | PointNext:
    """Load a point encoder, in evaluation mode and on the CPU.

    Args:
        name_or_path: a folder that `picpoint export` or `import-weights` wrote, or the name of a
            repository on the Hugging Face Hub, `owner/name`.
        revision: branch, tag or commit of that repository.
        ghost_batch: clouds that share BatchNorm statistics, if it is trained further.

    Returns:
        What maps points (B, N, 3) to `PointFeatures`. Points lie in the unit sphere, y up, in
        farthest-point order (or with `sampling="farthest"` in any; see PointNextConfig).

    Raises:
        EncoderFileError: there is no encoder, or a damaged one, or one of another version.
        MissingPackageError: a name of the Hub, and huggingface_hub is not installed.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = _from_hub(str(name_or_path), revision)
    config = _read_config(folder / CONFIG_FILE)
    encoder = build_point_encoder(config, ghost_batch)
    path = folder / TENSORS_FILE
    try:
        state = load(path.read_bytes())
        encoder.load_state_dict(state)
    except FileNotFoundError as error:
        raise EncoderFileError(f"{path}: not there; export the encoder again") from error
    except SafetensorError as error:
        raise EncoderFileError(f"{path}: damaged ({error}); export the encoder again") from error
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise EncoderFileError(f"{path}: does not fit {folder / CONFIG_FILE}; {first}") from error
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise EncoderFileError(f"{path}: {name} is not finite; export another checkpoint")
    return encoder.eval()


def _read_config(path: Path) -> PointEncoderConfig:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EncoderFileError(
            f"{path}: not there; give a folder that picpoint export or import-weights wrote"
        ) from error
    except ValueError as error:
        raise EncoderFileError(f"{path}: no JSON ({error}); export the encoder again") from error
    found = told.get("format") if isinstance(told, dict) else None
    if found != FORMAT:
        raise EncoderFileError(
            f"{path}: format is {found!r}, this version reads {FORMAT!r}; export the encoder again"
        )
    try:
        return TypeAdapter(PointEncoderConfig).validate_python(told.get("point_encoder"))
    except (ValidationError, ValueError) as error:
        raise EncoderFileError(f"{path}: no shape of an encoder; {error}") from error


def _from_hub(name: str, revision: str | None) -> Path:
    """Fetch the two files of a repository, or find them in the Hub's cache."""
    if not _HUB_NAME.fullmatch(name):
        raise EncoderFileError(f"{name}: no such folder, and no name on the Hub (owner/name)")
    hub = import_optional("huggingface_hub", "hub", f"{name}: no such folder; the Hub")
    try:
        wanted = [CONFIG_FILE, TENSORS_FILE]
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # what the Hub's client raises of network and names
        reason = str(error).strip().splitlines()[0]
        raise EncoderFileError(
            f"{name}: no such folder, and not to be had from the Hub ({reason})"
        ) from error
