"""Which matrices of cameras does a file hold, and can they be used?

A file is JSON or .npz and holds two arrays, view_matrices and projection_matrices, (V, 4, 4) each,
in the convention of cameras.py. Cameras do best some 3 units from the origin, as ours are: what
visibility allows for is a share of the depth.
"""

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32

_ARRAYS = ("projection_matrices", "view_matrices")
# How far the unit sphere may reach, in half pictures from the middle: what the renderer can hold.
_MAX_REACH_NDC = 4.0
# By how much rows and columns of a rotation may fail to be unit vectors at right angles.
_ROTATION_TOLERANCE = 1e-4
_DIGEST_DIGITS = 12
_WITH_DIGEST = re.compile(rf"(.+)@([0-9a-f]{{{_DIGEST_DIGITS}}})")


@dataclass(frozen=True, slots=True)
class MatrixFile:
    """Matrices that a file holds.

    Attributes:
        path: of the file; `.npz`, or else JSON.
        digest: first hexadecimal digits of the SHA-256 of its content.
    """

    path: str
    digest: str


def parse_file(text: str) -> MatrixFile:
    """Read PATH@DIGEST, or PATH alone, which is given the digest of its present content.

    Raises:
        ValueError: the file cannot be read.
    """
    if match := _WITH_DIGEST.fullmatch(text):
        return MatrixFile(match[1], match[2])
    return MatrixFile(text, _digest(_read(text)))


def read_matrices(
    file: MatrixFile,
) -> tuple[Float32[np.ndarray, "V 4 4"], Float32[np.ndarray, "V 4 4"]]:
    """Read the view and the projection matrices of a file, and make sure that they can be used.

    Raises:
        ValueError: the file cannot be read, has changed since its digest was taken, or holds
            something else.
    """
    content = _read(file.path)
    if _digest(content) != file.digest:
        raise ValueError(
            f"{file.path}: its content is {_digest(content)}, not {file.digest}; set it back, or "
            "render into another folder"
        )
    arrays = _parse_arrays(content, file.path)
    for name, array in arrays.items():
        if array.ndim != 3 or array.shape[1:] != (4, 4) or not len(array):
            raise ValueError(f"{file.path}: {name} is {array.shape}; it must be (V, 4, 4)")
        if not np.isfinite(array).all():
            raise ValueError(f"{file.path}: {name} holds NaN or infinity; write finite numbers")
    views, projections = arrays["view_matrices"], arrays["projection_matrices"]
    if len(views) != len(projections):
        raise ValueError(
            f"{file.path}: {len(views)} view_matrices and {len(projections)} projection_matrices; "
            "give one of each per view"
        )
    _check_matrices(file.path, views.astype(np.float64), projections.astype(np.float64))
    return views, projections


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"rig file:{path}: cannot be read ({error.strerror}); check it") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGEST_DIGITS]


def _parse_arrays(content: bytes, path: str) -> dict[str, Float32[np.ndarray, "..."]]:
    try:
        if path.endswith(".npz"):
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                found = {name: stored[name] for name in stored.files}
        else:
            found = dict(json.loads(content))
        if sorted(found) != list(_ARRAYS):
            raise ValueError(f"it holds {sorted(found)}")
        return {name: np.asarray(found[name], np.float32) for name in _ARRAYS}
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: must be JSON or .npz of the arrays {' and '.join(_ARRAYS)} ({error}); "
            "write it again"
        ) from error


def _check_matrices(
    path: str, views: Float[np.ndarray, "V 4 4"], projections: Float[np.ndarray, "V 4 4"]
) -> None:
    """Refuse matrices that break the convention of cameras.py, or that lose the unit sphere."""
    rotation, clip = views[:, :3, :3], projections @ views
    off = np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max(axis=(1, 2))
    is_rigid = (off < _ROTATION_TOLERANCE) & (np.linalg.det(rotation) > 0)
    ends = projections[:, 3]
    rules = (
        (
            is_rigid & (views[:, 3] == [0, 0, 0, 1]).all(axis=1),
            "its view matrix must be a rotation and a shift, for column vectors: no scale, no "
            "mirror, and last row 0 0 0 1",
        ),
        (
            (ends == [0, 0, -1, 0]).all(axis=1) | (ends == [0, 0, 0, 1]).all(axis=1),
            "the last row of its projection matrix must be 0 0 -1 0 (perspective) or 0 0 0 1 "
            "(orthographic)",
        ),
        (
            (projections[:, 0, 0] > 0) & (projections[:, 1, 1] > 0),
            "its projection must neither mirror nor turn the picture: [0][0] and [1][1] above 0",
        ),
        (_holds_sphere(-views[:, 2]), "the unit sphere must lie in front of it: step back"),
        (
            _is_within(clip, 0, _MAX_REACH_NDC) & _is_within(clip, 1, _MAX_REACH_NDC),
            f"the unit sphere must stay within {_MAX_REACH_NDC:g} half pictures of its middle: "
            "look at the origin, or step back",
        ),
        (
            _is_within(clip, 2, 1.0),
            "the unit sphere must lie between its near and far planes",
        ),
    )
    for holds, rule in rules:
        if not holds.all():
            raise ValueError(f"{path}: view {int(np.argmin(holds))}: {rule}")


def _is_within(clip: Float[np.ndarray, "V 4 4"], axis: int, limit: float) -> Bool[np.ndarray, " V"]:
    """Tell whether |ndc| stays below a limit all over the unit sphere."""
    below, above = limit * clip[:, 3] - clip[:, axis], limit * clip[:, 3] + clip[:, axis]
    return _holds_sphere(below) & _holds_sphere(above)


def _holds_sphere(planes: Float[np.ndarray, "V 4"]) -> Bool[np.ndarray, " V"]:
    """Tell whether a plane's positive side holds the unit sphere whole."""
    return planes[:, 3] > np.linalg.norm(planes[:, :3], axis=1)
