"""What does a sample hold? Names, types, shapes and units of its members, and their version.

A sample is one shape: points on its surface in farthest-point order, and V renders of it.

    member             dtype, shape               meaning
    points.npy         float16 (P, 3)             world frame, inside the unit sphere
    normals.npy        float16 (P, 3)             outward unit normals, world frame
    colors.npy         uint8 (P, 3)               surface colour, sRGB
    cameras.npy        float32 (V, 2, 4, 4)       view (world -> camera), projection (-> clip)
    visibility.bin     uint8 (V, ceil(P / 8))     bits; bit p of row v: point p is seen in view v
    view00.jpg ...     JPEG                       sRGB picture of view v, square; then view100.jpg
    meta.json          UTF-8                      SampleMeta, keys sorted

Conventions of frames, matrices and pixels: picpoint/geometry/cameras.py. Bits are big-endian within
a byte, as numpy.packbits writes them.
"""

import hashlib
import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float16, Float32, UInt8

from shards.errors import ShardError

# Version 1, which named one rig and had one table of samples, was never released and is not read.
SCHEMA_VERSION = 2

POINTS = "points.npy"
NORMALS = "normals.npy"
COLORS = "colors.npy"
CAMERAS = "cameras.npy"
VISIBILITY = "visibility.bin"
META = "meta.json"


# Half-precision rounds a unit vector by up to 5e-4 in length.
LENGTH_TOLERANCE = 2e-3
MAX_VIEWS = 1000


class SchemaError(ShardError, ValueError):
    """A sample does not hold what the schema says; the message names the member and the rule."""


@lru_cache(maxsize=MAX_VIEWS)
def view_member(view: int) -> str:
    """Name the member that holds the picture of a view."""
    return f"{view_prefix(view)}.jpg"


def view_prefix(view: int) -> str:
    """Begin the names of members that belong to a view."""
    return f"view{view:02d}"


def sample_key(source_id: str) -> str:
    """Hash a source id to the sample's key: 32 hexadecimal digits, safe in any file name.

    Raises:
        SchemaError: the id is no text that UTF-8 can hold.
    """
    check_text("source id", source_id)
    return hashlib.sha256(source_id.encode()).hexdigest()[:32]


def check_text(what: str, text: str) -> None:
    """Refuse halves of surrogate pairs, as Python gives for file names of other encodings.

    Raises:
        SchemaError: UTF-8 cannot hold the text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SchemaError(
            f"{what} {text!a}: is not UTF-8, and no table can hold it; rename it"
        ) from error


@dataclass(frozen=True, slots=True)
class RigViews:
    """Views that lie one after another and belong to one layout of cameras.

    Attributes:
        name: of the layout (see picpoint/geometry/layouts.py); unique in a sample.
        num_views: at least 1.
    """

    name: str
    num_views: int


@dataclass(frozen=True, slots=True)
class SampleMeta:
    """What is told of a sample besides its arrays.

    Attributes:
        source_id: where the shape came from; unique in a shard set; its hash is the key.
        label: class name, or "" where none is known.
        size_px: side of the square pictures.
        rigs: whose the views are, in their order.
        seed: seed of the surface sampling.
        center: what was subtracted from the mesh's vertices, in its own units, (x, y, z).
        scale: what they were then multiplied by, to fill the unit sphere.
        num_faces: triangles of the mesh.
        warnings: what was wrong with the mesh and mended, as reason codes.
    """

    source_id: str
    label: str
    size_px: int
    rigs: tuple[RigViews, ...]
    seed: int
    center: tuple[float, float, float]
    scale: float
    num_faces: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One shape as it lies in a shard; the pictures stay encoded.

    Attributes:
        normals: 0 rows where a reader was not asked for them; a writer needs all P.
        colors: likewise.
        pictures: encoded picture by view index; a reader that was asked for some views holds only
            those, a writer needs all V.
        extras: arrays of column sets that were read along, by member name (shards/column_sets.py).
    """

    points: Float16[np.ndarray, "P 3"]
    normals: Float16[np.ndarray, "P_normals 3"]
    colors: UInt8[np.ndarray, "P_colors 3"]
    view_matrices: Float32[np.ndarray, "V 4 4"]
    projection_matrices: Float32[np.ndarray, "V 4 4"]
    visibility: UInt8[np.ndarray, "V packed"]
    pictures: dict[int, bytes]
    meta: SampleMeta
    extras: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The sample's key, from its source id."""
        return sample_key(self.meta.source_id)

    @property
    def source_id(self) -> str:
        """Where the shape came from."""
        return self.meta.source_id

    @property
    def num_points(self) -> int:
        """P, the number of stored points."""
        return len(self.points)

    @property
    def num_views(self) -> int:
        """V, the number of rendered views."""
        return len(self.view_matrices)

    def visible(self, view: int) -> Bool[np.ndarray, " P"]:
        """Unpack which points are seen in a view."""
        return np.unpackbits(self.visibility[view], count=self.num_points).astype(bool)


def check_sample(sample: Sample, *, whole: bool = False) -> None:
    """Check a sample against the schema: what is written, and what was read.

    Args:
        sample: what to check; dtypes and shapes included, since nothing else may be relied on.
        whole: demand every member and every picture, as a writer must.

    Raises:
        SchemaError: a rule of this module is broken; the message names the member.
    """
    _check_clouds(sample, whole)
    _check_views(sample)
    _check_rigs(sample, whole)
    _check_pictures(sample, whole)
    _check_meta(sample.meta)


def check_counts(sample: Sample) -> None:
    """Check that the arrays of a sample go together, without looking at their numbers.

    Raises:
        SchemaError: numbers of rows or views differ.
    """
    num_points, num_views = len(sample.points), len(sample.view_matrices)
    if num_points == 0:
        raise _refuse(sample, POINTS, "no points", "a cloud has at least one")
    if len(sample.normals) not in (0, num_points):
        raise _refuse(sample, NORMALS, f"{len(sample.normals)} rows", f"of {num_points} points")
    if len(sample.colors) not in (0, num_points):
        raise _refuse(sample, COLORS, f"{len(sample.colors)} rows", f"of {num_points} points")
    if num_views and sum(rig.num_views for rig in sample.meta.rigs) != num_views:
        raise _refuse(sample, META, "rigs", f"they have all {num_views} views")


def _refuse(sample: Sample, member: str, value: object, rule: str) -> SchemaError:
    return SchemaError(
        f"{member} of {sample.meta.source_id!r}: {value}; {rule}. Render the shape again"
    )


def _check_clouds(sample: Sample, whole: bool) -> None:
    """Points lie in the unit sphere, normals are unit vectors, and all have P rows (or none)."""
    _check_array(sample, POINTS, sample.points, np.float16, (sample.num_points, 3))
    if sample.num_points == 0:
        raise _refuse(sample, POINTS, "no points", "a cloud has at least one")
    for member, array, dtype in (
        (NORMALS, sample.normals, np.float16),
        (COLORS, sample.colors, np.uint8),
    ):
        rows = 0 if len(array) == 0 and not whole else sample.num_points
        _check_array(sample, member, array, dtype, (rows, 3))
    # A comparison with NaN is false, so these also refuse what is not finite.
    farthest = _lengths(sample.points).max()
    if not farthest <= 1 + LENGTH_TOLERANCE:
        raise _refuse(sample, POINTS, f"a point at {farthest}", "all lie inside the unit sphere")
    off = np.abs(_lengths(sample.normals) - 1).max(initial=0)
    if not off <= LENGTH_TOLERANCE:
        raise _refuse(sample, NORMALS, f"a length off by {off}", "normals are unit vectors")


def _lengths(rows: Float16[np.ndarray, "N 3"]) -> Float32[np.ndarray, " N"]:
    squares = np.square(rows.astype(np.float32))
    return np.sqrt(squares[:, 0] + squares[:, 1] + squares[:, 2])


def _check_views(sample: Sample) -> None:
    """Matrices are finite; visibility has a row per view and no bit set past the last point."""
    num_views = sample.num_views
    if num_views > MAX_VIEWS:
        raise _refuse(sample, CAMERAS, f"{num_views} views", f"at most {MAX_VIEWS} are named")
    for array in (sample.view_matrices, sample.projection_matrices):
        _check_array(sample, CAMERAS, array, np.float32, (num_views, 4, 4))
        if not np.isfinite(array).all():
            raise _refuse(sample, CAMERAS, "NaN or infinity", "matrices are finite")
    packed = (num_views, (sample.num_points + 7) // 8)
    _check_array(sample, VISIBILITY, sample.visibility, np.uint8, packed)
    spare_bits = (1 << (-sample.num_points % 8)) - 1
    if (sample.visibility[:, -1] & spare_bits).any():
        raise _refuse(
            sample, VISIBILITY, "bits set past the last point", "the bits that pad a row are 0"
        )


def _check_rigs(sample: Sample, whole: bool) -> None:
    """Rigs have names of their own, and together they have all views."""
    names = [rig.name for rig in sample.meta.rigs]
    counts = [rig.num_views for rig in sample.meta.rigs]
    if "" in names or len(set(names)) < len(names):
        raise _refuse(sample, META, f"rigs {names}", "each has a name, and no two have the same")
    # A reader that left out the cameras knows no number of views.
    known = whole or sample.num_views > 0
    if known and (min(counts, default=1) < 1 or sum(counts) != sample.num_views):
        raise _refuse(
            sample, META, f"rigs of {counts} views", f"they have all {sample.num_views} views"
        )


def _check_array(
    sample: Sample, member: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]
) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise _refuse(
            sample,
            member,
            f"{array.dtype} {array.shape}",
            f"it must be {np.dtype(dtype).name} {shape}",
        )


def _check_pictures(sample: Sample, whole: bool) -> None:
    """Pictures belong to views, and each begins as a JPEG does."""
    if whole and sorted(sample.pictures) != list(range(sample.num_views)):
        raise _refuse(
            sample,
            "pictures",
            f"views {sorted(sample.pictures)}",
            f"a whole sample has each of its {sample.num_views} views",
        )
    for view, content in sample.pictures.items():
        # A reader that left out the cameras knows no number of views.
        if not 0 <= view < (sample.num_views or MAX_VIEWS):
            raise _refuse(
                sample, view_member(view), "no such view", f"there are {sample.num_views}"
            )
        if content[:2] != b"\xff\xd8":
            raise _refuse(sample, view_member(view), repr(content[:8]), "a picture is a JPEG")


def _check_meta(meta: SampleMeta) -> None:
    """Numbers are in range; the source id, from which the key comes, is there; texts are texts."""
    for text in (meta.source_id, meta.label, *(rig.name for rig in meta.rigs), *meta.warnings):
        check_text(META, text)
    rules = (
        ("source_id", meta.source_id, meta.source_id != "", "it names the shape"),
        ("size_px", meta.size_px, meta.size_px > 0, "pictures have a size"),
        ("seed", meta.seed, meta.seed >= 0, "seeds are not negative"),
        ("center", meta.center, all(map(math.isfinite, meta.center)), "it is finite"),
        ("scale", meta.scale, math.isfinite(meta.scale) and meta.scale > 0, "it is positive"),
        ("num_faces", meta.num_faces, meta.num_faces >= 0, "counts are not negative"),
    )
    for name, value, holds, rule in rules:
        if not holds:
            raise SchemaError(
                f"{META} of {meta.source_id!r}: {name} = {value!r}; {rule}. Render the shape again"
            )
