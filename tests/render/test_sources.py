import csv
import multiprocessing
import os
import pickle
import random
import struct
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from picpoint.render import sources
from picpoint.render.furniture import Furniture, parse_furniture
from picpoint.render.layouts import Z_TO_Y, NamedFile, name_file
from picpoint.render.meshes import MeshError
from picpoint.render.object_classes import object_class
from picpoint.render.readers import MeshLimits
from picpoint.render.sources import SourceError, SourceShape, list_shapes

OBJ = b"mtllib m.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
OFF = b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
FILES = {
    "b/two.off": OFF,
    "a/one.obj": OBJ,
    "m.mtl": b"newmtl m\nKd 1 0 0",
    "a/m.mtl": b"newmtl m\nKd 0 1 0",
    "notes.txt": b"no mesh",
}


def folder_of(tmp_path, files):
    for name, content in files.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "source"


def zip_of(tmp_path, files):
    with zipfile.ZipFile(tmp_path / "source.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return tmp_path / "source.zip"


BOTH = pytest.mark.parametrize("make", [folder_of, zip_of])


@BOTH
def test_without_a_catalogue_the_first_folder_is_the_label(tmp_path, make):
    files = FILES | {"c/deep/er/three.OFF": OFF, "top.off": OFF}
    source = make(tmp_path, files)
    assert list_shapes(str(source)) == (
        SourceShape("a/one", "a", source, "a/one.obj"),
        SourceShape("b/two", "b", source, "b/two.off"),
        SourceShape("c/deep/er/three", "c", source, "c/deep/er/three.OFF"),
        SourceShape("top", "", source, "top.off"),
    )


@BOTH
def test_a_catalogue_says_what_the_shapes_are(tmp_path, make):
    catalogue = b"source_id,label,file,name\nx/2,chair,b/two.off,Two\nx/1,,a/one.obj,One\n"
    source = make(tmp_path, FILES | {"catalogue.csv": catalogue})
    assert list_shapes(source) == (
        SourceShape("x/1", "", source, "a/one.obj"),
        SourceShape("x/2", "chair", source, "b/two.off"),
    )


@BOTH
def test_a_shape_is_read_with_what_lies_beside_it(tmp_path, make):
    source = make(tmp_path, FILES)
    first, second = [shape.read_mesh() for shape in list_shapes(source)]
    assert first.materials[0].diffuse == (0.0, 1.0, 0.0)  # a/m.mtl, not m.mtl
    assert first.warnings == second.warnings == ()
    assert len(second.faces) == 1


@BOTH
def test_shapes_are_read_the_same_in_another_process(tmp_path, make):
    shapes = list_shapes(make(tmp_path, FILES))
    assert pickle.loads(pickle.dumps(shapes)) == shapes
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.map(_num_faces, shapes)
    assert there == [_num_faces(shape) for shape in shapes] == [1, 1]


def _num_faces(shape):
    return len(shape.read_mesh().faces)


@BOTH
def test_a_name_with_dots_stays_inside_the_source(tmp_path, make):
    (tmp_path / "m.mtl").write_bytes(b"newmtl m\nKd 0 0 1")
    source = make(tmp_path, {"a/one.obj": OBJ.replace(b"m.mtl", b"../../m.mtl")})
    (shape,) = list_shapes(source)
    assert shape.read_mesh().warnings == ("missing_material",)


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ({"notes.txt": b""}, "holds no shape; put files .glb"),
        ({"catalogue.csv": b"source_id,label,file\n"}, "holds no shape"),
        ({"a.off": OFF, "a.obj": OBJ}, "share the id 'a'; rename one"),
        ({"catalogue.csv": b"id,file\n1,a.off\n", "a.off": OFF}, "no column label, source_id"),
        ({"catalogue.csv": b"source_id,label,file\n1,x,gone.off\n"}, "names 'gone.off' as '1'"),
        ({"catalogue.csv": b"source_id,label,file\n1,x,../../etc/passwd\n"}, "not there"),
        ({"catalogue.csv": b"source_id,label,file\n1,x\n"}, "line 2: more or fewer cells"),
        ({"catalogue.csv": b"label,file,source_id\nx\ny,a.off,1\n", "a.off": OFF}, "line 2: more"),
        ({"catalogue.csv": b"file,source_id,label\na.off,1,big, red\n", "a.off": OFF}, "line 2: m"),
        ({"catalogue.csv": b"source_id,label,file\n1," + b"x" * 200_000}, "field larger than"),
        ({"catalogue.csv": b"\xff\xfe\xff"}, "give a sound CSV file in UTF-8"),
    ],
)
@BOTH
def test_a_source_that_cannot_be_used_says_what_to_do(tmp_path, make, files, rule):
    with pytest.raises(SourceError) as caught:
        list_shapes(make(tmp_path, files))
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_that_is_not_there_or_no_archive_says_what_to_do(tmp_path):
    with pytest.raises(SourceError, match=r"no such folder or \.zip"):
        list_shapes(tmp_path / "gone")
    (tmp_path / "text.zip").write_bytes(b"not a zip")
    with pytest.raises(SourceError, match=r"sound \.zip"):
        list_shapes(tmp_path / "text.zip")


@BOTH
def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path, make):
    source = make(tmp_path, {"bomb.off": b" " * 2**20})
    (shape,) = list_shapes(source)
    with pytest.raises(MeshError, match="too_large") as caught:
        shape.read_mesh(MeshLimits(max_file_bytes=2**20 - 1))
    assert caught.value.reason == "too_large"


def test_a_companion_that_is_too_large_is_left_out(tmp_path):
    for make in (folder_of, zip_of):
        source = make(tmp_path, {"a/one.obj": OBJ, "a/m.mtl": b" " * 1000})
        (shape,) = list_shapes(source)
        assert shape.read_mesh(MeshLimits(max_file_bytes=999)).warnings == ("missing_material",)


def test_a_mesh_at_the_top_reads_nothing_outside_the_source(tmp_path):
    (tmp_path / "secret.mtl").write_bytes(b"newmtl m\nKd 0 0 1")
    source = folder_of(tmp_path, {"one.obj": OBJ.replace(b"m.mtl", b"../secret.mtl")})
    (shape,) = list_shapes(source)
    assert shape.read_mesh().warnings == ("missing_material",)


@BOTH
def test_a_folder_beside_the_mesh_s_own_is_inside_the_source(tmp_path, make):
    files = {
        "a/x/models/one.obj": OBJ.replace(b"m.mtl", b"../m.mtl"),
        "a/x/m.mtl": FILES["a/m.mtl"],
    }
    (shape,) = list_shapes(make(tmp_path, files))
    assert shape.read_mesh().materials[0].diffuse == (0.0, 1.0, 0.0)


def test_a_mesh_that_vanished_is_unreadable_and_a_source_that_vanished_is_an_error(tmp_path):
    source = folder_of(tmp_path, FILES)
    first, second = list_shapes(source)
    (source / first.file).unlink()
    with pytest.raises(MeshError) as caught:
        first.read_mesh()
    assert caught.value.reason == "unreadable"
    source.rename(tmp_path / "moved")
    with pytest.raises(SourceError, match="give a folder"):
        second.read_mesh()


def test_what_a_folder_holds_is_never_passed_over(tmp_path):
    source = folder_of(tmp_path, FILES)
    (source / "notes.link").symlink_to("nowhere")  # no mesh: as well passed over as notes.txt
    assert len(list_shapes(source)) == 2
    for name, target, rule in (
        ("c", tmp_path, "a link to a folder"),
        ("broken.off", "nowhere", "a broken link"),
    ):
        (source / name).symlink_to(target)
        with pytest.raises(SourceError, match=rule):
            list_shapes(source)
        (source / name).unlink()
    (source / os.fsdecode(b"\xff.off")).write_bytes(OFF)
    with pytest.raises(SourceError, match=r"'\\udcff\.off' is not UTF-8; rename"):
        list_shapes(source)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    source = folder_of(tmp_path, FILES)
    monkeypatch.setattr(os, "scandir", refuse)  # the tests' user may be root
    with pytest.raises(SourceError, match="Permission denied; let this user read"):
        list_shapes(source)


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_source_is_not_the_current_folder(tmp_path, monkeypatch, source):
    monkeypatch.chdir(folder_of(tmp_path, FILES))
    with pytest.raises(SourceError, match="names no folder"):
        list_shapes(source)


def test_a_catalogue_that_unpacks_to_a_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    source = zip_of(tmp_path, FILES | {"catalogue.csv": b" " * 2**20})
    monkeypatch.setattr(sources, "DEFAULT_LIMITS", MeshLimits(max_file_bytes=2**20 - 1))
    with pytest.raises(SourceError, match="1048576 > 1048575 bytes"):
        list_shapes(source)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("damaged", ["a/one.obj", "a/m.mtl", "catalogue.csv"])
def test_a_damaged_member_spoils_nothing_but_itself(tmp_path, method, damaged):
    noise = b"#" + bytes(33 + byte % 90 for byte in random.Random(0).randbytes(200)) + b"\n"
    files = {name: content + noise for name, content in FILES.items()}
    files["catalogue.csv"] = b"source_id,label,file\n1,x,a/one.obj\n2,y,b/two.off\n"
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        info = archive.getinfo(damaged)
    whole = path.read_bytes()
    # After the local header and LZMA's own version, which no reader looks at.
    start = info.header_offset + 30 + len(damaged) + 2
    for position in range(start, start + info.compress_size - 2, 7):
        content = bytearray(whole)
        content[position] ^= 0xFF
        path.write_bytes(content)
        if damaged == "catalogue.csv":
            with pytest.raises(SourceError, match=r"catalogue\.csv cannot be read"):
                list_shapes(path)
            continue
        first, second = list_shapes(path)
        assert len(second.read_mesh().faces) == 1
        if damaged == "a/m.mtl":
            assert first.read_mesh().warnings == ("missing_material",)
            continue
        with pytest.raises(MeshError) as caught:
            first.read_mesh()
        assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_claims_to_be_small_is_not_unpacked_further(tmp_path, method):
    path, num_bytes = tmp_path / "source.zip", 128 * 2**20
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.off", bytes(num_bytes))
    content = path.read_bytes().replace(struct.pack("<I", num_bytes), struct.pack("<I", 100))
    path.write_bytes(content)
    (shape,) = list_shapes(path)
    tracemalloc.start()
    with pytest.raises(MeshError) as caught:
        shape.read_mesh()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.reason == "unreadable"
    assert peak_bytes < num_bytes


def test_an_encrypted_member_is_unreadable(tmp_path):
    path = zip_of(tmp_path, {"a.off": OFF})
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    (shape,) = list_shapes(path)
    with pytest.raises(MeshError, match="encrypted") as caught:
        shape.read_mesh()
    assert caught.value.reason == "unreadable"


def test_a_damaged_member_is_unreadable(tmp_path):
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:  # stored, not compressed
        archive.writestr("a.off", OFF)
    content = (tmp_path / "source.zip").read_bytes()
    (tmp_path / "source.zip").write_bytes(content.replace(b"OFF\n3 1 0", b"OFF\n3 1 1"))
    (shape,) = list_shapes(tmp_path / "source.zip")
    with pytest.raises(MeshError, match="CRC") as caught:
        shape.read_mesh()
    assert caught.value.reason == "unreadable"


# --- layouts


@pytest.mark.parametrize("top", ["", "Set/", "a/b/"])
@pytest.mark.parametrize(
    ("file", "source_id", "label", "to_upright"),
    [
        ("02691156/1a04e3ea/models/model_normalized.obj", "02691156/1a04e3ea", "02691156", None),
        ("chair/train/chair_0001.off", "chair/train/chair_0001", "chair", Z_TO_Y),
        ("a_b/test/a_b_0201.off", "a_b/test/a_b_0201", "a_b", Z_TO_Y),
        (
            "Connector_PinHeader_2.54mm.3dshapes/PinHeader_1x02.wrl",
            "Connector_PinHeader_2.54mm/PinHeader_1x02",
            "Connector_PinHeader",
            Z_TO_Y,
        ),
        ("Diode_SMD.3dshapes/D_0402.wrl", "Diode_SMD/D_0402", "Diode", Z_TO_Y),
        ("Valve.3dshapes/ECC83.wrl", "Valve/ECC83", "Valve", Z_TO_Y),
    ],
)
def test_known_layouts_say_name_label_and_which_way_is_up(top, file, source_id, label, to_upright):
    assert name_file(top + file) == NamedFile(source_id, label, top + file, to_upright)


@pytest.mark.parametrize(
    ("file", "source_id", "label"),
    [
        ("02691156/1a04e3ea/model.obj", "02691156/1a04e3ea/model", "02691156"),
        ("chair/train/table_0001.off", "chair/train/table_0001", "chair"),
        ("chair/val/chair_0001.off", "chair/val/chair_0001", "chair"),
        ("parts/resistor.wrl", "parts/resistor", "parts"),
        ("resistor.wrl", "resistor", ""),
    ],
)
def test_what_only_resembles_a_layout_keeps_the_plain_rule(file, source_id, label):
    assert name_file(file) == NamedFile(source_id, label, file)


@BOTH
def test_a_shape_that_stands_along_z_is_put_upright(tmp_path, make):
    tower = b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 0 5\n3 0 1 2\n"
    source = make(tmp_path, {"tower/train/tower_0001.off": tower, "plain/tower.off": tower})
    plain, upright = [shape.read_mesh() for shape in list_shapes(source)]
    assert plain.vertices.max(axis=0).tolist() == [1, 0, 5]
    assert upright.vertices.max(axis=0).tolist() == [1, 5, 0]


# --- furniture

PROPERTIES = b"""# a comment
id=SweetHome3D#Test
name=Test catalogue

id#2=Test#lamp
name#2=Stehl\\u00e4mp\xe9 lamp
category#2=Living room
model#2=/test/lamp/lamp.obj
modelRotation#2=1 0 0 0 0 1 0 -1 0
creator#2=Some\\
  body
name#1 = Box
category#1: Kitchen
model#1=test/box.obj
"""


def furniture_of(tmp_path, properties=PROPERTIES):
    files = {
        "PluginFurnitureCatalog.properties": properties,
        "PluginFurnitureCatalog_fr.properties": b"name#1=Boite",
        "test/box.obj": OBJ,
        "test/m.mtl": FILES["a/m.mtl"],
        "test/lamp/lamp.obj": OBJ.replace(b"v 0 1 0", b"v 0 0 3"),
    }
    (tmp_path / "archives").mkdir(exist_ok=True)
    return zip_of(tmp_path, files).rename(tmp_path / "archives" / "test.sh3f")


def test_a_furniture_catalogue_is_read_with_its_escapes():
    assert parse_furniture(PROPERTIES) == [
        Furniture(1, "Box", "Kitchen", "", "test/box.obj", None),
        Furniture(
            2, "Stehl\u00e4mp\u00e9 lamp", "Living room", "Somebody", "test/lamp/lamp.obj", Z_TO_Y
        ),
    ]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Glass table", "table"),
        ("Table fan", ""),
        ("Chair with cushion 2", "chair"),
        ("TV 16:9", "electronics"),
        ("Pine under snow", "plant"),
        ("Plate", ""),
        ("2", ""),
        ("", ""),
    ],
)
def test_the_last_word_of_a_name_tells_what_it_is(name, label):
    assert object_class(name) == label


def test_a_furniture_archive_gives_its_shapes_upright_and_labelled(tmp_path):
    archive = furniture_of(tmp_path)
    shapes = list_shapes(archive)
    assert shapes == (
        SourceShape("test/box", "", archive, "test/box.obj"),
        SourceShape("test/lamp/lamp", "lamp", archive, "test/lamp/lamp.obj", Z_TO_Y),
    )
    assert list_shapes(archive.parent) == shapes  # a folder of archives
    box, lamp = [shape.read_mesh() for shape in shapes]
    assert box.materials[0].diffuse == (0.0, 1.0, 0.0)
    assert lamp.vertices.max(axis=0).tolist() == [1, 3, 0]


@pytest.mark.parametrize(
    ("properties", "rule"),
    [
        (b"name#1=Box\n", "entry #1 names no model"),
        (b"model#1=a.obj\nmodelRotation#1=1 0 0\n", "modelRotation has 3 numbers, not 9"),
        (b"model#1=gone.obj\n", r"names 'gone\.obj' as 'gone', which is not there"),
        (b"", "holds no shape"),
    ],
)
def test_a_furniture_archive_that_cannot_be_used_says_why(tmp_path, properties, rule):
    with pytest.raises(SourceError, match=rule):
        list_shapes(furniture_of(tmp_path, properties))


# --- lists


def list_of(tmp_path, rows, suffix):
    path = tmp_path / f"list{suffix}"
    names = ("source_id", "label", "file")
    if suffix == ".parquet":
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), path)
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([names, *rows])
    return path


LISTS = pytest.mark.parametrize("suffix", [".csv", ".parquet"])


@LISTS
def test_a_list_names_files_by_path_and_by_url(tmp_path, suffix):
    folder = folder_of(tmp_path, FILES)
    rows = [
        ("relative", "x", "source/a/one.obj"),
        ("up", "x", f"../{tmp_path.name}/source/b/two.off"),
        ("absolute", "y", str(folder / "a" / "one.obj")),
        ("local url", "y", f"file://{folder}/b/two.off"),
        ("bucket", "", "s3://bucket/some/prefix/three.glb"),
    ]
    shapes = {shape.source_id: shape for shape in list_shapes(list_of(tmp_path, rows, suffix))}
    assert shapes["bucket"] == SourceShape("bucket", "", "s3://bucket/some/prefix", "three.glb")
    assert shapes["relative"] == SourceShape("relative", "x", tmp_path, "source/a/one.obj")
    for name in ("relative", "absolute"):
        assert shapes[name].read_mesh().materials[0].diffuse == (0.0, 1.0, 0.0)
    for name in ("up", "local url"):
        assert shapes[name].read_mesh().warnings == ()


def test_a_shape_in_a_store_is_read_with_what_lies_beside_it(tmp_path):
    folder = folder_of(tmp_path, FILES)
    shape = SourceShape("one", "", f"file://{folder}/a", "one.obj")
    assert shape.read_mesh().materials[0].diffuse == (0.0, 1.0, 0.0)
    assert shape.stamp() == (len(OBJ), 0)
    with pytest.raises(MeshError, match="too_large"):
        shape.read_mesh(MeshLimits(max_file_bytes=10))
    gone = SourceShape("gone", "", f"file://{folder}/a", "gone.obj")
    with pytest.raises(MeshError, match=r"unreadable: gone\.obj: not there"):
        gone.read_mesh()
    with pytest.raises(SourceError, match="put it back"):
        gone.stamp()


@LISTS
def test_a_list_that_names_a_missing_file_says_so(tmp_path, suffix):
    table = list_of(tmp_path, [("1", "x", "gone.off")], suffix)
    with pytest.raises(SourceError, match=r"names 'gone\.off' as '1', which is not there"):
        list_shapes(table)


@pytest.mark.parametrize("file", ["https://example.org/a.obj", "s3://bucket/", "ftp://x/a.obj"])
def test_a_list_that_names_no_file_in_a_store_says_so(tmp_path, file):
    with pytest.raises(SourceError, match="names no file in a store; give a path, file://, s3://"):
        list_shapes(list_of(tmp_path, [("1", "x", file)], ".csv"))


def test_a_damaged_list_is_an_error(tmp_path):
    table = list_of(tmp_path, [("1", "x", "gone.off")], ".parquet")
    content = table.read_bytes()
    for damaged in (b"", content[:40], content[:-8]):
        table.write_bytes(damaged)
        with pytest.raises(SourceError, match="give a sound Parquet file"):
            list_shapes(table)
    pq.write_table(pa.table({"source_id": [1], "label": ["x"], "file": ["a.off"]}), table)
    with pytest.raises(SourceError, match=r"row 1 holds .* all three must be text"):
        list_shapes(table)
    pq.write_table(pa.table({"source_id": ["1"], "label": ["x"]}), table)
    with pytest.raises(SourceError, match="no column file"):
        list_shapes(table)


@BOTH
def test_a_stamp_changes_with_its_file(tmp_path, make):
    source = make(tmp_path, {"a.off": OFF})
    (shape,) = list_shapes(source)
    before = shape.stamp()
    assert list_shapes(source)[0].stamp() == before
    make(tmp_path, {"a.off": OFF + b"# more\n"})
    assert shape.stamp() != before


def test_an_archive_that_would_unpack_to_forty_million_vertices_is_too_large(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "source.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb.obj", "w") as member,
    ):
        for _ in range(40):
            member.write(b"v 0 0 0\n" * 1_000_000)
    assert (tmp_path / "source.zip").stat().st_size < 2**20
    (shape,) = list_shapes(tmp_path / "source.zip")
    tracemalloc.start()
    with pytest.raises(MeshError) as caught:
        shape.read_mesh()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.reason == "too_large"
    assert peak_bytes < 2**20
