import io
import json
import math
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import trimesh
from broken_meshes import gltf, sound_files, wrl
from PIL import Image

from picpoint.geometry.clouds import face_areas
from picpoint.render import readers
from picpoint.render.meshes import Material, Mesh, MeshError, mend, turn
from picpoint.render.normals import crease_normals, face_normals
from picpoint.render.readers import SUFFIXES, MeshLimits, read_mesh, read_mesh_file
from picpoint.render.textures import TextureLimits
from shards.errors import TransientStoreError

TRIANGLE_OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def png(color, size=(2, 2)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def refusal(content, file_name, **kwargs):
    with pytest.raises(MeshError) as caught:
        read_mesh(content, file_name, **kwargs)
    return caught.value.reason


def triangles(mesh):
    """Give the triangles as a sorted list of corners, each from its lowest corner on."""
    corners = np.round(mesh.vertices[mesh.faces].astype(np.float64), 5) + 0.0
    turned = []
    for triangle in corners.tolist():
        lowest = triangle.index(min(triangle))
        turned.append(triangle[lowest:] + triangle[:lowest])
    return sorted(turned)


def diffuse_by_face(mesh):
    return [tuple(np.round(mesh.materials[row].diffuse, 3)) for row in mesh.face_material]


# --- OBJ


def test_obj_materials_textures_and_names_with_spaces_reach_their_faces():
    obj = b"""mtllib my shape.mtl
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl plain red
f 1 2 3
usemtl wood
f 1/1 3/3 4/4
usemtl wood again
f 1/2/ 2/3/ 3/4/
"""
    mtl = b"""newmtl plain red
Kd 1 0 0
newmtl wood
Kd 0.1 0.2 0.3
map_Kd -s 1 1 1 -bm 0.5 a folder\\my wood.png
newmtl wood again
map_Kd a folder\\my wood.png
"""
    files = {"my shape.mtl": mtl, "a folder/my wood.png": png((10, 200, 30))}
    mesh = read_mesh(obj, "shape.OBJ", files.get)
    assert mesh.warnings == ()
    looks = [mesh.materials[row] for row in mesh.face_material]
    assert looks[0] == Material(diffuse=(1.0, 0.0, 0.0))
    # A texture stands in for Kd.
    assert looks[1].diffuse == looks[2].diffuse == (1.0, 1.0, 1.0)
    assert looks[1].texture is not None
    assert (looks[1].texture == (10, 200, 30)).all()
    assert looks[2].texture is looks[1].texture  # decoded once
    np.testing.assert_array_equal(mesh.uv[1], [[0, 0], [1, 1], [0, 1]])
    np.testing.assert_array_equal(mesh.uv[0], np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("mtl", "files", "warning"),
    [
        (b"newmtl m\nKd .2 .4 .6\nmap_Kd gone.png", {}, "missing_texture"),
        (b"newmtl m\nKd .2 .4 .6\nmap_Kd b.png", {"b.png": b"no picture"}, "unreadable_texture"),
        (
            b"newmtl m\nKd .2 .4 .6\nmap_Kd b.png",
            {"b.png": png((0, 0, 0), (400, 400))},
            "texture_too_large",
        ),
    ],
)
def test_a_texture_that_cannot_be_had_leaves_the_colour_and_a_warning(mtl, files, warning):
    obj = b"mtllib m.mtl\nusemtl m\n" + TRIANGLE_OBJ
    limits = MeshLimits(texture=TextureLimits(max_px=300 * 300))
    mesh = read_mesh(obj, "a.obj", ({"m.mtl": mtl} | files).get, limits)
    assert mesh.warnings == (warning,)
    assert diffuse_by_face(mesh) == [(0.2, 0.4, 0.6)]
    assert mesh.materials[0].texture is None


def test_a_picture_that_says_it_is_huge_is_not_decoded():
    # The header of a PNG of 60,000 x 60,000 px; Pillow itself calls that a bomb.
    size = struct.pack(">II", 60_000, 60_000)
    bomb = png((0, 0, 0)).replace(struct.pack(">II", 2, 2), size)
    header = bomb[12:29]
    bomb = bomb.replace(bomb[29:33], struct.pack(">I", zlib.crc32(header)))
    obj = b"mtllib m.mtl\nusemtl m\n" + TRIANGLE_OBJ
    mesh = read_mesh(obj, "a.obj", {"m.mtl": b"newmtl m\nmap_Kd b.png", "b.png": bomb}.get)
    assert mesh.warnings == ("texture_too_large",)


def test_large_textures_are_reduced():
    obj = b"mtllib m.mtl\nusemtl m\n" + TRIANGLE_OBJ
    files = {"m.mtl": b"newmtl m\nmap_Kd b.png", "b.png": png((9, 9, 9), (300, 600))}
    limits = MeshLimits(texture=TextureLimits(max_side_px=100))
    texture = read_mesh(obj, "a.obj", files.get, limits).materials[0].texture
    assert texture is not None
    assert texture.shape == (100, 50, 3)


def test_a_material_that_no_library_holds_is_grey_and_a_warning():
    mesh = read_mesh(b"mtllib gone.mtl\nusemtl m\n" + TRIANGLE_OBJ, "a.obj")
    assert mesh.warnings == ("missing_material",)
    assert diffuse_by_face(mesh) == [(0.8, 0.8, 0.8)]


def test_transparency_hides_nothing_whichever_way_it_is_written():
    # `d 0` and `Tr 1` mean invisible, but programs write them the wrong way round too.
    for line in (b"d 0", b"d 1", b"Tr 0", b"Tr 1"):
        files = {"m.mtl": b"newmtl m\nKd 0 1 0\n" + line}
        mesh = read_mesh(b"mtllib m.mtl\nusemtl m\n" + TRIANGLE_OBJ, "a.obj", files.get)
        assert diffuse_by_face(mesh) == [(0.0, 1.0, 0.0)]
        assert mesh.warnings == ()


def test_texture_coordinates_beyond_the_picture_are_kept_for_wrapping():
    obj = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nvt -3.5 7\nvt 2 0\nvt 0\nf 1/1 2/2 3/3\n"
    assert read_mesh(obj, "a.obj").uv.tolist() == [[[-3.5, 7.0], [2.0, 0.0], [0.0, 0.0]]]


def test_double_faces_are_both_kept_each_with_its_own_front():
    mesh = read_mesh(TRIANGLE_OBJ + b"f 3 2 1\n", "a.obj")
    fronts = face_normals(mesh.vertices, mesh.faces)
    np.testing.assert_allclose(fronts, [[0, 0, 1], [0, 0, -1]])
    assert mesh.warnings == ()


def test_a_name_that_only_begins_like_a_keyword_is_passed_over():
    obj = b"usemap x\nmtllibs y\nvp 1 2\nvertex\nfo 1 2 3\nfar\n" + TRIANGLE_OBJ
    mesh = read_mesh(obj, "a.obj")
    assert len(mesh.faces) == 1
    assert mesh.warnings == ()


def test_a_broken_line_is_quoted_with_its_number():
    with pytest.raises(MeshError, match=r"line 2: 'v 1 zero 0' cannot be read"):
        read_mesh(TRIANGLE_OBJ.replace(b"v 1 0 0", b"v 1 zero 0"), "a.obj")


def test_negative_indices_count_back_from_their_line():
    obj = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 5 0 0\nv 6 0 0\nv 5 1 0\nf -3 -2 -1\n"
    plain = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\nv 5 0 0\nv 6 0 0\nv 5 1 0\nf 4 5 6\n"
    assert triangles(read_mesh(obj, "a.obj")) == triangles(read_mesh(plain, "a.obj"))


def test_continued_lines_tabs_carriage_returns_and_comments_are_understood():
    obj = b"# a comment\r\nv\t0 0 0\r\nv 1 0 0 # one\r\nv 0 \\\r\n1 0\r\n\r\nf 1 2 \\\r\n3\r\n"
    assert triangles(read_mesh(obj, "a.obj")) == triangles(read_mesh(TRIANGLE_OBJ, "a.obj"))


def polygon_obj(outline):
    lines = [f"v {x} {y} {z}" for x, y, z in outline]
    return "\n".join([*lines, "f " + " ".join(str(i + 1) for i in range(len(lines)))]).encode()


# Outlines that a fan would cut wrongly, and their areas.
OUTLINES = {
    "arrow": ([(0, 0), (2, 1), (0, 2), (0.5, 1)], 1.5),
    "letter_L": ([(0, 0), (2, 0), (2, 1), (1, 1), (1, 3), (0, 3)], 4.0),
    "comb": ([(0, 0), (5, 0), (5, 2), (4, 2), (4, 1), (3, 1), (3, 2), (2, 2), (2, 1), (0, 1)], 7.0),
    "hole_by_a_bridge": (
        [(0, 0), (3, 0), (3, 3), (0, 3), (0, 0), (1, 1), (1, 2), (2, 2), (2, 1), (1, 1)],
        8.0,
    ),
}


@pytest.mark.parametrize("plane", ["xy", "yz", "zx", "slanted"])
@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("name", OUTLINES)
def test_concave_polygons_keep_their_area_and_winding(name, is_turned, plane):
    outline, area = OUTLINES[name]
    flat = np.array([(x, y, 0.0) for x, y in (outline[::-1] if is_turned else outline)])
    axes = {"xy": [0, 1, 2], "yz": [2, 0, 1], "zx": [1, 2, 0]}
    if plane == "slanted":
        rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
        placed = flat @ (rotation * np.linalg.det(rotation)).T
        front = (rotation * np.linalg.det(rotation)) @ [0, 0, 1]
    else:
        placed, front = flat[:, axes[plane]], np.array([0, 0, 1])[axes[plane]]
    mesh = read_mesh(polygon_obj(placed), "a.obj")
    # Triangles that lap over or turn over would raise or lower one of the two sums.
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    np.testing.assert_allclose(face_areas(corners).sum(), area, rtol=1e-5)
    expected = np.broadcast_to(-front if is_turned else front, (len(mesh.faces), 3))
    np.testing.assert_allclose(face_normals(mesh.vertices, mesh.faces), expected, atol=1e-5)


def test_convex_polygons_become_fans():
    outline = [(math.cos(a), math.sin(a), 0.0) for a in np.arange(7) * math.tau / 7]
    mesh = read_mesh(polygon_obj(outline), "a.obj")
    assert mesh.faces.tolist() == [[0, i, i + 1] for i in range(1, 6)]


def test_colours_behind_the_positions_are_read():
    obj = b"v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 0.5\nf 1 2 3\n"
    colors = read_mesh(obj, "a.obj").vertex_colors
    assert colors is not None
    assert colors.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 128]]


@pytest.mark.parametrize(
    "obj",
    [
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n",
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -4\n",
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 0\n",
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/1 2/1 3/1\n",
        b"v 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        b"v 0 0 zero\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    ],
    ids=["beyond", "before", "zero", "no_vt", "short", "no_number"],
)
def test_a_broken_obj_is_unreadable(obj):
    assert refusal(obj, "a.obj") == "unreadable"


# --- OFF


@pytest.mark.parametrize(
    "header", ["OFF\n8 6 0", "OFF 8 6 0", "OFF8 6 0", "# comment\nOFF\n# more\n8 6 12"]
)
def test_off_headers_as_they_are_met_are_read(header):
    cube = trimesh.creation.box()
    squares = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    lines = [header, *(" ".join(map(str, vertex)) for vertex in cube.vertices)]
    lines += ["4 " + " ".join(map(str, square)) + " 255 0 0" for square in squares]
    mesh = read_mesh("\n".join(lines).encode(), "cube.off")
    assert len(mesh.faces) == 12
    outward = mesh.vertices[mesh.faces].mean(axis=1)
    normals = face_normals(mesh.vertices, mesh.faces)
    assert len({int(np.sign((n * o).sum())) for n, o in zip(normals, outward, strict=True)}) == 1


@pytest.mark.parametrize(
    "off",
    [b"3 1 0\n0 0 0\n", b"OFF\n3 1 0\n0 0 0\n1 0 0\n", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3"],
)
def test_a_broken_off_is_unreadable(off):
    assert refusal(off, "a.off") == "unreadable"


# --- PLY and STL


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".stl_ascii"])
def test_every_format_gives_the_same_triangles(suffix):
    shape = trimesh.creation.icosphere(subdivisions=1)
    match suffix:
        case ".gltf":
            content = gltf(shape)
        case ".wrl":
            content = wrl(shape, times=1)
        case _:
            content = shape.export(file_type=suffix[1:])
            content = content.encode() if isinstance(content, str) else content
    suffix = suffix.removesuffix("_ascii")
    mesh = read_mesh(content, f"ball{suffix}")
    expected = Mesh(
        vertices=shape.vertices.astype(np.float32),
        faces=shape.faces.astype(np.int32),
        face_material=np.zeros(len(shape.faces), np.int32),
        materials=(Material((1.0, 1.0, 1.0)),),
        uv=np.zeros((len(shape.faces), 3, 2), np.float32),
    )
    assert mesh.warnings == ()
    np.testing.assert_allclose(triangles(mesh), triangles(expected), atol=2e-5)


def test_ply_colours_of_vertices_and_of_faces_are_read():
    shape = trimesh.creation.box()
    colors = np.arange(24, dtype=np.uint8).reshape(8, 3) * 10
    shape.visual = trimesh.visual.ColorVisuals(shape, vertex_colors=colors)
    mesh = read_mesh(shape.export(file_type="ply"), "a.ply")
    assert mesh.vertex_colors is not None
    np.testing.assert_array_equal(mesh.vertex_colors, colors)
    assert diffuse_by_face(mesh) == [(1.0, 1.0, 1.0)] * 12
    shape = trimesh.creation.box()
    faces = np.repeat(np.array([[255, 0, 0], [0, 0, 255]], np.uint8), 6, axis=0)
    shape.visual = trimesh.visual.ColorVisuals(shape, face_colors=faces)
    mesh = read_mesh(shape.export(file_type="ply"), "a.ply")
    assert diffuse_by_face(mesh) == [(1.0, 0.0, 0.0)] * 6 + [(0.0, 0.0, 1.0)] * 6


def test_an_stl_whose_count_lies_is_refused():
    content = bytearray(trimesh.creation.box().export(file_type="stl"))
    content[80:84] = struct.pack("<I", 40_000_000)
    with pytest.raises(MeshError, match="says 40000000 triangles, which take 2000000084") as caught:
        read_mesh(bytes(content), "a.stl")
    assert caught.value.reason == "unreadable"
    content[80:84] = struct.pack("<I", 0)  # too low: would be an empty mesh
    assert refusal(bytes(content), "a.stl") == "unreadable"


def test_an_stl_text_that_is_cut_short_is_refused():
    content = trimesh.creation.box().export(file_type="stl_ascii").encode()
    assert len(read_mesh(content, "a.stl").faces) == 12
    for end in (b"endsolid", b"vertex", b"outer"):
        assert refusal(content[: content.rfind(end)], "a.stl") == "unreadable"


def test_counts_beyond_the_limits_are_too_large_in_every_format():
    limits = MeshLimits(max_faces=10)
    for suffix in (".stl", ".ply", ".off", ".obj", ".glb", ".gltf", ".wrl"):
        content = sound_files()[suffix][0]
        assert refusal(content, f"a{suffix}", limits=limits) == "too_large"
    crowd = b"v 0 0 0\n" * 31 + b"f 1 2 3\n"
    assert refusal(crowd, "a.obj", limits=limits) == "too_large"


def test_a_ply_whose_count_lies_is_refused():
    content = trimesh.creation.box().export(file_type="ply")
    lying = content.replace(b"element face 12", b"element face 40000000")
    assert lying != content
    assert refusal(lying, "a.ply") == "unreadable"


def test_a_ply_whose_faces_have_two_corners_is_refused():
    header = (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\n"
        b"property float y\nproperty float z\nelement face 2\n"
        b"property list uchar int vertex_indices\nend_header\n"
    )
    lines = np.eye(3, dtype="<f4").tobytes() + struct.pack("<BiiBii", 2, 0, 1, 2, 1, 2)
    # The message, because the tests' own checks of shapes would refuse it too.
    with pytest.raises(MeshError, match=r"unreadable: .*faces of shape \(2, 2\) are no triangles"):
        read_mesh(header + lines, "a.ply")


# --- GLB


def two_coloured_scene():
    """Two boxes, one of them placed twice: moved, and mirrored."""
    red = trimesh.creation.box(extents=(1, 2, 3))
    red.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(baseColorFactor=[255, 0, 0, 255])
    )
    wood = trimesh.creation.icosphere(subdivisions=1)
    picture = Image.new("RGB", (4, 2))
    picture.putdata([(10 * i, 20, 30) for i in range(8)])
    picture.format = "PNG"
    wood.visual = trimesh.visual.TextureVisuals(
        uv=np.random.default_rng(0).uniform(-1, 2, (len(wood.vertices), 2)),
        material=trimesh.visual.material.PBRMaterial(baseColorTexture=picture),
    )
    scene = trimesh.Scene()
    scene.add_geometry(red, geom_name="red", transform=translation(5, 0, 0))
    scene.add_geometry(wood, geom_name="wood")
    mirrored = translation(0, 4, 0)
    mirrored[0, 0] = -2
    scene.graph.update(frame_to="again", geometry="wood", matrix=mirrored)
    return scene


def translation(x, y, z):
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def test_glb_parts_are_placed_by_their_nodes_with_their_fronts_outside():
    scene = two_coloured_scene()
    mesh = read_mesh(scene.export(file_type="glb"), "a.glb")
    assert len(mesh.faces) == 12 + 2 * 80
    assert mesh.warnings == ()
    baked = scene.to_mesh()
    np.testing.assert_allclose(
        [mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)], baked.bounds, atol=1e-5
    )
    # The volume of closed surfaces is positive where fronts are outside; trimesh's own is the sum.
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    volume = np.einsum("mc,mc->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    np.testing.assert_allclose(volume, abs(baked.volume), rtol=1e-5)
    assert volume > 6


def test_glb_textures_and_factors_reach_their_faces():
    scene = two_coloured_scene()
    mesh = read_mesh(scene.export(file_type="glb"), "a.glb")
    assert len(mesh.materials) == 2
    is_red = np.array([mesh.materials[row].texture is None for row in mesh.face_material])
    assert is_red.sum() == 12
    assert {mesh.materials[row].diffuse for row in mesh.face_material[is_red]} == {(1.0, 0.0, 0.0)}
    texture = next(m.texture for m in mesh.materials if m.texture is not None)
    assert texture[0, :, 0].tolist() == [0, 10, 20, 30]
    wood = scene.geometry["wood"]
    uv_of = {tuple(np.round(v, 4)): uv for v, uv in zip(wood.vertices, wood.visual.uv, strict=True)}
    corners = mesh.vertices[mesh.faces][~is_red][:80]
    inside = np.abs(corners).max(axis=(1, 2)) < 1.01  # the ball that was not moved
    for corner, uv in zip(
        corners[inside].reshape(-1, 3), mesh.uv[~is_red][:80][inside].reshape(-1, 2), strict=True
    ):
        nearest = min(uv_of, key=lambda v: np.abs(np.array(v) - corner).sum())
        np.testing.assert_allclose(uv, uv_of[nearest], atol=1e-5)


def glb(header, binary):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I", len(text)) + b"JSON" + text
    chunks += struct.pack("<I", len(binary)) + b"BIN\0" + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def triangle_glb(**changes):
    """Write a GLB of one triangle, by hand."""
    positions = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes()
    header = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteOffset": 0, "byteLength": len(positions)}],
        "buffers": [{"byteLength": len(positions)}],
    }
    return glb(header | changes, positions)


def test_a_linear_colour_factor_becomes_srgb():
    primitive = {"attributes": {"POSITION": 0}, "material": 0}
    look = {"pbrMetallicRoughness": {"baseColorFactor": [0.2140, 1.0, 0.0, 1.0]}}
    mesh = read_mesh(
        triangle_glb(meshes=[{"primitives": [primitive]}], materials=[look]), "triangle.glb"
    )
    # Linear 0.214 is sRGB 0.5; trimesh keeps linear factors as bytes, hence the tolerance.
    np.testing.assert_allclose(mesh.materials[0].diffuse, (0.5, 1.0, 0.0), atol=0.005)


def test_a_glb_texture_that_is_not_there_leaves_a_warning():
    primitive = {"attributes": {"POSITION": 0}, "material": 1}
    textured = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}
    content = triangle_glb(
        meshes=[{"primitives": [primitive]}],
        materials=[{}, textured],
        textures=[{"source": 0}],
        images=[{"uri": "https://example.org/wood.png"}],
    )
    assert read_mesh(content, "a.glb").warnings == ("missing_texture",)


def test_a_glb_that_would_unpack_to_millions_of_vertices_is_too_large():
    zeros = {"componentType": 5126, "count": 40_000_000, "type": "VEC3"}
    assert refusal(triangle_glb(accessors=[zeros]), "a.glb") == "too_large"


def test_a_glb_that_repeats_a_mesh_beyond_the_limit_is_too_large():
    nodes = [{"mesh": 0} for _ in range(50)]
    content = triangle_glb(nodes=nodes, scenes=[{"nodes": list(range(50))}])
    assert len(read_mesh(content, "a.glb").faces) == 50
    assert refusal(content, "a.glb", limits=MeshLimits(max_faces=49)) == "too_large"


def test_a_gltf_finds_the_buffers_and_pictures_that_it_names():
    shape = trimesh.creation.box()
    files = shape.export(file_type="gltf")
    header = json.loads(files.pop("model.gltf"))
    header["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
    header["meshes"][0]["primitives"][0]["material"] = 0
    header["textures"], header["images"] = [{"source": 0}], [{"uri": "my%20wood.png"}]
    files["my wood.png"] = png((1, 2, 3))
    content = json.dumps(header).encode()
    mesh = read_mesh(content, "a.gltf", files.get)
    assert (len(mesh.faces), mesh.warnings) == (12, ())
    assert mesh.materials[0].texture is not None
    del files["my wood.png"]
    assert read_mesh(content, "a.gltf", files.get).warnings == ("missing_texture",)
    assert refusal(content, "a.gltf") == "unreadable"


def test_a_gltf_that_is_packed_is_refused_and_not_empty():
    content = triangle_glb(extensionsRequired=["KHR_draco_mesh_compression"])
    with pytest.raises(MeshError, match="packed by KHR_draco_mesh_compression; unpack it first"):
        read_mesh(content, "a.glb")


@pytest.mark.parametrize("num_bytes", [0, 3, 19, 60, 380])
def test_a_cut_glb_is_unreadable(num_bytes):
    assert refusal(triangle_glb()[:num_bytes], "a.glb") == "unreadable"


def test_an_index_beyond_the_vertices_is_unreadable():
    binary = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes()
    binary += np.array([0, 1, 7, 0], "<u2").tobytes()
    header = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": 8},
        ],
        "buffers": [{"byteLength": len(binary)}],
    }
    assert refusal(glb(header, binary), "a.glb") == "unreadable"


# --- limits and refusals of any format


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"garbage\n" * 20, bytes(range(256)) * 4])
def test_what_is_no_mesh_is_refused_with_a_reason(suffix, content):
    assert refusal(content, f"a{suffix}") in {"no_faces", "unreadable"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_give_a_sound_mesh_or_a_reason(suffix):
    content = sound_files()[suffix][0]
    generator = np.random.default_rng(0)
    limits = MeshLimits(max_faces=1000)
    num_read = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(generator.integers(1, 4)):
            damaged[generator.integers(len(damaged))] = generator.integers(256)
        try:
            mesh = read_mesh(bytes(damaged), f"box{suffix}", limits=limits)
        except MeshError:
            continue
        num_read += 1
        assert np.isfinite(mesh.vertices).all()
        assert 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices)
        np.testing.assert_allclose(np.linalg.norm(mesh.corner_normals, axis=2), 1, atol=1e-5)
    assert num_read > 0  # else nothing was tested but the refusals


def test_an_unknown_format_is_unreadable():
    assert refusal(b"", "a.blend") == "unreadable"


def test_limits_on_bytes_and_faces_hold():
    square = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n"
    assert refusal(square, "a.obj", limits=MeshLimits(max_faces=1)) == "too_large"
    assert refusal(square, "a.obj", limits=MeshLimits(max_file_bytes=20)) == "too_large"


def test_points_without_faces_are_no_mesh():
    assert refusal(b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "a.obj") == "no_faces"
    assert refusal(b"OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", "a.off") == "no_faces"
    cloud = trimesh.PointCloud(np.eye(3)).export(file_type="ply")
    assert refusal(cloud, "a.ply") == "no_faces"


@pytest.mark.parametrize("number", ["nan", "inf", "1e39"])  # 1e39 is beyond float32
def test_faces_with_a_vertex_that_is_not_finite_are_dropped(number):
    good = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    bad = f"v {number} 0 0\nv 1 0 0\nv 0 1 0\nf -1 -2 -3\n"
    mesh = read_mesh((good + bad).encode(), "a.obj")
    assert mesh.warnings == ("non_finite_faces",)
    assert len(mesh.faces) == 1
    assert len(mesh.vertices) == 3
    assert np.isfinite(mesh.vertices).all()
    assert refusal(bad.encode(), "a.obj") == "not_finite"


def test_a_face_that_is_flat_but_for_rounding_has_no_area():
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    line = (np.outer([0, 0.37, 1], rotation[0]) + 0.7 * rotation[1]).tolist()
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]).tolist()
    corners = [f"v {x:.7f} {y:.7f} {z:.7f}" for x, y, z in square + line]
    mesh = read_mesh("\n".join([*corners, "f 1 2 3 4", "f 5 6 7"]).encode(), "a.obj")
    assert mesh.warnings == ("zero_area_faces",)
    assert len(mesh.faces) == 2


def test_faces_without_area_are_dropped_and_vertices_that_none_uses():
    flat = b"v 9 9 9\nv 0 0 0\nv 1 0 0\nv 2 0 0\nf 2 3 4\nf 2 2 3\n"
    mesh = read_mesh(flat + b"v 0 1 0\nf 2 3 5\n", "a.obj")
    assert mesh.warnings == ("zero_area_faces",)
    assert triangles(mesh) == triangles(read_mesh(TRIANGLE_OBJ, "a.obj"))
    assert len(mesh.vertices) == 3
    assert refusal(flat, "a.obj") == "degenerate"


def test_memory_that_runs_out_is_no_fault_of_the_file(monkeypatch):
    def run_out(*arguments):
        raise MemoryError

    monkeypatch.setattr(readers, "parse_obj", run_out)
    with pytest.raises(MemoryError):
        read_mesh(TRIANGLE_OBJ, "a.obj")


@pytest.mark.parametrize("mirrors", [False, True])
def test_a_turned_mesh_keeps_its_surface_its_fronts_and_its_texture(mirrors):
    obj = (
        b"v 0 0 0\nv 1 0 0\nv 0 1 2\nv 3 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nvt 1 1\n"
        b"f 1/1 2/2 3/3\nf 2/2 4/4 3/3\n"
    )
    mesh = read_mesh(obj, "a.obj")
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation) * (-1 if mirrors else 1)
    turned = turn(mesh, tuple(rotation.ravel().tolist()))
    np.testing.assert_allclose(turned.vertices, mesh.vertices @ rotation.T, atol=1e-6)
    # The front of a surface is carried along like its points.
    before = face_normals(mesh.vertices, mesh.faces) @ rotation.T
    np.testing.assert_allclose(face_normals(turned.vertices, turned.faces), before, atol=1e-6)
    assert mesh.corner_normals is not None
    assert turned.corner_normals is not None
    uv_of = {
        tuple(v): tuple(uv)
        for v, uv in zip(mesh.faces.ravel()[:, None], mesh.uv.reshape(-1, 2), strict=True)
    }
    for vertex, uv in zip(turned.faces.ravel()[:, None], turned.uv.reshape(-1, 2), strict=True):
        assert uv_of[tuple(vertex)] == tuple(uv)


def test_numbers_that_are_no_rotation_are_refused():
    mesh = read_mesh(TRIANGLE_OBJ, "a.obj")
    with pytest.raises(MeshError, match="no rotation"):
        turn(mesh, (2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


# --- normals


def test_smooth_normals_of_a_ball_point_outwards_and_of_a_box_stay_flat():
    ball = read_mesh(trimesh.creation.icosphere(subdivisions=3).export(file_type="stl"), "a.stl")
    radial = ball.vertices[ball.faces]
    assert ball.corner_normals is not None
    # The facets of this ball meet at less than 0.2 rad, their mean is far closer to the radius.
    assert (ball.corner_normals * radial).sum(axis=2).min() > math.cos(0.02)
    box = read_mesh(trimesh.creation.box().export(file_type="stl"), "a.stl")
    flat = np.repeat(face_normals(box.vertices, box.faces)[:, None], 3, axis=1)
    np.testing.assert_allclose(box.corner_normals, flat, atol=1e-6)


def test_the_crease_angle_decides_between_smooth_and_sharp():
    bend_rad = math.radians(30)
    x, y = math.cos(bend_rad), math.sin(bend_rad)
    # Two squares that meet along the z axis.
    vertices = np.array(
        [[0, 0, 0], [0, 0, 1], [-1, 0, 1], [-1, 0, 0], [x, y, 0], [x, y, 1]], dtype=np.float32
    )
    faces = np.array([[0, 3, 2], [0, 2, 1], [0, 1, 5], [0, 5, 4]], dtype=np.int32)
    flat = np.repeat(face_normals(vertices, faces)[:, None], 3, axis=1)
    sharp = crease_normals(vertices, faces, crease_rad=math.radians(29))
    np.testing.assert_allclose(sharp, flat, atol=1e-6)
    smooth = crease_normals(vertices, faces, crease_rad=math.radians(31))
    # On the edge both sides agree on the normal half way between, away from it each has its own.
    edge = smooth[np.isin(faces, [0, 1])]
    half_way = flat[0, 0] + flat[2, 0]
    np.testing.assert_allclose(
        edge, np.tile(half_way / np.linalg.norm(half_way), (len(edge), 1)), atol=1e-6
    )
    np.testing.assert_allclose(
        smooth[~np.isin(faces, [0, 1])], flat[~np.isin(faces, [0, 1])], atol=1e-6
    )


def test_smooth_normals_do_not_depend_on_how_vertices_are_shared_or_wound():
    shape = trimesh.creation.icosphere(subdivisions=2)
    vertices, faces = shape.vertices.astype(np.float32), shape.faces.astype(np.int32)
    shared = crease_normals(vertices, faces)
    apart = crease_normals(
        vertices[faces].reshape(-1, 3), np.arange(faces.size, dtype=np.int32).reshape(-1, 3)
    )
    np.testing.assert_allclose(apart, shared, atol=1e-6)
    is_turned = np.random.default_rng(0).random(len(faces)) < 0.5
    turned = crease_normals(vertices, np.where(is_turned[:, None], faces[:, ::-1], faces))
    expected = np.where(is_turned[:, None, None], -shared[:, ::-1], shared)
    np.testing.assert_allclose(turned, expected, atol=1e-6)


def ball_with_normals(normals):
    shape = trimesh.creation.icosphere(subdivisions=1)
    faces = shape.faces.astype(np.int32)
    return Mesh(
        vertices=shape.vertices.astype(np.float32),
        faces=faces,
        face_material=np.zeros(len(faces), np.int32),
        materials=(Material((1.0, 1.0, 1.0)),),
        uv=np.zeros((len(faces), 3, 2), np.float32),
        corner_normals=normals(shape.vertices[faces]).astype(np.float32),
    )


def test_normals_of_the_file_are_kept_at_unit_length_on_the_front():
    def tilted(corners):
        return corners + np.array([0.2, 0, 0])

    expected = tilted(trimesh.creation.icosphere(subdivisions=1).triangles)
    expected /= np.linalg.norm(expected, axis=2, keepdims=True)
    for factor in (1, 7, -3):
        mended = mend(ball_with_normals(lambda corners, k=factor: k * tilted(corners)))
        np.testing.assert_allclose(mended.corner_normals, expected, atol=1e-6)


def test_normals_of_the_file_that_make_no_sense_are_computed():
    def spoil(values, corners):
        normals = corners.copy()
        normals[: len(normals) // 2] = values
        return normals

    computed = None
    for values in (0.0, np.nan, np.inf):
        mesh = ball_with_normals(lambda corners, v=values: spoil(v, corners))
        computed = crease_normals(mesh.vertices, mesh.faces)
        np.testing.assert_array_equal(mend(mesh).corner_normals, computed)


def test_a_disk_that_fails_is_no_fault_of_the_mesh(tmp_path):
    """Reading a process's memory from its start is an input/output error."""
    failing = Path("/proc/self/mem")
    with pytest.raises(TransientStoreError, match="check the disk"):
        read_mesh_file(failing)
    (tmp_path / "a.obj").write_bytes(b"mtllib a.mtl\n" + TRIANGLE_OBJ)
    (tmp_path / "a.mtl").symlink_to(failing)
    with pytest.raises(TransientStoreError, match="check the disk"):
        read_mesh_file(tmp_path / "a.obj", root=Path("/"))


def test_a_mesh_file_finds_its_companions_in_its_root_and_not_elsewhere(tmp_path):
    models = tmp_path / "outer" / "models"
    (tmp_path / "outer" / "images").mkdir(parents=True)
    models.mkdir()
    (models / "a.obj").write_bytes(b"mtllib a.mtl\nusemtl m\n" + TRIANGLE_OBJ)
    (tmp_path / "outer" / "images" / "t.png").write_bytes(png((1, 2, 3)))
    (tmp_path / "secret.png").write_bytes(png((1, 2, 3)))
    (models / "a.mtl").write_bytes(b"newmtl m\nmap_Kd ../images/t.png")
    outer = tmp_path / "outer"
    assert read_mesh_file(models / "a.obj", root=outer).materials[0].texture is not None
    assert read_mesh_file(models / "a.obj").warnings == ("missing_texture",)
    for name in ("../../secret.png", str(tmp_path / "secret.png"), "n" * 300):
        (models / "a.mtl").write_text(f"newmtl m\nmap_Kd {name}")
        mesh = read_mesh_file(models / "a.obj", root=outer)
        assert mesh.materials[0].texture is None
        assert mesh.warnings == ("missing_texture",)


def test_an_error_survives_pickling_and_can_be_written():
    error = pickle.loads(pickle.dumps(MeshError("unreadable", "no \ud800")))
    assert (error.reason, str(error)) == ("unreadable", r"unreadable: no \ud800")
    assert str(error).encode()


def test_a_mesh_file_that_cannot_be_read_is_refused_with_a_reason(tmp_path):
    (tmp_path / "folder.off").mkdir()
    (tmp_path / "link.off").symlink_to("nowhere")
    for name in ("folder.off", "link.off", "gone.off"):
        with pytest.raises(MeshError, match="not there, or no plain file") as caught:
            read_mesh_file(tmp_path / name)
        assert caught.value.reason == "unreadable"


def test_a_mesh_file_that_the_system_refuses_is_refused_with_a_reason(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.obj").write_bytes(TRIANGLE_OBJ)
    monkeypatch.setattr(type(tmp_path), "read_bytes", refuse)  # the tests' user may be root
    with pytest.raises(MeshError, match="Permission denied") as caught:
        read_mesh_file(tmp_path / "a.obj")
    assert caught.value.reason == "unreadable"
