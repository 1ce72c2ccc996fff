"""Where do cameras stand around a shape? Layouts, each known by a short name.

A name is the same on the command line, in YAML and in a shard set, and holds no sign that a shell
or Hydra wants quoted:

    dodecahedron, octahedron, icosahedron, icosidodecahedron     20, 6, 12, 30 views, one a vertex
    fibonacci_40         40 views, spread evenly over the sphere
    ring_12_30deg        12 views around the y axis, 30 degrees above the horizon, the first from +z
    random_16_seed7      16 views, uniform over the sphere; those of 8 are its first 8
    file:PATH            matrices of your own, see matrix_file.py; in a shard set file:NAME@DIGEST
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePath
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from picpoint.geometry.matrix_file import MatrixFile, parse_file

SolidName = Literal["dodecahedron", "octahedron", "icosahedron", "icosidodecahedron"]

_FILE = "file:"
_GOLDEN = (1 + math.sqrt(5)) / 2


@dataclass(frozen=True, slots=True)
class Solid:
    """A view from each vertex of a regular or quasi-regular solid."""

    name: SolidName


@dataclass(frozen=True, slots=True)
class Fibonacci:
    """Views on a spiral that winds from pole to pole by the golden angle."""

    num_views: int


@dataclass(frozen=True, slots=True)
class Ring:
    """Views at equal steps around the y axis.

    Attributes:
        elevation_deg: above the horizon, -90 to 90, both excluded.
    """

    num_views: int
    elevation_deg: float


@dataclass(frozen=True, slots=True)
class Random:
    """Views drawn from the uniform distribution on the sphere; fewer are the first of more."""

    num_views: int
    seed: int


Layout = Solid | Fibonacci | Ring | Random | MatrixFile


def parse_layout(text: str) -> Layout:
    """Read the name of a layout; a file without a digest is given that of its present content.

    Raises:
        ValueError: there is no such layout, it is spelt otherwise, or the file cannot be read.
    """
    if text.startswith(_FILE):
        return parse_file(text.removeprefix(_FILE))
    match layout := _parse_words(text.split("_")):
        case None:
            raise ValueError(
                f"rig {text!r}: no such layout; there are {', '.join(get_args(SolidName))}, "
                "fibonacci_40, ring_12_30deg, random_16_seed7 (with your numbers) and file:PATH"
            )
        case Ring(_, elevation_deg) if not abs(elevation_deg) < 90:
            raise ValueError(f"rig {text!r}: the elevation must lie between -90 and 90 degrees")
        case Random(_, seed) if seed < 0:
            raise ValueError(f"rig {text!r}: the seed must be at least 0")
        case Fibonacci(count) | Ring(count, _) | Random(count, _) if count < 1:
            raise ValueError(f"rig {text!r}: the number of views must be at least 1")
        case _ if spelling(layout) != text:
            raise ValueError(f"rig {text!r}: has one spelling only; write {spelling(layout)}")
        case _:
            return layout


def spelling(layout: Layout) -> str:
    """Spell a layout so that `parse_layout` gives it back."""
    match layout:
        case Solid(name):
            return name
        case Fibonacci(count):
            return f"fibonacci_{count}"
        case Ring(count, elevation_deg):
            return f"ring_{count}_{elevation_deg:g}deg"
        case Random(count, seed):
            return f"random_{count}_seed{seed}"
        case MatrixFile(path, digest):
            return f"{_FILE}{path}@{digest}"


def from_any_folder(text: str) -> str:
    """Name a layout so that it is found from any folder: of a file the path becomes absolute."""
    match layout := parse_layout(text):
        case MatrixFile(path, digest):
            return spelling(MatrixFile(str(Path(path).resolve()), digest))
        case _:
            return spelling(layout)


def rig_name(layout: Layout) -> str:
    """Name a layout as a shard set does: of a file the folder is left out."""
    match layout:
        case MatrixFile(path, digest):
            return f"{_FILE}{PurePath(path).name}@{digest}"
        case _:
            return spelling(layout)


def directions(layout: Solid | Fibonacci | Ring | Random) -> Float[np.ndarray, "V 3"]:
    """Give the unit vectors from the origin to the cameras of a layout, in a fixed order."""
    match layout:
        case Solid(name):
            return _vertices(name)
        case Fibonacci(count):
            number = np.arange(count)
            return _at(1 - (2 * number + 1) / count, number * math.pi * (3 - math.sqrt(5)))
        case Ring(count, elevation_deg):
            height = np.full(count, math.sin(math.radians(elevation_deg)))
            return _at(height, 2 * math.pi / count * np.arange(count))
        case Random(count, seed):
            # A sphere's slices of equal height have equal areas.
            height, turn = np.random.default_rng(seed).random((count, 2)).T
            return _at(2 * height - 1, 2 * math.pi * turn)


def _vertices(solid: SolidName) -> Float[np.ndarray, "V 3"]:
    signs = (-1.0, 1.0)
    match solid:
        case "dodecahedron":
            return dodecahedron_vertices()
        case "octahedron":
            return _turned([(a, 0.0, 0.0) for a in signs])
        case "icosahedron":
            return _turned([(0.0, a, b * _GOLDEN) for a in signs for b in signs])
        case "icosidodecahedron":
            axes = [(2 * a, 0.0, 0.0) for a in signs]
            rest = [(a / _GOLDEN, b, c * _GOLDEN) for a, b, c in product(signs, repeat=3)]
            return _turned(axes + rest)


def dodecahedron_vertices() -> Float[np.ndarray, "20 3"]:
    """Give the unit vectors to the 20 vertices of a regular dodecahedron, in a fixed order."""
    signs = (-1.0, 1.0)
    cube = [(x, y, z) for x in signs for y in signs for z in signs]
    rectangle = [(a / _GOLDEN, b * _GOLDEN) for a in signs for b in signs]
    vertices = np.array(
        cube
        + [(0.0, a, b) for a, b in rectangle]
        + [(a, b, 0.0) for a, b in rectangle]
        + [(b, 0.0, a) for a, b in rectangle]
    )
    return vertices / math.sqrt(3)


def _parse_words(words: list[str]) -> Solid | Fibonacci | Ring | Random | None:
    try:
        match words:
            case ["dodecahedron" | "octahedron" | "icosahedron" | "icosidodecahedron" as name]:
                return Solid(name)
            case ["fibonacci", count]:
                return Fibonacci(int(count))
            case ["ring", count, elevation] if elevation.endswith("deg"):
                return Ring(int(count), float(elevation.removesuffix("deg")))
            case ["random", count, seed] if seed.startswith("seed"):
                return Random(int(count), int(seed.removeprefix("seed")))
            case _:
                return None
    except ValueError:  # a number that is none
        return None


def _turned(points: Iterable[tuple[float, float, float]]) -> Float[np.ndarray, "V 3"]:
    """Repeat points with x, y and z in turn as their first axis, and scale them to unit length."""
    vertices = np.array(
        [turned for x, y, z in points for turned in ((x, y, z), (z, x, y), (y, z, x))]
    )
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True)


def _at(
    height: Float[np.ndarray, " V"], azimuth_rad: Float[np.ndarray, " V"]
) -> Float[np.ndarray, "V 3"]:
    """Give unit vectors by their y and their angle around the y axis, from +z towards +x."""
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.sin(azimuth_rad), height, radius * np.cos(azimuth_rad)], axis=1)
