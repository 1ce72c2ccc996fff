"""Whole rooms become voxels piece by piece, and every raw point is counted."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest

from picpoint.data.split import HoldoutConfig
from picpoint.datasets import s3dis, s3dis_text
from picpoint.datasets.prepare import open_source, prepare
from picpoint.datasets.source import BrokenDataError, MissingDataError
from picpoint.datasets.voxels import gather_voxels
from shards.cloud_sets import CloudReader
from shards.clouds import LABEL_COUNTS, Cloud
from shards.member_reader import Request
from shards.schema import COLORS


def read(folder: Path) -> dict[str, Cloud]:
    source = open_source("s3dis_rooms", str(folder), 64, HoldoutConfig())
    return {cloud.source_id: cloud for cloud in source.read()}


def test_voxels_are_means_and_counts_of_their_points() -> None:
    rows = np.array(
        [
            [0.1, 0.2, 0.3, 10, 20, 30, 1],
            [0.3, 0.2, 0.1, 20, 40, 60, 1],
            [0.2, 0.2, 0.2, 30, 60, 90, 0],
            [-0.1, 0.2, 0.3, 1, 2, 3, 2],  # on the other side of the voxels' common face
            [0.1, 0.2, 0.5, 4, 5, 6, 0],
        ]
    )
    # In order of x, then y, then z; pieces of any size give the same.
    for size in (1, 2, 5):
        pieces = (rows[start : start + size] for start in range(0, 5, size))
        voxels = gather_voxels(pieces, 0.5, 3)
        np.testing.assert_allclose(
            voxels.positions, [[-0.1, 0.2, 0.3], [0.2, 0.2, 0.2], [0.1, 0.2, 0.5]]
        )
        np.testing.assert_allclose(voxels.colors, [[1, 2, 3], [20, 40, 60], [4, 5, 6]])
        np.testing.assert_array_equal(voxels.label_counts, [[0, 0, 1], [1, 2, 0], [1, 0, 0]])


def test_a_point_too_far_for_the_numbers_of_voxels_is_refused() -> None:
    with pytest.raises(ValueError, match="60000 from the origin"):
        gather_voxels([np.array([[60_000.0, 0, 0, 0, 0, 0, 0]])], 0.05, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 0, 0, 1, 1, 1, 3], "whole numbers from 0 to 2"),
        ([0, 0, 0, 1, 1, 1, -1], "whole numbers from 0 to 2"),
        ([0, 0, 0, 1, 1, 1, 0.5], "whole numbers from 0 to 2"),
        ([0, np.nan, 0, 1, 1, 1, 0], "nan from the origin"),
    ],
)
def test_what_is_in_no_voxel_or_has_no_label_is_refused(row: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gather_voxels([np.array([[0.0, 0, 0, 1, 1, 1, 2], row])], 0.05, 3)


def test_a_piece_without_points_adds_none() -> None:
    pieces = iter([np.zeros((0, 7)), np.ones((1, 7)), np.zeros((0, 7))])
    voxels = gather_voxels(pieces, 0.05, 3)
    np.testing.assert_array_equal(voxels.label_counts, [[0, 1, 0]])


def test_rooms_are_named_turned_and_hold_every_point(tmp_path: Path) -> None:
    rooms = layouts.write_s3dis_rooms(tmp_path)
    clouds = read(tmp_path)
    assert set(clouds) == {"Area_1/office_1", "Area_1/WC_2", "Area_5/hallway_6"}
    cloud, rows = clouds["Area_5/hallway_6"], rooms["Area_5_hallway_6"]
    counted = cloud.label_counts.sum(axis=0)
    np.testing.assert_array_equal(counted, np.bincount(rows[:, 6].astype(int), minlength=13))
    np.testing.assert_array_equal(cloud.point_labels, cloud.label_counts.argmax(axis=1))
    # z is up in the file, and y here.
    weights = cloud.label_counts.sum(axis=1) / len(rows)
    mean = rows[:, :3].mean(axis=0)
    np.testing.assert_allclose(weights @ cloud.points, mean[[0, 2, 1]] * [1, 1, -1], rtol=1e-5)
    low, high = cloud.points.min(axis=0), cloud.points.max(axis=0)
    shares = (cloud.points - low) / (high - low)
    shares[:, 2] = 1 - shares[:, 2]
    np.testing.assert_allclose(cloud.places, shares, atol=1e-5)


def test_pieces_of_a_room_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.write_s3dis_rooms(tmp_path)
    whole = read(tmp_path)["Area_1/WC_2"]
    monkeypatch.setattr(s3dis, "_PIECE_ROWS", 7)
    pieces = read(tmp_path)["Area_1/WC_2"]
    np.testing.assert_allclose(pieces.points, whole.points, rtol=1e-6)
    np.testing.assert_array_equal(pieces.label_counts, whole.label_counts)


def test_rooms_in_shards_are_the_rooms(tmp_path: Path) -> None:
    layouts.write_s3dis_rooms(tmp_path)
    source = open_source("s3dis_rooms", str(tmp_path), 64, HoldoutConfig())
    manifest = prepare(source, str(tmp_path / "out"), partial=True)
    reader = CloudReader(manifest, members=(COLORS, LABEL_COUNTS))
    stored = [reader.read(Request(row)) for row in range(3)]
    for cloud in stored:
        assert cloud is not None
        room = read(tmp_path)[cloud.source_id]
        np.testing.assert_array_equal(cloud.label_counts, room.label_counts)
        np.testing.assert_array_equal(cloud.colors, room.colors)
    with pytest.raises(BrokenDataError, match="published are 272 of all splits"):
        prepare(source, str(tmp_path / "other"), partial=False)


def change(column: int, row: int, value: float) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        rows = np.load(path)
        rows[row, column] = value
        np.save(path, rows)

    return do


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (change(1, 1234, np.nan), "NaN or infinity in row 1234"),
        (change(6, 0, 13), "labels from 0 to 13"),
        (change(6, 0, 2.5), "whole numbers from 0 to 12"),
        (change(3, 0, 256), "colours from 0 to 256"),
        (change(0, 0, 20_000), "positions as far as 20000"),
        (lambda path: np.save(path, np.load(path)[:, :6]), r"\(2000, 6\)"),
        (lambda path: np.save(path, np.load(path)[:0]), r"\(0, 7\)"),
        (lambda path: np.save(path, np.load(path).astype(object)), "no whole array"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "no whole array"),
        (lambda path: path.write_bytes(b""), "no whole array"),
    ],
)
def test_broken_rooms_are_told(
    tmp_path: Path, breaking: Callable[[Path], None], message: str
) -> None:
    layouts.write_s3dis_rooms(tmp_path)
    path = tmp_path / "stanford_indoor3d" / "Area_5_hallway_6.npy"
    breaking(path)
    with pytest.raises(BrokenDataError, match=message) as error:
        read(tmp_path)
    assert str(path) in str(error.value)


def test_a_folder_without_rooms_says_what_is_wanted(tmp_path: Path) -> None:
    np.save(tmp_path / "Area_7_office_1.npy", np.zeros((1, 7)))
    with pytest.raises(MissingDataError, match=r"no rooms such as Area_1_office_3\.npy"):
        read(tmp_path)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rooms = layouts.write_s3dis_rooms(tmp_path / "random")
    return layouts.write_s3dis_text(tmp_path / "texts", rooms)


@pytest.mark.parametrize("piece_bytes", [1 << 20, 1000, 7])
def test_text_files_are_read_as_the_arrays_that_others_make_of_them(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(s3dis_text, "_PIECE_BYTES", piece_bytes)
    (tmp_path / "arrays").mkdir()
    for room in layouts.S3DIS_ROOMS:
        rows = [
            np.insert(np.loadtxt(path), 6, s3dis.THINGS.index(path.stem[:-2]), axis=1)
            for path in (texts / room[:6] / room[7:] / "Annotations").glob("*.txt")
        ]
        whole = np.concatenate(rows) - [*np.concatenate(rows)[:, :3].min(axis=0), 0, 0, 0, 0]
        np.save(tmp_path / "arrays" / f"{room}.npy", whole)
    arrays = read(tmp_path / "arrays")
    for folder in (texts, texts.parent):
        clouds = read(folder)
        assert (
            list(clouds) == list(arrays) == ["Area_1/WC_2", "Area_1/office_1", "Area_5/hallway_6"]
        )
        for source_id, cloud in clouds.items():
            array = arrays[source_id]
            np.testing.assert_allclose(cloud.points, array.points, atol=1e-6)
            np.testing.assert_array_equal(cloud.colors, array.colors)
            np.testing.assert_array_equal(cloud.label_counts, array.label_counts)


def test_the_flaws_of_the_text_files_change_nothing(texts: Path) -> None:
    whole = read(texts)["Area_5/hallway_6"]
    things = texts / "Area_5" / "hallway_6" / "Annotations"
    shutil.copy(things / "wall_2.txt", things / "wall_2 (1).txt")
    (things / "clutter_2.txt").rename(things / "stairs_1.txt")
    path = things / "ceiling_1.txt"
    head, _, tail = path.read_bytes().rpartition(b" ")
    path.write_bytes(b"\n  " + head.replace(b"\n", b" \r\n") + b"\x10" + tail.rstrip())
    mended = read(texts)["Area_5/hallway_6"]
    np.testing.assert_array_equal(mended.points, whole.points)
    np.testing.assert_array_equal(mended.label_counts, whole.label_counts)


def test_a_copy_of_other_points_is_a_thing_of_its_own(texts: Path) -> None:
    whole = read(texts)["Area_5/hallway_6"].label_counts.sum(axis=0)
    things = texts / "Area_5" / "hallway_6" / "Annotations"
    text = (things / "wall_2.txt").read_text()
    (things / "wall_2 (1).txt").write_text(text + text.splitlines()[0])
    more = read(texts)["Area_5/hallway_6"].label_counts.sum(axis=0)
    added = np.zeros(13)
    added[s3dis.THINGS.index("wall")] = text.count("\n") + 1
    np.testing.assert_array_equal(more - whole, added)


def test_of_two_versions_the_aligned_one_is_read(texts: Path) -> None:
    turned = texts.parent / "Stanford3dDataset_v1.2" / "Area_1" / "office_9" / "Annotations"
    turned.mkdir(parents=True)
    (turned / "chair_1.txt").write_text("1 2 3 4 5 6\n")
    assert list(read(texts.parent)) == list(read(texts))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("chair_1.txt", b"1 2 3 4 5 6\n1 2 3 4 5\n", "Expected 6 columns, got 5"),
        ("chair_1.txt", b"1 2 3 4 5 6\n1 2 3 4 5 6 7\n", "Expected 6 columns, got 7"),
        ("chair_1.txt", b"1 2 3 4 5 6\n1 2 x 4 5 6\n", "conversion error to double"),
        ("chair_1.txt", b"1 2 3 4 5 6\n1 2 nan 4 5 6\n", "NaN or infinity in point 1"),
        ("chair_1.txt", b"1 2 3 4 5 6\n1 2 3 4 5 256\n", "colours from 4 to 256"),
        ("chair_1.txt", b" \n", "no points"),
        ("lamp_1.txt", b"1 2 3 4 5 6\n", "is of none of ceiling, .*, clutter, stairs"),
        ("chair (1).txt", b"1 2 3 4 5 6\n", "should be named like"),
    ],
)
def test_broken_text_files_are_told(texts: Path, name: str, content: bytes, message: str) -> None:
    path = texts / "Area_5" / "hallway_6" / "Annotations" / name
    path.write_bytes(content)
    with pytest.raises(BrokenDataError, match=message) as error:
        read(texts)
    assert str(path if "256" not in message else path.parent) in str(error.value)


def test_a_room_without_things_is_told(texts: Path) -> None:
    for path in (texts / "Area_1" / "WC_2" / "Annotations").glob("*.txt"):
        path.unlink()
    with pytest.raises(BrokenDataError, match="WC_2/Annotations: no text files"):
        read(texts)


@pytest.mark.slow
def test_the_memory_of_a_huge_room_is_that_of_its_voxels() -> None:
    """Of 12 million points, in a process of its own, whose peak is this room's."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.huge_room", "--quick"],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["num_points"] == 12_000_000
    assert told["num_voxels"] < 200_000
    assert told["peak_growth_mb"] < told["file_mb"] / 2
