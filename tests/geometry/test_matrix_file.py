"""Files of matrices: what is right is read as it is, and each rule is named when it is broken."""

import json
from pathlib import Path

import numpy as np
import pytest

from picpoint.geometry.cameras import look_at_origin, orthographic, perspective
from picpoint.geometry.matrix_file import MatrixFile, parse_file, read_matrices

VIEWS = np.stack([look_at_origin(np.array(place, float)) for place in [(0, 1, 3), (3, 0, 1)]])
PROJECTIONS = np.stack([perspective(0.7, 1.5, 5.0), orthographic(1.2, 1.5, 5.0)])


def write(path: Path, views=VIEWS, projections=PROJECTIONS, **more) -> MatrixFile:
    arrays = {"view_matrices": views, "projection_matrices": projections, **more}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        path.write_text(json.dumps({name: np.asarray(a).tolist() for name, a in arrays.items()}))
    return parse_file(str(path))


def changed(array: np.ndarray, index, value) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


@pytest.mark.parametrize("name", ["rig.json", "rig.npz", "a@b.json"])
def test_matrices_are_read_as_they_were_written(tmp_path: Path, name: str):
    views, projections = read_matrices(write(tmp_path / name))
    np.testing.assert_array_equal(views, VIEWS.astype(np.float32))
    np.testing.assert_array_equal(projections, PROJECTIONS.astype(np.float32))


def test_a_path_with_a_digest_is_read_apart():
    assert parse_file("a/b@c.json@0123456789ab") == MatrixFile("a/b@c.json", "0123456789ab")


MIRROR = np.diag([-1.0, 1, 1, 1])
BROKEN = {
    "one matrix": ({"views": VIEWS[0], "projections": PROJECTIONS[0]}, r"must be \(V, 4, 4\)"),
    "no view": ({"views": VIEWS[:0], "projections": PROJECTIONS[:0]}, r"must be \(V, 4, 4\)"),
    "fewer projections": ({"projections": PROJECTIONS[:1]}, "2 view_matrices and 1 proj"),
    "another array": ({"eye": np.zeros(3)}, r"must be JSON or \.npz of the arrays"),
    "not finite": ({"views": changed(VIEWS, (1, 0, 3), np.nan)}, "view_matrices holds NaN"),
    "a scaled view": ({"views": VIEWS * [[2], [2], [2], [1]]}, "view 0: .*a rotation and a shift"),
    "a mirrored view": ({"views": MIRROR @ VIEWS}, "view 0: .*a rotation and a shift"),
    "a transposed view": ({"views": VIEWS.swapaxes(1, 2)}, "view 0: .*last row 0 0 0 1"),
    "a projection for row vectors": (
        {"projections": PROJECTIONS.swapaxes(1, 2)},
        "view 0: the last row of its projection",
    ),
    "a projection that looks along +z": (
        {"projections": changed(PROJECTIONS, (0, 3, 2), 1)},
        "view 0: the last row of its projection",
    ),
    "a mirrored picture": ({"projections": PROJECTIONS @ MIRROR}, "view 0: .*neither mirror"),
    "a camera in the sphere": (
        {"views": changed(VIEWS, (1, 2, 3), -0.9)},
        "view 1: the unit sphere must lie in front",
    ),
    "a camera that turns its back": (
        {"views": np.diag([-1.0, 1, -1, 1]) @ VIEWS},
        "view 0: the unit sphere must lie in front",
    ),
    "a camera that looks past": (
        {"views": changed(VIEWS, (1, 0, 3), 5.0)},
        "view 1: .*within 4 half pictures",
    ),
    "a picture of a detail": (
        {"projections": changed(PROJECTIONS, 1, orthographic(0.24, 1.5, 5.0))},
        "view 1: .*within 4 half pictures",
    ),
    "planes that cut the sphere": (
        {"projections": changed(PROJECTIONS, 0, perspective(0.7, 2.5, 5.0))},
        "view 0: the unit sphere must lie between",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_rule_is_named(tmp_path: Path, broken: str):
    arrays, told = BROKEN[broken]
    with pytest.raises(ValueError, match=told):
        read_matrices(write(tmp_path / "rig.npz", **arrays))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"PK\x03\x04", b'{"view_matrices": 1}', b"7"]
)
@pytest.mark.parametrize("name", ["rig.json", "rig.npz"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, name: str, content: bytes):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be JSON or \.npz"):
        read_matrices(parse_file(str(path)))


def test_a_ragged_array_and_one_of_objects_are_refused(tmp_path: Path):
    path = tmp_path / "rig.json"
    path.write_text('{"view_matrices": [[1], [1, 2]], "projection_matrices": []}')
    with pytest.raises(ValueError, match=r"must be JSON or \.npz"):
        read_matrices(parse_file(str(path)))
    pickled = tmp_path / "rig.npz"
    np.savez(pickled, view_matrices=np.array([None]), projection_matrices=PROJECTIONS)
    with pytest.raises(ValueError, match=r"must be JSON or \.npz"):
        read_matrices(parse_file(str(pickled)))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"nowhere\.json: cannot be read"):
        parse_file(str(tmp_path / "nowhere.json"))
