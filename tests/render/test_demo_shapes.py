import csv
import io
import zipfile
from collections import Counter

import numpy as np
import pytest

from picpoint.assets import DEMO_SHAPES
from picpoint.assets.build_demo_shapes import CLASSES, Model, glb_bytes, write_pack
from picpoint.geometry.clouds import face_areas, fit_unit_sphere
from picpoint.render.furniture import Furniture
from picpoint.render.normals import face_normals
from picpoint.render.readers import read_mesh
from picpoint.render.sources import list_shapes


@pytest.fixture(scope="module")
def shapes():
    return list_shapes(DEMO_SHAPES)


@pytest.fixture(scope="module")
def meshes(shapes):
    return {shape.source_id: shape.read_mesh() for shape in shapes}


def test_there_are_classes_enough_to_learn_and_to_test_on(shapes):
    counts = Counter(shape.label for shape in shapes if shape.label)
    assert len(counts) >= 8
    assert min(counts.values()) >= 6
    assert set(counts) == set(CLASSES)


def test_the_pack_is_small_enough_to_be_committed():
    assert DEMO_SHAPES.stat().st_size <= 10_000_000
    with zipfile.ZipFile(DEMO_SHAPES) as archive:
        assert max(info.file_size for info in archive.infolist()) <= 1_000_000


@pytest.fixture(scope="module")
def barrel_and_crate(shapes):
    names = ("barrel", "crate")
    by_id = {shape.source_id: shape for shape in shapes}
    return {name: by_id[f"blendswap-cc0/{name}"].read_mesh() for name in names}


@pytest.mark.slow
def test_every_shape_is_read_and_nothing_was_wrong_with_it(shapes, meshes):
    for shape in shapes:
        mesh = meshes[shape.source_id]
        assert set(mesh.warnings) <= {"zero_area_faces"}, shape
        assert len(mesh.faces) <= 65_000
        # Furniture and what stands on it, in metres.
        assert 0.02 < 2 / fit_unit_sphere(mesh.vertices, mesh.faces).scale < 20, shape


@pytest.mark.slow
def test_textures_are_there_and_small(meshes):
    textures = [m.texture for mesh in meshes.values() for m in mesh.materials]
    textures = [texture for texture in textures if texture is not None]
    assert len(textures) >= 80
    assert max(max(texture.shape) for texture in textures) <= 128


@pytest.mark.slow
def test_tables_stand_upright(shapes, meshes):
    """A table's level faces are near its top, whichever way it is turned about the vertical."""
    for shape in shapes:
        if shape.label == "table":
            mesh = meshes[shape.source_id]
            corners = mesh.vertices[mesh.faces].astype(np.float64)
            is_level = np.abs(face_normals(mesh.vertices, mesh.faces)[:, 1]) > 0.9
            heights = corners[is_level].mean(axis=1)[:, 1]
            level = np.average(heights, weights=face_areas(corners[is_level]))
            assert level > mesh.vertices[:, 1].min() + 0.5 * np.ptp(mesh.vertices[:, 1]), shape


def test_every_shape_has_a_creator_a_licence_and_a_line_in_the_credits(shapes):
    with zipfile.ZipFile(DEMO_SHAPES) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("catalogue.csv").decode())))
    assert [row["source_id"] for row in rows] == [shape.source_id for shape in shapes]
    assert {row["licence"] for row in rows} == {"CC0-1.0"}
    credits_text = (DEMO_SHAPES.parent / "CREDITS.md").read_text()
    for row in rows:
        line = next(li for li in credits_text.splitlines() if f"`{row['source_id']}`" in li)
        assert row["creator"]
        assert f"| {row['name']} | {row['creator']} |" in line
    assert credits_text.count("| `blendswap-cc0/") == len(rows)


def test_a_mesh_written_as_glb_is_read_again(barrel_and_crate):
    mesh = barrel_and_crate["barrel"]
    again = read_mesh(glb_bytes(mesh), "barrel.glb")
    corners, corners_again = mesh.vertices[mesh.faces], again.vertices[again.faces]
    order = np.lexsort(corners.reshape(len(corners), -1).T)
    order_again = np.lexsort(corners_again.reshape(len(corners), -1).T)
    np.testing.assert_array_equal(corners_again[order_again], corners[order])
    np.testing.assert_allclose(again.uv[order_again], mesh.uv[order], atol=1e-6)
    assert len(again.materials) == len(mesh.materials)
    for material, material_again in zip(mesh.materials, again.materials, strict=True):
        # Factors are kept as linear bytes by the reader.
        np.testing.assert_allclose(material_again.diffuse, material.diffuse, atol=0.02)


def model(name, licence_text=""):
    entry = Furniture(1, name, "Miscellaneous", "somebody", f"models/{name}/{name}.obj", None)
    return Model(entry, "box", licence_text)


def test_the_same_shapes_are_packed_to_the_same_bytes_in_any_order(tmp_path, barrel_and_crate):
    packed = [(model(name), glb_bytes(mesh)) for name, mesh in barrel_and_crate.items()]
    write_pack(tmp_path / "a.zip", packed)
    write_pack(tmp_path / "b.zip", packed[::-1])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    first, second = list_shapes(tmp_path / "a.zip")
    assert (first.source_id, second.source_id) == ("blendswap-cc0/barrel", "blendswap-cc0/crate")
    assert len(first.read_mesh().faces) == len(barrel_and_crate["barrel"].faces)


@pytest.mark.parametrize(
    ("licence_text", "is_cc0"),
    [
        ("", True),  # then the archive's own licence holds
        ("Released under Creative Commons Zero (Public Domain) Downloaded from", True),
        ("Released under https://example.org/zero/1.0/ Creative Commons Zero 1.0 You are", True),
        ("under the following license: Creative Commons Zero (Public Domain)", True),
        ("Released under https://example.org/by/3.0/ Creative Commons Attribution 3.0", False),
        ("All rights reserved", False),
    ],
)
def test_only_models_whose_own_licence_agrees_are_packed(licence_text, is_cc0):
    assert model("any", licence_text).is_cc0 == is_cc0
