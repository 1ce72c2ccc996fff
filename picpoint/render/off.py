"""What does an OFF file say? Its text as arrays, also with ModelNet's glued header."""

import re

import numpy as np
from jaxtyping import Float64, Int64

from picpoint.render.polygons import triangulate

# `OFF`, `COFF`, `STNOFF`: the letters before OFF announce more numbers per vertex. ModelNet glues
# the counts to the word (`OFF123 456 0`), so no space is asked for behind it.
_HEADER = re.compile(rb"\s*(ST)?C?N?OFF", re.ASCII)
_COMMENT = re.compile(rb"#[^\n]*")


def parse_off(content: bytes) -> tuple[Float64[np.ndarray, "n 3"], Int64[np.ndarray, "m 3"]]:
    """Parse an OFF file; colours and other extras are passed over; polygons are cut into triangles.

    Returns:
        Vertex positions, and vertex indices of the triangles, within range.

    Raises:
        ValueError: it is no OFF file, or it ends early, or a number is broken.
    """
    text = _COMMENT.sub(b"", content)
    header = _HEADER.match(text)
    if not header:
        raise ValueError(f"starts with {content[:12]!r}: an OFF file starts with 'OFF'")
    rows = [line.split() for line in text[header.end() :].splitlines() if line.strip()]
    if not rows or len(rows[0]) < 2:
        raise ValueError("no counts of vertices and faces behind 'OFF'")
    num_vertices, num_faces = int(rows[0][0]), int(rows[0][1])
    if len(rows) < 1 + num_vertices + num_faces:
        raise ValueError(f"{len(rows) - 1} lines for {num_vertices} vertices, {num_faces} faces")
    vertices = np.array([row[:3] for row in rows[1 : 1 + num_vertices]], dtype=np.float64)
    vertices = vertices.reshape(-1, 3)
    corners, sizes = _polygons(rows[1 + num_vertices :][:num_faces], num_vertices)
    return vertices, corners[triangulate(vertices[corners], sizes).rows]


def _polygons(
    rows: list[list[bytes]], num_vertices: int
) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " p"]]:
    """Read lines `size corner corner ...`, whatever follows; give all corners, and the sizes."""
    sizes = np.array([int(row[0]) for row in rows], dtype=np.int64)
    for size, row in zip(sizes, rows, strict=True):
        if not 0 <= size < len(row):
            raise ValueError(f"a face of {size} corners names {len(row) - 1}")
    flat = [corner for size, row in zip(sizes, rows, strict=True) for corner in row[1 : 1 + size]]
    corners = np.array(flat, dtype=np.int64)
    if len(corners) and not 0 <= corners.min() <= corners.max() < num_vertices:
        raise ValueError(f"a face names a vertex outside 0..{num_vertices - 1}")
    return corners, sizes
