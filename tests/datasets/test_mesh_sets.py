"""Sets of meshes become labelled clouds: each layout as it is on disk, upright, splits apart."""

import logging
from collections import Counter
from pathlib import Path

import mesh_layouts
import numpy as np
import pytest

from cluster.app import main
from picpoint.data.split import HoldoutConfig, series_of
from picpoint.datasets.names import DatasetName
from picpoint.datasets.prepare import open_source, prepare
from picpoint.datasets.source import BrokenDataError, MissingDataError
from shards.clouds import Cloud


def read(name: DatasetName, folder: Path, **changes: object) -> dict[str, Cloud]:
    source = open_source(name, str(folder), 200, HoldoutConfig(), **changes)  # pyright: ignore
    return {cloud.source_id: cloud for cloud in source.read()}


def longest_side(cloud: Cloud) -> str:
    return "xyz"[int(np.argmax(np.ptp(cloud.points, axis=0)))]


def test_modelnet_s_meshes_stand_upright_and_are_spread(tmp_path: Path) -> None:
    mesh_layouts.write_modelnet(tmp_path)
    clouds = read("modelnet40_off", tmp_path)
    assert Counter(name.partition("/")[0] for name in clouds) == {"train": 6, "test": 3}
    cloud = clouds["train/night_stand_0001"]
    assert cloud.label == "night_stand"
    assert {longest_side(each) for each in clouds.values()} == {"y"}  # z in the files
    # (x, y, z) of the file is (x, z, -y): a point of the surface stays one, on one of six sides.
    low, high = np.array([0, 0, -mesh_layouts.SIDES[1]]), np.array([1.0, 4.0, 0.0])
    sides = np.isclose(cloud.points, low, atol=1e-6) | np.isclose(cloud.points, high, atol=1e-6)
    assert sides.any(axis=1).all()
    assert ((cloud.points >= low - 1e-6) & (cloud.points <= high + 1e-6)).all()
    # Normals are those of the sides, outwards: their axis is that of the side.
    outward = np.take_along_axis(cloud.normals, sides.argmax(axis=1)[:, None], axis=1)[:, 0]
    is_high = np.isclose(cloud.points, high, atol=1e-6).any(axis=1)
    np.testing.assert_allclose(np.abs(outward), 1, atol=1e-6)
    assert (np.sign(outward) == np.where(is_high, 1, -1)).mean() > 0.95  # edges are of two sides
    # Farthest first: 20 points reach into all eight octants of the box.
    octants = (cloud.points[:20] > (low + high) / 2).astype(int) @ [4, 2, 1]
    assert set(octants.tolist()) == set(range(8))


def test_the_same_mesh_gives_the_same_points_and_another_id_others(tmp_path: Path) -> None:
    mesh_layouts.write_modelnet(tmp_path)
    one, two = read("modelnet40_off", tmp_path), read("modelnet40_off", tmp_path)
    for name, cloud in one.items():
        np.testing.assert_array_equal(cloud.points, two[name].points)
    assert not np.array_equal(one["train/sofa_0001"].points, one["train/sofa_0002"].points)


def test_modelnet10_is_its_ten_classes(tmp_path: Path) -> None:
    mesh_layouts.write_modelnet(tmp_path, "ModelNet10")
    labels = {cloud.label for cloud in read("modelnet10_off", tmp_path).values()}
    assert labels == {"night_stand", "sofa"}  # no airplane


def test_the_axis_that_is_up_can_be_named(tmp_path: Path) -> None:
    mesh_layouts.write_modelnet(tmp_path)
    as_it_lies = read("modelnet40_off", tmp_path, up="y")
    assert {longest_side(cloud) for cloud in as_it_lies.values()} == {"z"}
    mesh_layouts.write(tmp_path / "mine" / "mug" / "train" / "a.off", mesh_layouts.off())
    assert longest_side(read("folder", tmp_path / "mine")["train/mug/a.off"]) == "z"
    turned = read("folder", tmp_path / "mine", up="z")["train/mug/a.off"]
    assert longest_side(turned) == "y"
    np.testing.assert_allclose(turned.points[:, 2].min(), -mesh_layouts.SIDES[1], atol=0.2)


def test_counts_are_those_published_or_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh_layouts.write_modelnet(tmp_path)
    command = ["data", "prepare", "modelnet40_off", "--from", str(tmp_path), "--num-points", "64"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 4
    assert (
        "6 train / 3 test clouds, published are 9843 train / 2468 test" in capsys.readouterr().err
    )
    assert main([*command, "--out", str(tmp_path / "other"), "--partial"]) == 0
    assert "modelnet40_off" in capsys.readouterr().out


def test_shapenet_s_list_says_the_split(tmp_path: Path) -> None:
    mesh_layouts.write_shapenet(tmp_path)
    clouds = read("shapenetcore", tmp_path)
    assert next(iter(clouds)) == "train/02691156/1a0e02691156"
    assert Counter(name.partition("/")[0] for name in clouds) == {"train": 2, "val": 2, "test": 2}
    assert clouds["val/03001627/1a1e03001627"].label == "03001627"
    assert {longest_side(cloud) for cloud in clouds.values()} == {"z"}  # y is up there: not turned
    # The first version has other file names.
    (tmp_path / "v1").mkdir()
    mesh_layouts.write_shapenet(tmp_path / "v1")
    for path in (tmp_path / "v1").rglob("model_normalized.obj"):
        path.rename(path.parent.parent / "model.obj")
    assert read("shapenetcore", tmp_path / "v1").keys() == clouds.keys()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,02691156,02691156,../../x,train", "line 8: columns synsetId"),
        ("1,02691156,02691156,..,train", "line 8: columns synsetId"),
        ("1,02691156,02691156,x,trian", "line 8: columns synsetId"),
        ("1,chair,02691156,x,train", "line 8: columns synsetId"),
        ("1,02691156", "line 8: columns synsetId"),
    ],
)
def test_a_broken_list_is_told(tmp_path: Path, line: str, message: str) -> None:
    mesh_layouts.write_shapenet(tmp_path)
    path = tmp_path / "ShapeNetCore.v2" / "all.csv"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(BrokenDataError, match=message):
        read("shapenetcore", tmp_path)


def test_what_is_missing_or_broken_is_told_or_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mesh_layouts.write_shapenet(tmp_path)
    root = tmp_path / "ShapeNetCore.v2"
    gone = root / "02691156" / "1a0e02691156" / "models" / "model_normalized.obj"
    gone.unlink()
    with pytest.raises(MissingDataError, match=r"1a0e02691156.*--partial"):
        read("shapenetcore", tmp_path)
    broken = root / "03001627" / "1a0e03001627" / "models" / "model_normalized.obj"
    broken.write_text("v 0 0 0\n")
    with caplog.at_level(logging.WARNING):
        clouds = read("shapenetcore", tmp_path, partial=True)
    assert len(clouds) == 4
    assert "02691156/1a0e02691156: not there" in caplog.text
    assert "1a0e03001627" in caplog.text
    mesh_layouts.write(gone, mesh_layouts.obj())
    with pytest.raises(BrokenDataError, match=r"1a0e03001627.*mend it"):
        read("shapenetcore", tmp_path)


@pytest.mark.parametrize("name", ["modelnet40_off", "shapenetcore", "kicad", "sweethome3d"])
def test_an_empty_folder_is_none_of_them(tmp_path: Path, name: DatasetName) -> None:
    with pytest.raises(MissingDataError):
        read(name, tmp_path)


def test_series_of_parts_stay_on_one_side(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mesh_layouts.write_kicad(tmp_path)
    with caplog.at_level(logging.WARNING):
        clouds = read("kicad", tmp_path)
    assert {cloud.label for cloud in clouds.values()} == {"Connector_PinHeader", "Diode"}
    assert "left out: 1 of 81 shapes" in caplog.text
    sides: dict[str, set[str]] = {}
    for name in clouds:
        split, _, source_id = name.partition("/")
        sides.setdefault(series_of(source_id), set()).add(split)
    assert len(sides) == 10
    assert {len(found) for found in sides.values()} == {1}
    # One series of five of each class.
    assert Counter(name.partition("/")[0] for name in clouds) == {"train": 64, "test": 16}
    assert {longest_side(cloud) for cloud in clouds.values()} == {"y"}


def test_furniture_stands_as_its_catalogue_says(tmp_path: Path) -> None:
    mesh_layouts.write_furniture(tmp_path)
    clouds = read("sweethome3d", tmp_path)
    assert {cloud.label for cloud in clouds.values()} == {"chair", "table"}
    assert len(clouds) == 12
    for cloud in clouds.values():
        assert longest_side(cloud) == {"chair": "z", "table": "y"}[cloud.label]
    source = open_source("sweethome3d", str(tmp_path), 64, HoldoutConfig())
    prepare(source, str(tmp_path / "out"), partial=False)
    assert {name.partition("/")[0] for name in clouds} == {"train", "test"}


def test_a_set_that_says_which_way_is_up_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "prepare", "modelnet40_h5", "--from", str(tmp_path), "--out", "o"]
    assert main([*command, "--up", "z"]) == 2
    assert "--up z: modelnet40_h5 takes none" in capsys.readouterr().err
