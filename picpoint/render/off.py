"""What does an OFF file say? Its text as arrays, also with ModelNet's glued header."""

import re

import numpy as np
from jaxtyping import Float64, Int64

from picpoint.render.meshes import MeshError
from picpoint.render.polygons import triangulate
from picpoint.render.scanner import as_text, fill_off, line_at

# `OFF`, `COFF`, `STNOFF`: the letters before OFF announce more numbers per vertex. ModelNet glues
# the counts to the word (`OFF123 456 0`), so no space is asked for behind it.
_GAP = rb"(?:\s|#[^\n]*\n)*"
_HEADER = re.compile(_GAP + rb"(?:ST)?C?N?OFF" + _GAP + rb"(\d{1,12})[ \t]+(\d{1,12})\b", re.ASCII)
# The shortest lines that can be: `0 0 0` and `0`, with their line feeds.
_VERTEX_BYTES, _FACE_BYTES = 6, 2


def parse_off(
    content: bytes, max_faces: int
) -> tuple[Float64[np.ndarray, "n 3"], Int64[np.ndarray, "m 3"]]:
    """Parse an OFF file; colours and other extras are passed over; polygons are cut into triangles.

    Args:
        content: the whole file.
        max_faces: a file with more, or with more than three times as many vertices, is refused
            before arrays are made for it.

    Returns:
        Vertex positions, and vertex indices of the triangles, within range.

    Raises:
        ValueError: it is no OFF file, or it ends early, or a number is broken.
        MeshError: `too_large`.
    """
    header = _HEADER.match(content)
    if not header:
        raise ValueError(
            f"starts with {content[:24]!r}: an OFF file starts with 'OFF' and the counts of its "
            "vertices and faces"
        )
    num_vertices, num_faces = int(header[1]), int(header[2])
    if num_faces > max_faces or num_vertices > 3 * max_faces:
        raise MeshError(
            "too_large", f"{num_faces} faces, {num_vertices} vertices, for at most {max_faces}"
        )
    text = as_text(content)
    start = content.find(b"\n", header.end()) + 1 or len(text)
    num_bytes = len(text) - start
    if num_vertices * _VERTEX_BYTES + num_faces * _FACE_BYTES > num_bytes:
        raise ValueError(f"{num_bytes} bytes for {num_vertices} vertices, {num_faces} faces")
    vertices, sizes = np.empty((num_vertices, 3)), np.empty(num_faces, np.int64)
    corners = np.empty(num_bytes // 2, np.int64)  # A blank and a digit each.
    place = fill_off(text, start, vertices, sizes, corners)
    if place >= len(text):
        raise ValueError(f"ends before {num_vertices} vertices and {num_faces} faces are told")
    if place >= 0:
        raise ValueError(f"{line_at(content, place)} cannot be read")
    corners = corners[: sizes.sum()]
    return vertices, corners[triangulate(vertices, corners, sizes).rows]
