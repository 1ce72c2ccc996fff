"""The contact sheet of `shards` draws points where picpoint's own cameras put them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from picpoint.geometry.cameras import world_to_pixel
from shards.__main__ import main
from shards.codec import decode_picture
from shards.reader import Request, ShardReader
from shards.sheet import draw_points, project


def test_points_are_drawn_where_the_cameras_put_them(shard_set: Path) -> None:
    sample = ShardReader(shard_set).read(Request(4, (0, 7, 19)))
    assert sample is not None
    for view in (0, 7, 19):
        u_px, v_px, _ = world_to_pixel(
            sample.points[None].astype(np.float32),
            sample.view_matrices[view][None],
            sample.projection_matrices[view][None],
            sample.meta.size_px,
        )
        pixels, inside = project(sample, view)
        assert inside.all()
        # float32 in another order of operations
        np.testing.assert_allclose(pixels, np.stack([u_px[0], v_px[0]], -1), atol=1e-3)


def test_only_points_that_are_seen_are_drawn_and_nothing_else_changes(shard_set: Path) -> None:
    sample = ShardReader(shard_set).read(Request(4, (7,)))
    assert sample is not None
    picture = decode_picture(sample.pictures[7])
    changed = (draw_points(picture, sample, 7) != picture).any(axis=2)
    column, row = project(sample, 7)[0][sample.visible(7)].astype(int).T
    expected = np.zeros_like(changed)
    expected[row, column] = True
    assert changed.sum() > 30
    assert not (changed & ~expected).any()


def test_inspect_writes_a_sheet(shard_set: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "sheet.png"
    assert main(["inspect", str(shard_set), "--sheet", str(path)]) == 0
    assert f"written: {path}" in capsys.readouterr().out
    # 12 of the 18 samples, 4 views of 64 px each, each twice; 4 px between
    assert _size(path) == (8 * 64 + 7 * 4, 12 * 64 + 11 * 4)
    assert main(["inspect", str(shard_set), "--key", "rod/3", "--sheet", str(path)]) == 0
    assert _size(path) == (8 * 64 + 7 * 4, 64)


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize("target", ["nowhere/sheet.png", "."])
def test_a_sheet_that_cannot_be_written_is_told_in_a_line(
    shard_set: Path, tmp_path: Path, target: str, capsys
) -> None:
    assert main(["inspect", str(shard_set), "--sheet", str(tmp_path / target)]) == 5
    assert "cannot write" in capsys.readouterr().err
