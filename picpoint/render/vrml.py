"""Which faces does a VRML 2.0 file show? Its indexed face sets, each placed and coloured.

The file becomes a tree of nodes whatever they are; then the tree is walked, once for every place
where it says `USE`. Group, Transform, Switch, LOD, Anchor, Billboard and Collision are followed;
lines, points, lights and text have no surface and are passed over; a surface that is no indexed
face set, such as Box or Inline, is passed over with a warning. Normals of the file are not read.

Source: ISO/IEC 14772-1:1997 (VRML97), sections 4.3 and 6.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from picpoint.render.meshes import MeshError
from picpoint.render.parts import Part
from picpoint.render.polygons import triangulate
from picpoint.render.scanner import as_text, fill_list, line_at

_HEADER = re.compile(rb"\s*#VRML V2\.0 utf8")
# Blanks, commas and comments; then a string, a bracket, or a word and whether a node opens there.
_GAP = rb"[\s,]*(?:#[^\n\r]*[\s,]*)*"
_TOKEN = re.compile(
    _GAP + rb'("(?:[^"\\]|\\.)*"|[\[\]{}]|[^\s,\[\]{}"#]+)(?=' + _GAP + rb"(\{)?)", re.DOTALL
)
_LIST_OF_NUMBERS = re.compile(_GAP + rb"[-+.0-9]")
_VALUES = {b"TRUE", b"FALSE", b"NULL"}
# Surfaces that are not read, and what brings in more nodes.
_UNREAD = {"Box", "Cone", "Cylinder", "Sphere", "ElevationGrid", "Extrusion", "Inline"}
# A few kilobytes of USE within USE can place a node more often than any machine can count.
_MAX_PLACED_NODES = 200_000
_GREY = (0.8, 0.8, 0.8)


@dataclass(slots=True)
class _Node:
    """A node as it stands in the file: words, lists of numbers and nodes, by field."""

    kind: str
    fields: "dict[str, list[_Value]]" = field(default_factory=dict[str, "list[_Value]"])

    def node(self, name: str) -> "_Node | None":
        for value in self.fields.get(name, ()):
            if isinstance(value, _Node):
                return value
        return None

    def nodes(self, name: str) -> "list[_Node]":
        return [value for value in self.fields.get(name, ()) if isinstance(value, _Node)]

    def is_false(self, name: str) -> bool:
        return self.fields.get(name, [])[:1] == [b"FALSE"]

    def numbers(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """Read a field of a fixed number of numbers."""
        words = [value for value in self.fields.get(name, ()) if isinstance(value, bytes)]
        values = tuple(float(word) for word in words[: len(default)])
        if 0 < len(values) < len(default):
            raise ValueError(f"{self.kind} {name} has {len(values)} of {len(default)} numbers")
        return values or default

    def array(self, name: str) -> Float64[np.ndarray, " k"]:
        """Read a list of numbers; one without brackets holds a single number or row."""
        values = self.fields.get(name, ())
        for value in values:
            if isinstance(value, np.ndarray):
                return value
        return np.array([float(word) for word in values if isinstance(word, bytes)], np.float64)


_Value = bytes | _Node | np.ndarray


@dataclass(frozen=True, slots=True)
class _FaceSet:
    """One indexed face set where the scene places it.

    Attributes:
        points: in its own frame.
        index: of `points`, -1 behind each polygon.
        diffuse: sRGB, 0..1.
        to_world: its own frame to the file's, or None where they are the same.
        is_clockwise: its polygons run clockwise seen from the front, in its own frame.
        vertex_colors: sRGB, or None.
        polygon_colors: sRGB, or None.
    """

    points: Float64[np.ndarray, "n 3"]
    index: Int64[np.ndarray, " i"]
    diffuse: tuple[float, ...]
    to_world: Float64[np.ndarray, "4 4"] | None
    is_clockwise: bool
    vertex_colors: UInt8[np.ndarray, "n 3"] | None = None
    polygon_colors: UInt8[np.ndarray, "p 3"] | None = None


@dataclass(slots=True)
class _Found:
    """What a walk over the tree has found so far."""

    max_faces: int
    face_sets: list[_FaceSet] = field(default_factory=list[_FaceSet])
    warnings: list[str] = field(default_factory=list[str])
    num_vertices: int = 0
    num_indices: int = 0
    num_nodes: int = 0


def parse_vrml(content: bytes, max_faces: int) -> Part:
    """Read the face sets of a VRML file.

    Args:
        content: the whole file.
        max_faces: a file with more than four times as many vertices or indices (a triangle has
            four), as USE repeats them, is refused before they are joined.

    Raises:
        ValueError: it is no VRML 2.0 file, or it is broken.
        MeshError: `too_large`.
    """
    if not _HEADER.match(content):
        raise ValueError(f"starts with {content[:20]!r}: only '#VRML V2.0 utf8' is read")
    found = _Found(max_faces)
    for node in _Parser(content).scene():
        _walk(node, None, found)
    return _join(found)


class _Parser:
    """Reads nodes from the text, from the front to the back."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.text = as_text(content)
        self.at = 0
        self.opens_node = False
        self.named: dict[bytes, _Node] = {}
        self.numbers = np.empty(len(content) // 2 + 1)  # a digit and a blank each

    def scene(self) -> Iterator[_Node]:
        """Yield the nodes at the top."""
        while _TOKEN.match(self.content, self.at):
            word = self._next()
            if word == b"ROUTE":  # from TO to
                for _ in range(3):
                    self._next()
            elif (node := self._statement(word)) is not None:
                yield node

    def _next(self) -> bytes:
        found = _TOKEN.match(self.content, self.at)
        if found is None:
            raise ValueError("the file ends within a node")
        self.at = found.end()
        self.opens_node = found[2] is not None
        return found[1]

    def _fail(self, why: str) -> ValueError:
        return ValueError(f"{line_at(self.content, min(self.at, len(self.content) - 1))}: {why}")

    def _statement(self, word: bytes) -> _Node | None:
        """Read a node whose first word was read: `DEF name Kind {`, `USE name`, `Kind {`, NULL."""
        if word == b"NULL":
            return None
        if word == b"USE":
            name = self._next()
            if name not in self.named:
                raise self._fail(f"USE {name!r} without its DEF")
            return self.named[name]
        if word == b"DEF":
            name = self._next()
            node = self._statement(self._next())
            if node is not None:
                self.named[name] = node
            return node
        if not self.opens_node or not word[:1].isalpha():
            raise self._fail(f"{word!r} begins no node (PROTO is not read)")
        self._next()
        return self._body(word.decode(errors="replace"))

    def _body(self, kind: str) -> _Node:
        """Read the fields of a node up to its `}`."""
        node = _Node(kind)
        values: list[_Value] = []
        while (word := self._next()) != b"}":
            if word == b"[":
                values.extend(self._list())
            elif self.opens_node or word == b"DEF" or word == b"USE":
                values.append(self._statement(word) or b"NULL")
            elif word[:1].isalpha() and word not in _VALUES:
                values = node.fields.setdefault(word.decode(errors="replace"), [])
            elif word == b"]":
                raise self._fail("']' where a field is due")
            else:
                values.append(word)
        return node

    def _list(self) -> "list[_Value]":
        """Read a list up to its `]`: numbers as one array, or nodes and words."""
        if _LIST_OF_NUMBERS.match(self.content, self.at):
            count, self.at = fill_list(self.text, self.at, self.numbers)
            if count < 0:
                raise self._fail("a list of numbers cannot be read")
            return [self.numbers[:count].copy()]
        values: list[_Value] = []
        while (word := self._next()) != b"]":
            is_node = self.opens_node or word in (b"DEF", b"USE")
            values.append((self._statement(word) or b"NULL") if is_node else word)
        return values


def _walk(node: _Node, to_world: Float64[np.ndarray, "4 4"] | None, found: _Found) -> None:
    """Add the faces of a node and of its children."""
    found.num_nodes += 1
    if found.num_nodes > _MAX_PLACED_NODES:
        raise MeshError("too_large", f"USE places more than {_MAX_PLACED_NODES} nodes")
    if node.kind == "Shape":
        _add_shape(node, to_world, found)
    elif node.kind in _UNREAD:
        found.warnings.append("unread_geometry")
    elif node.kind == "Transform":
        own = _transform(node)
        to_world = own if to_world is None else to_world @ own
    for child in _children(node):
        _walk(child, to_world, found)


def _children(node: _Node) -> list[_Node]:
    """Give the nodes below one that are shown with it."""
    match node.kind:
        case "Group" | "Transform" | "Anchor" | "Billboard" | "Collision":
            return node.nodes("children")
        case "LOD":
            return node.nodes("level")[:1]
        case "Switch":
            (which,) = node.numbers("whichChoice", (-1.0,))
            # A choice counts also where it is NULL.
            choices = node.fields.get("choice", [])
            chosen = choices[int(which)] if 0 <= which < len(choices) else None
            return [chosen] if isinstance(chosen, _Node) else []
        case _:
            return []


def _transform(node: _Node) -> Float64[np.ndarray, "4 4"]:
    """Compute a Transform's matrix: T C R SR S -SR -C, in the standard's order."""
    center = _shift(node.numbers("center", (0.0, 0.0, 0.0)))
    turn = _rotation(node.numbers("rotation", (0.0, 0.0, 1.0, 0.0)))
    scale_turn = _rotation(node.numbers("scaleOrientation", (0.0, 0.0, 1.0, 0.0)))
    scale = np.diag([*node.numbers("scale", (1.0, 1.0, 1.0)), 1.0])
    moved = _shift(node.numbers("translation", (0.0, 0.0, 0.0))) @ center @ turn @ scale_turn
    return moved @ scale @ scale_turn.T @ np.linalg.inv(center)


def _shift(by: tuple[float, ...]) -> Float64[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return matrix


def _rotation(axis_angle: tuple[float, ...]) -> Float64[np.ndarray, "4 4"]:
    """Give the matrix of a turn around an axis of any length; Rodrigues' formula."""
    x, y, z, angle_rad = axis_angle
    length = math.hypot(x, y, z)
    matrix = np.eye(4)
    if not (0 < length < math.inf and math.isfinite(angle_rad)):
        return matrix
    x, y, z = x / length, y / length, z / length
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = math.sin(angle_rad) * cross + (1 - math.cos(angle_rad)) * (cross @ cross)
    matrix[:3, :3] += turn
    return matrix


def _add_shape(shape: _Node, to_world: Float64[np.ndarray, "4 4"] | None, found: _Found) -> None:
    geometry, appearance = shape.node("geometry"), shape.node("appearance")
    if geometry is None or geometry.kind != "IndexedFaceSet":
        if geometry is not None and geometry.kind in _UNREAD:
            found.warnings.append("unread_geometry")
        return
    if appearance is not None and appearance.node("texture") is not None:
        found.warnings.append("missing_texture")
    material = None if appearance is None else appearance.node("material")
    coord = geometry.node("coord")
    face_set = _FaceSet(
        points=np.zeros((0, 3)) if coord is None else _rows(coord, "point"),
        index=_indices(geometry, "coordIndex"),
        diffuse=_GREY if material is None else material.numbers("diffuseColor", _GREY),
        to_world=to_world,
        is_clockwise=geometry.is_false("ccw"),
    )
    if (color := geometry.node("color")) is not None:
        face_set = _colored(face_set, geometry, _bytes(_rows(color, "color")))
    found.num_vertices += len(face_set.points)
    found.num_indices += len(face_set.index)
    if max(found.num_vertices, found.num_indices) > 4 * found.max_faces:
        raise MeshError("too_large", f"more than {found.max_faces} faces, as USE repeats them")
    found.face_sets.append(face_set)


def _colored(face_set: _FaceSet, geometry: _Node, colors: UInt8[np.ndarray, "k 3"]) -> _FaceSet:
    """Give a face set the colours of its Color node."""
    chosen, index = _indices(geometry, "colorIndex"), face_set.index
    if geometry.is_false("colorPerVertex"):
        num_polygons = int((index == -1).sum())
        chosen = chosen[:num_polygons] if len(chosen) else np.arange(num_polygons)
        return replace(face_set, polygon_colors=colors[chosen])
    # Every corner becomes a vertex of its own, with its own colour.
    is_corner = index >= 0
    chosen = chosen[chosen >= 0] if len(chosen) else index[is_corner]
    apart = np.full(len(index), -1)
    apart[is_corner] = np.arange(is_corner.sum())
    return replace(
        face_set,
        points=face_set.points[index[is_corner]],
        index=apart,
        diffuse=(1.0, 1.0, 1.0),
        vertex_colors=colors[chosen],
    )


def _rows(node: _Node, name: str) -> Float64[np.ndarray, "n 3"]:
    """Read a list of points or colours."""
    values = node.array(name)
    if len(values) % 3:
        raise ValueError(f"{node.kind} {name} has {len(values)} numbers, not a multiple of 3")
    return values.reshape(-1, 3)


def _indices(geometry: _Node, name: str) -> Int64[np.ndarray, " i"]:
    """Read a list of indices; the last one is -1."""
    values = geometry.array(name)
    with np.errstate(invalid="ignore"):
        index = values.astype(np.int64)
    if (index != values).any():
        raise ValueError(f"{name} holds a number that is not whole")
    return index if len(index) == 0 or index[-1] == -1 else np.append(index, -1)


def _bytes(colors: Float64[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 3"]:
    return np.rint(255 * np.nan_to_num(colors).clip(0, 1)).astype(np.uint8)


def _join(found: _Found) -> Part:
    """Cut all polygons into triangles and join them."""
    sets = found.face_sets
    if not sets:
        raise MeshError("no_faces", "the file holds no IndexedFaceSet")
    num_points = np.array([len(one.points) for one in sets])
    num_indices = np.array([len(one.index) for one in sets])
    index = np.concatenate([one.index for one in sets])
    if (index < -1).any() or (index >= np.repeat(num_points, num_indices)).any():
        raise ValueError("coordIndex names a point that is not there")
    ends = np.flatnonzero(index == -1)
    set_of_polygon = np.repeat(np.arange(len(sets)), num_indices)[ends]
    index += np.repeat(np.cumsum(num_points) - num_points, num_indices)
    corners = np.delete(index, ends)
    sizes = np.diff(ends, prepend=-1) - 1
    vertices = np.concatenate([_placed(one) for one in sets])
    triangles = triangulate(vertices, corners, sizes)
    faces = corners[triangles.rows]
    is_turned = np.array([_is_mirrored(one.to_world) != one.is_clockwise for one in sets])
    turned = is_turned[set_of_polygon[triangles.polygon]]
    faces[turned] = faces[turned][:, ::-1]
    polygon_colors = _bytes(np.array([one.diffuse for one in sets]))[set_of_polygon]
    for number, one in enumerate(sets):
        if one.polygon_colors is not None:
            polygon_colors[set_of_polygon == number] = one.polygon_colors
    return Part(
        vertices=vertices,
        faces=faces,
        vertex_colors=_joined_vertex_colors(sets),
        face_colors=polygon_colors[triangles.polygon],
        warnings=tuple(dict.fromkeys(found.warnings)),
    )


def _placed(face_set: _FaceSet) -> Float64[np.ndarray, "n 3"]:
    if face_set.to_world is None:
        return face_set.points
    return face_set.points @ face_set.to_world[:3, :3].T + face_set.to_world[:3, 3]


def _is_mirrored(to_world: Float64[np.ndarray, "4 4"] | None) -> bool:
    return to_world is not None and bool(np.linalg.det(to_world[:3, :3]) < 0)


def _joined_vertex_colors(sets: Sequence[_FaceSet]) -> UInt8[np.ndarray, "n 3"] | None:
    """Join the vertex colours; a face set without gets white, which changes nothing."""
    if all(one.vertex_colors is None for one in sets):
        return None
    white = [np.full((len(one.points), 3), 255, np.uint8) for one in sets]
    return np.concatenate(
        [
            plain if one.vertex_colors is None else one.vertex_colors
            for one, plain in zip(sets, white, strict=True)
        ]
    )
