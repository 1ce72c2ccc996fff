"""How are encoded shapes kept for the report? One .npz of plain arrays, without pickle."""

import os
from pathlib import Path

import numpy as np

from picpoint.evaluate.encode import EncodedPair
from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.results import ResultsError

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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(temporary, allow_pickle=False, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_encoded(path: Path) -> EncodedPair:
    """Read what `save_encoded` wrote.

    Raises:
        ResultsError: the file is missing or broken.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: missing; run picpoint evaluate") from error
    except ValueError as error:
        raise ResultsError(f"{path}: broken ({error}); run picpoint evaluate again") from error

    def shapes(encoder: str) -> EncodedShapes:
        return EncodedShapes(
            keys=tuple(arrays["keys"].tolist()),
            class_names=tuple(arrays["class_names"].tolist()),
            **{name: arrays[name] for name in _SHARED},
            **{name: arrays[f"{encoder}_{name}"] for name in _OWN},
        )

    return EncodedPair(pretrained=shapes("pretrained"), random_init=shapes("random_init"))
