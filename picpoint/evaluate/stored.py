"""How are encoded shapes kept for the report? One .npz of plain arrays, without pickle."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from picpoint.evaluate.encode import EncodedPair
from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.results import ResultsError
from picpoint.publish import publish_bytes

# Fields that both encoders share, and those that each has of its own.
_SHARED = ("labels", "held_out")
_OWN = ("features", "shape_embeddings", "picture_embeddings")


def save_encoded(pair: EncodedPair, path: Path) -> None:
    """Write what both encoders say of the shapes; whole or not at all."""
    arrays: dict[str, np.ndarray] = {
        "keys": np.array(pair.pretrained.keys, dtype=np.str_),
        "class_names": np.array(pair.pretrained.class_names, dtype=np.str_),
    }
    arrays |= {name: getattr(pair.pretrained, name) for name in _SHARED}
    for encoder, shapes in (("pretrained", pair.pretrained), ("random_init", pair.random_init)):
        arrays |= {f"{encoder}_{name}": getattr(shapes, name) for name in _OWN}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    publish_bytes(buffer.getvalue(), path)


def load_encoded(path: Path) -> EncodedPair:
    """Read what `save_encoded` wrote.

    Raises:
        ResultsError: the file is missing or broken.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return EncodedPair(_shapes(arrays, "pretrained"), _shapes(arrays, "random_init"))
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: missing; run picpoint evaluate") from error
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ResultsError(f"{path}: broken ({error}); run picpoint evaluate again") from error


def _shapes(arrays: Mapping[str, np.ndarray], encoder: str) -> EncodedShapes:
    return EncodedShapes(
        keys=tuple(arrays["keys"].tolist()),
        class_names=tuple(arrays["class_names"].tolist()),
        **{name: arrays[name] for name in _SHARED},
        **{name: arrays[f"{encoder}_{name}"] for name in _OWN},
    )
