"""How is one encoder kept in a file? Its shape and its tensors, nothing to run."""

import dataclasses
import io
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from picpoint.encoders.dgcnn import Dgcnn
from picpoint.encoders.pointnext import PointNext
from picpoint.model import PointEncoderConfig, build_point_encoder
from picpoint.publish import publish_bytes

FORMAT = "picpoint point encoder 1"


class EncoderFileError(ValueError):
    """A file holds no point encoder; the message says what it holds."""


def save_encoder(encoder: Dgcnn | PointNext, path: Path) -> None:
    """Write an encoder to a file, whole or not at all."""
    content = {
        "format": FORMAT,
        "config": dataclasses.asdict(encoder.config),
        "state": encoder.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    publish_bytes(buffer.getvalue(), path)


def load_encoder(path: Path, ghost_batch: int = 32) -> Dgcnn | PointNext:
    """Read an encoder that `save_encoder` wrote.

    Raises:
        EncoderFileError: the file holds something else.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EncoderFileError(f"{path}: no {FORMAT!r}; write one with picpoint import-weights")
    try:
        config = TypeAdapter(PointEncoderConfig).validate_python(content["config"])
    except ValidationError as error:
        raise EncoderFileError(f"{path}: its shape is not one of ours; {error}") from error
    encoder = build_point_encoder(config, ghost_batch)
    encoder.load_state_dict(content["state"])
    return encoder
