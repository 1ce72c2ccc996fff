import multiprocessing
import os
import pickle
import random
import struct
import tracemalloc
import zipfile

import pytest

from picpoint.render import sources
from picpoint.render.meshes import MeshError
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
