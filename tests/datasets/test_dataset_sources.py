"""Each layout is read as it is on disk; what is missing or broken is named."""

from collections.abc import Callable
from pathlib import Path

import h5py
import layouts
import numpy as np
import pytest
import trimesh
from pypcd4.pypcd4 import Encoding, PointCloud

from cluster.app import main
from picpoint.data.dataset import open_dataset
from picpoint.data.split import HoldoutConfig, held_out
from picpoint.datasets.names import DatasetName
from picpoint.datasets.prepare import open_source, prepare
from picpoint.datasets.shapenetpart import PARTS_OF_CLASS
from picpoint.datasets.source import BrokenDataError, MissingDataError
from shards.cloud_sets import CloudReader
from shards.clouds import Cloud
from shards.manifest import load_manifest
from shards.verify import verify


def read(name: DatasetName, folder: Path, num_points: int = 64) -> dict[str, Cloud]:
    source = open_source(name, str(folder), num_points, HoldoutConfig())
    return {cloud.source_id: cloud for cloud in source.read()}


def test_modelnet_h5_keeps_points_order_and_labels(tmp_path: Path) -> None:
    layouts.write_modelnet_h5(tmp_path)
    clouds = read("modelnet40_h5", tmp_path)
    assert len(clouds) == 8
    cloud = clouds["train/ply_data_train1/0001"]
    np.testing.assert_array_equal(cloud.points, layouts.points_of(4))
    assert cloud.label == "airplane"
    assert clouds["test/ply_data_test0/0001"].label == "bathtub"


def test_modelnet_text_has_normals_and_class_names_of_two_words(tmp_path: Path) -> None:
    layouts.write_modelnet_resampled(tmp_path)
    clouds = read("modelnet40_resampled", tmp_path)
    assert list(clouds) == ["train/night_stand_0001", "train/sofa_0001", "test/sofa_0002"]
    cloud = clouds["train/night_stand_0001"]
    assert cloud.label == "night_stand"
    np.testing.assert_allclose(cloud.points, layouts.points_of(0, 50), atol=1e-6)
    np.testing.assert_allclose(cloud.normals, layouts.points_of(100, 50), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "inner", "suffix"),
    [
        ("scanobjectnn_obj_bg", "main_split", ""),
        ("scanobjectnn_obj_only", "main_split_nobg", ""),
        ("scanobjectnn_pb_t50_rs", "main_split", "_augmentedrot_scale75"),
    ],
)
def test_each_split_of_scanobjectnn_is_its_own_files(
    tmp_path: Path, name: DatasetName, inner: str, suffix: str
) -> None:
    layouts.write_scanobjectnn(tmp_path, inner, suffix)
    clouds = read(name, tmp_path)
    assert [cloud.label for cloud in clouds.values()] == [
        *("bag", "toilet", "cabinet"),
        *("toilet", "cabinet"),
    ]
    variants: set[DatasetName] = {
        *("scanobjectnn_obj_bg", "scanobjectnn_obj_only", "scanobjectnn_pb_t50_rs")
    }
    for other in variants - {name}:
        with pytest.raises(MissingDataError, match="not there"):
            read(other, tmp_path)


def test_shapenetpart_h5_has_parts_of_its_classes(tmp_path: Path) -> None:
    layouts.write_shapenetpart_h5(tmp_path)
    clouds = read("shapenetpart_h5", tmp_path)
    assert [each.partition("/")[0] for each in clouds] == ["train"] * 3 + ["val"] + ["test"] * 3
    table = clouds["train/ply_data_train0/0001"]
    assert table.label == "Table"
    assert table.point_labels[:3].tolist() == [47, 48, 47]
    assert PARTS_OF_CLASS["Table"] == (47, 50)
    assert [stop - first for first, stop in PARTS_OF_CLASS.values()] == [
        *(4, 2, 2, 4, 4, 3, 3, 2, 4, 2, 6, 2, 3, 3, 3, 3)
    ]


def test_shapenetpart_text_has_normals_and_parts(tmp_path: Path) -> None:
    layouts.write_shapenetpart_text(tmp_path)
    clouds = read("shapenetpart_text", tmp_path)
    cap = clouds["val/02954340/val_shape"]
    assert cap.label == "Cap"
    np.testing.assert_allclose(cap.points, layouts.points_of(6, 30), atol=1e-6)
    np.testing.assert_allclose(cap.normals, layouts.points_of(7, 30), atol=1e-6)
    assert set(cap.point_labels.tolist()) == {6, 7}


def test_s3dis_blocks_have_places_colours_and_things_and_are_named_by_their_rooms(
    tmp_path: Path,
) -> None:
    layouts.write_s3dis_blocks(tmp_path)
    clouds = read("s3dis_blocks", tmp_path)
    assert list(clouds) == [
        *("Area_1/office_1/0000", "Area_1/office_1/0001"),
        *("Area_5/hallway_6/0000", "Area_1/WC_2/0000"),
    ]
    with h5py.File(tmp_path / "indoor3d_sem_seg_hdf5_data" / "ply_data_all_1.h5") as file:
        rows, labels = file["data"][0], file["label"][0]
    block = clouds["Area_5/hallway_6/0000"]
    assert block.label == ""
    # z is up in the file, and y here.
    np.testing.assert_array_equal(block.points, rows[:, [0, 2, 1]] * np.float32([1, 1, -1]))
    np.testing.assert_array_equal(block.places, rows[:, [6, 8, 7]])
    np.testing.assert_allclose(block.colors / 255, rows[:, 3:6], atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(block.point_labels, labels)
    source = open_source("s3dis_blocks", str(tmp_path), 64, HoldoutConfig())
    with pytest.raises(BrokenDataError, match="published are 23585 of all splits"):
        prepare(source, str(tmp_path / "out"), partial=False)


@pytest.mark.parametrize(
    ("file", "breaking", "message"),
    [
        ("ply_data_all_1.h5", lambda path: _change("label", lambda a: a + 1)(path), "1 to 13"),
        ("ply_data_all_1.h5", lambda path: _change("data", lambda a: 2 * a)(path), "colours go"),
        ("ply_data_all_1.h5", lambda path: _change("data", lambda a: a[..., :6])(path), "4096, 6"),
        ("ply_data_all_1.h5", lambda path: path.unlink(), "not there"),
        ("all_files.txt", lambda path: path.write_text("ply_data_all_0.h5\n"), "4 blocks, and"),
        ("room_filelist.txt", lambda path: path.write_text("Area_1_office_1\n"), "more blocks"),
        ("room_filelist.txt", lambda path: path.write_text("Area_7_office_1\n"), "is no room"),
        ("room_filelist.txt", lambda path: path.write_text("Area_1_../x_1\n"), "is no room"),
    ],
)
def test_broken_blocks_of_s3dis_are_told(
    tmp_path: Path, file: str, breaking: Callable[[Path], None], message: str
) -> None:
    layouts.write_s3dis_blocks(tmp_path)
    breaking(tmp_path / "indoor3d_sem_seg_hdf5_data" / file)
    with pytest.raises((BrokenDataError, MissingDataError), match=message):
        read("s3dis_blocks", tmp_path)


@pytest.mark.parametrize("order", ["{label}/{split}", "{split}/{label}"])
def test_a_folder_of_many_formats_is_read_in_both_orders(tmp_path: Path, order: str) -> None:
    points = layouts.points_of(0, 40)
    cube = trimesh.creation.box()
    for split in ("train", "test"):
        for label in ("mug", "lamp"):
            folder = tmp_path / order.format(split=split, label=label)
            folder.mkdir(parents=True)
            np.save(folder / "a.npy", points)
            np.savetxt(folder / "b.txt", np.hstack([points, points]))
            trimesh.PointCloud(points).export(folder / "c.ply")
            cube.export(folder / "d.ply")
            cube.export(folder / "e.off")
            cube.export(folder / "f.obj")
            cube.export(folder / "g.glb")
            PointCloud.from_xyz_points(points).save(folder / "h.pcd", Encoding.ASCII)
            PointCloud.from_xyz_points(points).save(folder / "i.pcd", Encoding.BINARY_COMPRESSED)
            (folder / "notes.md").write_text("no cloud")
    clouds = read("folder", tmp_path)
    assert len(clouds) == 4 * 9
    for name in ("a.npy", "b.txt", "c.ply", "h.pcd", "i.pcd"):
        np.testing.assert_allclose(clouds[f"test/mug/{name}"].points, points, atol=1e-6)
    assert len(clouds["test/mug/b.txt"].normals) == 40
    for name in ("d.ply", "e.off", "f.obj", "g.glb"):
        cloud = clouds[f"train/lamp/{name}"]
        assert cloud.num_points == 64
        # On a cube's surface one coordinate is half a side from the middle.
        assert np.abs(cloud.points).max(axis=1) == pytest.approx(0.5, abs=1e-5)
    again = read("folder", tmp_path)
    np.testing.assert_array_equal(
        again["train/lamp/e.off"].points, clouds["train/lamp/e.off"].points
    )


def test_rendered_shapes_keep_the_folds_of_pretraining(shard_set: Path) -> None:
    clouds = read("rendered", shard_set)
    manifest = load_manifest(shard_set)
    source_ids, labels = manifest.read_texts("source_id", "label")
    mask = held_out(manifest, HoldoutConfig())
    want = {
        f"{'test' if mask[row] else 'train'}/{source_ids[row]}"
        for row in range(len(mask))
        if labels[row]
    }
    assert set(clouds) == want
    assert all(len(cloud.normals) == cloud.num_points for cloud in clouds.values())


def test_prepare_writes_a_set_that_is_whole_and_says_what_it_is(tmp_path: Path) -> None:
    layouts.write_shapenetpart_h5(tmp_path)
    source = open_source("shapenetpart_h5", str(tmp_path), 64, HoldoutConfig())
    manifest = prepare(source, str(tmp_path / "out"), partial=True, clouds_per_shard=4)
    assert [shard.num_samples for shard in manifest.shards] == [4, 3]
    assert verify(tmp_path / "out").findings == ()
    dataset = open_dataset(CloudReader(tmp_path / "out"))
    assert dataset.info == source.info
    assert len(dataset.rows_of(["train", "val"])) == 4
    (tmp_path / "out" / "dataset.json").unlink()
    (finding,) = verify(tmp_path / "out").findings
    assert (finding.kind, finding.name) == ("missing", "dataset.json")
    assert prepare(source, str(tmp_path / "out"), True, 4).digest == manifest.digest


def test_the_command_prepares_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.write_modelnet_h5(tmp_path)
    command = ["data", "prepare", "modelnet40_h5", "--from", str(tmp_path), "--out"]
    out = str(tmp_path / "out")
    assert main([*command, out]) == 4
    assert "6 train / 2 test clouds, published are 9840 train / 2468 test" in (
        capsys.readouterr().err
    )
    assert main([*command, out, "--partial"]) == 0
    assert "label    4 airplane" in capsys.readouterr().out
    assert main([*command[:-2], str(tmp_path / "nowhere"), "--out", out]) == 3
    assert "modelnet.cs.princeton.edu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--num-points", "64"],
            "--num-points 64: modelnet40_h5 takes none; leave it out",
        ),
        (["--fold", "0"], "--fold 0: modelnet40_h5 takes none"),
        (["--holdout-unit", "shape"], "--holdout-unit shape: modelnet40_h5 takes none"),
        (["--clouds-per-shard", "0"], "--clouds-per-shard 0: must be at least 1"),
    ],
)
def test_an_option_that_would_say_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    layouts.write_modelnet_h5(tmp_path)
    command = ["data", "prepare", "modelnet40_h5", "--from", str(tmp_path), "--partial"]
    assert main([*command, "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_of_meshes_and_of_folds_are_taken_where_they_are_of_use(
    tmp_path: Path, shard_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "prepare", "folder", "--from", str(tmp_path), "--out", str(tmp_path / "o")]
    assert main([*command, "--num-points", "0"]) == 2
    assert "--num-points 0: must be at least 1" in capsys.readouterr().err
    tested: list[set[str]] = []
    for number in ("0", "1"):
        out = ["--out", str(tmp_path / number), "--fold", number, "--holdout-unit", "shape"]
        assert main(["data", "prepare", "rendered", "--from", str(shard_set), *out]) == 0
        (ids,) = CloudReader(tmp_path / number).manifest.read_texts("source_id")
        tested.append({name for name in ids if name.startswith("test/")})
    assert tested[0]
    assert tested[0].isdisjoint(tested[1])


def test_files_of_a_folder_that_are_no_clouds_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "mine"
    for split in ("train", "test"):
        (place / split / "mug").mkdir(parents=True)
        np.save(place / split / "mug" / "a.npy", layouts.points_of(0, 5))
        (place / split / "mug" / "b.xyz").write_text("1 2 3")
    (place / "test" / "mug" / "notes.md").write_text("no cloud")
    command = ["data", "prepare", "folder", "--out", str(tmp_path / "out"), "--from"]
    assert main([*command, str(place)]) == 0
    assert "left out 3 files of other kinds: 1 .md, 2 .xyz" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "nowhere")]) == 3
    assert f"{tmp_path / 'nowhere'}: no such folder" in capsys.readouterr().err


Breaking = Callable[[Path], None]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def _change(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Breaking:
    def breaking(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            changed = change(file[name][()])
            del file[name]
            file[name] = changed

    return breaking


def _drop(name: str) -> Breaking:
    def breaking(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]

    return breaking


def _with_nan(points: np.ndarray) -> np.ndarray:
    points[1, 5, 2] = np.nan
    return points


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (_cut, "no whole HDF5 file"),
        (lambda path: path.write_bytes(b"text"), "no whole HDF5 file"),
        (_drop("label"), "no array 'label', but data"),
        (_change("data", lambda points: points[..., :2]), r"data is float32 \(3, 2048, 2\)"),
        (_change("data", lambda points: points.astype(np.int16)), "data is int16"),
        (_change("data", _with_nan), "NaN or infinity in 1 clouds"),
        (_change("label", lambda labels: labels + 3), "label goes from 3 to 4"),
        (_change("label", lambda labels: labels[:2]), r"label is uint8 \(2, 1\)"),
        (_change("label", lambda labels: labels.astype(np.float32)), "label is float32"),
        (lambda path: path.unlink(), "not there"),
    ],
)
def test_broken_hdf5_is_told_by_its_file(tmp_path: Path, breaking: Breaking, message: str) -> None:
    layouts.write_modelnet_h5(tmp_path)
    breaking(tmp_path / "modelnet40_ply_hdf5_2048" / "ply_data_train1.h5")
    with pytest.raises((BrokenDataError, MissingDataError), match=message) as raised:
        read("modelnet40_h5", tmp_path)
    assert "ply_data_train1.h5" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_hdf5_cut_or_flipped_anywhere_is_read_or_refused_and_never_a_traceback(
    tmp_path: Path,
) -> None:
    layouts.write_modelnet_h5(tmp_path)
    path = tmp_path / "modelnet40_ply_hdf5_2048" / "ply_data_test0.h5"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(60):
        broken = bytearray(whole)
        if trial % 2:
            broken = broken[: rng.integers(len(whole))]
        else:
            broken[rng.integers(2048)] ^= 1 << rng.integers(8)  # where its structure lies
        path.write_bytes(broken)
        try:
            read("modelnet40_h5", tmp_path)
        except BrokenDataError:
            refused += 1
    assert refused >= 30  # all cuts


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("02954340/val_shape.txt", "1 2 3 4 5 6 9.0\n", "is a Cap of parts 9 to 9"),
        ("02954340/val_shape.txt", "1 2 3 4 5 6 6.5\n", "no part from 0 to 49"),
        ("02954340/val_shape.txt", "1 2 3 4 5 6\n", "6 numbers in 1 lines"),
        ("02954340/val_shape.txt", "1 2 3 4 5 6 6\n1 2 3\n", "10 numbers in 2 lines"),
        ("02954340/val_shape.txt", "x y z\n", "no table of numbers"),
        ("02954340/val_shape.txt", "", "0 numbers in 0 lines"),
        ("train_test_split/shuffled_val_file_list.json", "{", "no list of shapes"),
        ("train_test_split/shuffled_val_file_list.json", "[1]", "no list of shapes"),
        ("train_test_split/shuffled_val_file_list.json", '["a/../.."]', "is no SYNSET/NAME"),
        ("train_test_split/shuffled_val_file_list.json", '["a/02954340/.."]', "is no SYNSET"),
    ],
)
def test_broken_text_is_told_by_its_file(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    layouts.write_shapenetpart_text(tmp_path)
    root = tmp_path / "shapenetcore_partanno_segmentation_benchmark_v0_normal"
    (root / file).write_text(text)
    with pytest.raises(BrokenDataError, match=message) as raised:
        read("shapenetpart_text", tmp_path)
    assert Path(file).name in str(raised.value)


def test_nan_in_text_is_refused_when_it_is_written(tmp_path: Path) -> None:
    layouts.write_shapenetpart_text(tmp_path)
    root = tmp_path / "shapenetcore_partanno_segmentation_benchmark_v0_normal"
    (root / "02954340" / "val_shape.txt").write_text("nan 2 3 4 5 6 6\n")
    source = open_source("shapenetpart_text", str(tmp_path), 64, HoldoutConfig())
    with pytest.raises(BrokenDataError, match="NaN or infinity in 1 rows"):
        prepare(source, str(tmp_path / "out"), partial=True)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_class_that_is_only_tested_is_refused(tmp_path: Path) -> None:
    for split, label in (("train", "mug"), ("test", "mug"), ("test", "lamp")):
        folder = tmp_path / "in" / split / label
        folder.mkdir(parents=True)
        np.save(folder / "a.npy", layouts.points_of(0, 5))
    source = open_source("folder", str(tmp_path / "in"), 64, HoldoutConfig())
    with pytest.raises(BrokenDataError, match="class 'lamp' is in split test and not in train"):
        prepare(source, str(tmp_path / "out"), partial=False)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"\x93NUMPY", "no array of numbers"),
        ("a.npy", b"", "no array of numbers"),
        ("a.txt", b"\xff\xfe", "no table of numbers"),
        ("a.pcd", b"VERSION .7\n", "no PCD of x, y, z"),
        ("a.ply", b"ply\n", "no PLY|no points"),
        ("a.off", b"OFF\n", r"a\.off"),
    ],
)
def test_broken_files_of_a_folder_are_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    folder = tmp_path / "train" / "mug"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    with pytest.raises(BrokenDataError, match=message) as raised:
        read("folder", tmp_path)
    assert name in str(raised.value)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "mug"
    folder.mkdir(parents=True)
    np.save(folder / "a.npy", np.array([[1, 2, object()]], object), allow_pickle=True)
    with pytest.raises(BrokenDataError, match="no array of numbers"):
        read("folder", tmp_path)


@pytest.mark.parametrize("folders", ["a/b", "train/test"])
def test_folders_that_name_no_split_or_two_are_refused(tmp_path: Path, folders: str) -> None:
    (tmp_path / folders).mkdir(parents=True)
    np.save(tmp_path / folders / "a.npy", layouts.points_of(0, 5))
    with pytest.raises(BrokenDataError, match="exactly one of its two folders"):
        read("folder", tmp_path)


def test_one_point_and_points_that_coincide_are_clouds(tmp_path: Path) -> None:
    for number, rows in enumerate([np.ones((1, 3)), np.zeros((7, 3))]):
        folder = tmp_path / "train" / "mug"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number}.npy", rows)
    clouds = read("folder", tmp_path)
    assert [cloud.num_points for cloud in clouds.values()] == [1, 7]


def test_lists_that_name_other_folders_do_not_lead_there(tmp_path: Path) -> None:
    layouts.write_modelnet_h5(tmp_path)
    root = tmp_path / "modelnet40_ply_hdf5_2048"
    (root / "test_files.txt").write_text("/etc/../../ply_data_test0.h5\n")
    assert len(read("modelnet40_h5", tmp_path)) == 8
