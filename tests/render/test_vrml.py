"""VRML files by hand, and what they show."""

import numpy as np
import pytest

from picpoint.geometry.clouds import face_areas
from picpoint.render import vrml
from picpoint.render.meshes import MeshError
from picpoint.render.normals import face_normals
from picpoint.render.readers import MeshLimits, read_mesh

HEADER = "#VRML V2.0 utf8\n"
POINTS = "coord Coordinate { point [0 0 0, 1 0 0, 1 1 0, 0 1 0] }"
SQUARE = f"geometry IndexedFaceSet {{ {POINTS} coordIndex [0, 1, 2, 3, -1] }}"
RED = "appearance Appearance { material DEF RED Material { diffuseColor 1 0 0 } }"


def read(text, **limits):
    return read_mesh((HEADER + text).encode(), "a.wrl", limits=MeshLimits(**limits))


def refusal(text, **limits):
    with pytest.raises(MeshError) as caught:
        read(text, **limits)
    return caught.value


def diffuse_by_face(mesh):
    return [tuple(np.round(mesh.materials[row].diffuse, 2)) for row in mesh.face_material]


def test_a_part_as_kicad_writes_it_is_read():
    # The materials come first, in shapes without geometry; no blank before some braces.
    mesh = read(
        "#kicad StepUp wrl exported\n"
        "Shape {\n\tappearance Appearance {material DEF PIN-02 Material {\n"
        "\t\tambientIntensity 0.379\n\t\tdiffuseColor 0.859 0.738 0.496\n\t\ttransparency 0.0\n"
        "\t\t}\n\t}\n}\n"
        "Shape { geometry IndexedFaceSet \n{ creaseAngle 0.50 coordIndex [0,1,2,-1,3,0,2,-1]\n"
        "coord Coordinate { point [0.354 -6.819 1.900,0.354 -6.819 0.089,0.354 6.819 0.089,"
        "0.354 6.819 1.9e0]\n}}\nappearance Appearance{material USE PIN-02 }\n}\n"
    )
    assert mesh.faces.tolist() == [[0, 1, 2], [3, 0, 2]]
    np.testing.assert_allclose(mesh.vertices[3], [0.354, 6.819, 1.9], rtol=1e-6)
    assert diffuse_by_face(mesh) == [(0.86, 0.74, 0.49)] * 2
    assert mesh.warnings == ()


def test_used_nodes_stand_where_their_transforms_put_them():
    # Scaled by (2, 1, 1), turned a quarter around z, moved by (5, 0, 0): (1, 1, 0) -> (4, 2, 0).
    mesh = read(
        f"DEF S Shape {{ {RED} {SQUARE} }}\n"
        "Transform { translation 5 0 0 rotation 0 0 2 1.5707963 scale 2 1 1 children USE S }"
    )
    np.testing.assert_allclose(
        mesh.vertices[4:], [[5, 0, 0], [5, 2, 0], [4, 2, 0], [4, 0, 0]], atol=1e-6
    )
    assert diffuse_by_face(mesh) == [(1.0, 0.0, 0.0)] * 4


def test_centre_and_scale_orientation_follow_the_standard():
    # Around (1, 1, 0), twice as long along the diagonal: (0, 0, 0) -> (-1, -1, 0).
    mesh = read(
        "Transform { center 1 1 0 scale 2 1 1 scaleOrientation 0 0 1 0.78539816 "
        f"children [ Shape {{ {SQUARE} }} ] }}"
    )
    np.testing.assert_allclose(
        mesh.vertices, [[-1, -1, 0], [0.5, -0.5, 0], [1, 1, 0], [-0.5, 0.5, 0]], atol=1e-6
    )


def test_nested_transforms_are_applied_from_the_inside_out():
    mesh = read(
        "Transform { scale 3 3 3 children Group { children [ Transform { translation 1 0 0 "
        f"children Shape {{ {SQUARE} }} }} ] }} }}"
    )
    np.testing.assert_allclose(mesh.vertices[0], [3, 0, 0])


@pytest.mark.parametrize(
    ("text", "up"),
    [
        (f"Shape {{ {SQUARE} }}", 1),
        (f"Shape {{ {SQUARE[:-1]} ccw FALSE }} }}", -1),
        # A mirror leaves the front where it was.
        (f"Transform {{ scale -1 1 1 children Shape {{ {SQUARE} }} }}", 1),
        (f"Transform {{ scale -1 1 1 children Shape {{ {SQUARE[:-1]} ccw FALSE }} }} }}", -1),
    ],
)
def test_fronts_stay_fronts(text, up):
    mesh = read(text)
    np.testing.assert_allclose(face_normals(mesh.vertices, mesh.faces)[:, 2], up)


def test_polygons_may_be_concave_and_the_last_one_unclosed():
    mesh = read(
        "Shape { geometry IndexedFaceSet { coord Coordinate { point ["
        "0 0 0, 2 0 0, 2 1 0, 1 1 0, 1 3 0, 0 3 0] } coordIndex [0 1 2 3 4 5] } }"
    )
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    np.testing.assert_allclose(face_areas(corners).sum(), 4.0)


def test_colours_by_face_and_by_corner_replace_the_material_s():
    colors = "color Color { color [1 0 0, 0 0 1] }"
    two = f"geometry IndexedFaceSet {{ {POINTS} coordIndex [0 1 2 -1 0 2 3 -1] {colors} "
    by_face = read(f"Shape {{ {RED} {two} colorPerVertex FALSE }} }}")
    assert diffuse_by_face(by_face) == [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)]
    chosen = read(f"Shape {{ {RED} {two} colorPerVertex FALSE colorIndex [1 0] }} }}")
    assert diffuse_by_face(chosen) == [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]
    by_corner = read(f"Shape {{ {RED} {two} colorIndex [0 0 1 -1 1 1 0 -1] }} }}")
    assert diffuse_by_face(by_corner) == [(1.0, 1.0, 1.0)] * 2
    assert by_corner.vertex_colors is not None
    assert by_corner.vertex_colors[by_corner.faces][:, :, 0].tolist() == [
        [255, 255, 0],
        [0, 0, 255],
    ]


def test_a_switch_shows_its_choice_and_a_lod_its_finest_level():
    shapes = f"[ NULL Shape {{ {RED} {SQUARE} }} Shape {{ {SQUARE} }} ]"
    mesh = read(f"Switch {{ whichChoice 1 choice {shapes} }}")
    assert diffuse_by_face(mesh) == [(1.0, 0.0, 0.0)] * 2
    assert refusal(f"Switch {{ whichChoice 0 choice {shapes} }}").reason == "no_faces"
    assert refusal(f"Switch {{ choice {shapes} }}").reason == "no_faces"
    assert len(read(f"LOD {{ level {shapes} }}").faces) == 2


def test_lines_are_passed_over_and_other_surfaces_with_a_warning():
    lines = "Shape { geometry IndexedLineSet { coord Coordinate { point [0 0 0] } } }"
    assert read(f"{lines} Shape {{ {SQUARE} }}").warnings == ()
    for other in ("Shape { geometry Box { size 1 1 1 } }", 'Inline { url "a.wrl" }'):
        assert read(f"{other} Shape {{ {SQUARE} }}").warnings == ("unread_geometry",)
    textured = 'appearance Appearance { texture ImageTexture { url "a.png" } }'
    assert read(f"Shape {{ {textured} {SQUARE} }}").warnings == ("missing_texture",)


def test_use_within_use_cannot_grow_beyond_the_limits(monkeypatch):
    # Thirty lines that would place 2^30 squares.
    text = f"DEF N0 Shape {{ {SQUARE} }}\n" + "".join(
        f"DEF N{n} Group {{ children [ USE N{n - 1} USE N{n - 1} ] }}\n" for n in range(1, 31)
    )
    assert refusal(text, max_faces=500).reason == "too_large"
    monkeypatch.setattr(vrml, "_MAX_PLACED_NODES", 2000)
    empty = text.replace(SQUARE, "")
    assert refusal(empty).reason == "too_large"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Shape { geometry", "ends within a node"),
        (f"Shape {{ {SQUARE.replace('3, -1', '4, -1')} }}", "names a point that is not there"),
        (f"Shape {{ {SQUARE.replace('3, -1', '3.5, -1')} }}", "not whole"),
        (f"Shape {{ {SQUARE.replace('0 1 0]', '0 1]')} }}", "11 numbers, not a multiple of 3"),
        (f"Shape {{ {SQUARE.replace('0 1 0]', '0 x 0]')} }}", "a list of numbers cannot be read"),
        ("Shape { geometry USE gone }", "without its DEF"),
        ("PROTO Part [ ] { Group { } }", "PROTO is not read"),
        ("Group {" * 5000, "recursion"),
    ],
)
def test_a_broken_file_is_unreadable_and_says_where(text, rule):
    error = refusal(text)
    assert error.reason == "unreadable"
    assert rule in str(error)


def test_vrml_1_is_refused():
    with pytest.raises(MeshError, match=r"only '#VRML V2\.0 utf8' is read"):
        read_mesh(b"#VRML V1.0 ascii\nSeparator { }", "a.wrl")
