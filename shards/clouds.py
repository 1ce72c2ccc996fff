"""What does a labelled cloud hold, and how does it become bytes? For downstream tasks; no pictures.

    member             dtype, shape      meaning
    points.npy         float32 (P, 3)    in the data set's own unit, y up
    normals.npy        float32 (P, 3)    outward normals; left out where there are none
    colors.npy         uint8 (P, 3)      sRGB; left out where there are none
    point_labels.npy   uint8 (P,)        part or thing that each point belongs to; likewise
    places.npy         float32 (P, 3)    at what share of its room's extent it lies, 0..1; likewise
    label_counts.npy   uint32 (P, L)     how many raw points of each label it stands for; likewise
    cloud.json         UTF-8             source_id, label; keys sorted

Points keep their order: public protocols say "the first 1,024 points".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from jaxtyping import Float32, UInt8, UInt32

from shards.codec import decode_array, encode_array
from shards.errors import CodecError
from shards.schema import COLORS, NORMALS, POINTS, SchemaError, check_text, sample_key

POINT_LABELS = "point_labels.npy"
PLACES = "places.npy"
LABEL_COUNTS = "label_counts.npy"
CLOUD_META = "cloud.json"

# Dtype and shape, where 0 stands for any length.
CLOUD_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    POINTS: ("<f4", (0, 3)),
    NORMALS: ("<f4", (0, 3)),
    COLORS: ("|u1", (0, 3)),
    POINT_LABELS: ("|u1", (0,)),
    PLACES: ("<f4", (0, 3)),
    LABEL_COUNTS: ("<u4", (0, 0)),
}

_META_FIELDS = {"source_id", "label"}


@dataclass(frozen=True, slots=True)
class Cloud:
    """One labelled cloud as it lies in a shard.

    Attributes:
        source_id: where it came from; unique in a set; its hash is the key.
        label: class name, or "" where the whole cloud has none, as a scene.
        points: at least one.
        normals: 0 rows where there are none, or where a reader was not asked for them.
        colors: likewise.
        point_labels: likewise.
        places: likewise.
        label_counts: likewise; where a point stands for all in its voxel.
        extras: arrays of column sets that were read along, by member name.
    """

    source_id: str
    label: str
    points: Float32[np.ndarray, "P 3"]
    normals: Float32[np.ndarray, "P_normals 3"] = field(
        default_factory=lambda: np.zeros((0, 3), np.float32)
    )
    colors: UInt8[np.ndarray, "P_colors 3"] = field(
        default_factory=lambda: np.zeros((0, 3), np.uint8)
    )
    point_labels: UInt8[np.ndarray, " P_labels"] = field(
        default_factory=lambda: np.zeros(0, np.uint8)
    )
    places: Float32[np.ndarray, "P_places 3"] = field(
        default_factory=lambda: np.zeros((0, 3), np.float32)
    )
    label_counts: UInt32[np.ndarray, "P_counts L"] = field(
        default_factory=lambda: np.zeros((0, 0), np.uint32)
    )
    extras: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The cloud's key, from its source id."""
        return sample_key(self.source_id)

    @property
    def num_points(self) -> int:
        """P, the number of stored points."""
        return len(self.points)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by member name, those of no rows included."""
        return {
            POINTS: self.points,
            NORMALS: self.normals,
            COLORS: self.colors,
            POINT_LABELS: self.point_labels,
            PLACES: self.places,
            LABEL_COUNTS: self.label_counts,
        }


def check_cloud(cloud: Cloud) -> None:
    """Check a cloud against the schema.

    Raises:
        SchemaError: no points or no name, texts that are not UTF-8, arrays of other dtypes or
            lengths, NaN or infinity.
    """
    if not cloud.source_id:
        raise SchemaError("a cloud without a source id: it names the cloud in its set; give one")
    for text in (cloud.source_id, cloud.label):
        check_text(CLOUD_META, text)
    if not cloud.num_points:
        raise SchemaError(f"{cloud.source_id!r}: no points; a cloud has at least one: leave it out")
    for member, array in cloud.arrays.items():
        dtype, shape = CLOUD_ARRAYS[member]
        if len(array) == 0:
            continue
        wanted = (cloud.num_points, *shape[1:])
        fits = array.size and array.ndim == len(wanted)
        fits = fits and all(w in (0, n) for w, n in zip(wanted, array.shape, strict=True))
        if array.dtype != np.dtype(dtype) or not fits:
            told = ", ".join(str(length or "any") for length in wanted)
            raise SchemaError(
                f"{member} of {cloud.source_id!r}: {array.dtype} {array.shape}; it must be "
                f"{np.dtype(dtype)} ({told})"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SchemaError(
                f"{member} of {cloud.source_id!r}: NaN or infinity in "
                f"{np.count_nonzero(~np.isfinite(array).all(axis=1))} rows; mend or leave it out"
            )


def encode_cloud(cloud: Cloud) -> dict[str, bytes]:
    """Write the members of a cloud, names sorted; arrays of no rows are left out.

    Raises:
        SchemaError: the cloud does not hold what the schema says.
    """
    check_cloud(cloud)
    members = {name: encode_array(array) for name, array in cloud.arrays.items() if len(array)}
    told = {"source_id": cloud.source_id, "label": cloud.label}
    members[CLOUD_META] = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    return dict(sorted(members.items()))


def decode_cloud(members: Mapping[str, bytes], check_values: bool = True) -> Cloud:
    """Read a cloud from its members; arrays that are left out have 0 rows.

    Args:
        members: bytes by member name; POINTS and CLOUD_META at least.
        check_values: whether the numbers themselves are checked; a reader of bytes whose checksums
            are right leaves that out, because their writer did it.

    Raises:
        CodecError: bytes that are not what the member's name promises, or an unknown member.
        SchemaError: members that do not go together.
    """
    if unknown := set(members) - {*CLOUD_ARRAYS, CLOUD_META}:
        raise CodecError(
            f"unknown member {min(unknown)!r}: a cloud holds {', '.join(sorted(CLOUD_ARRAYS))} and "
            f"{CLOUD_META}; read it with the version that wrote it"
        )
    if missing := {POINTS, CLOUD_META} - set(members):
        raise SchemaError(f"{', '.join(sorted(missing))} missing: no cloud is read without them")

    def array(name: str) -> np.ndarray:
        dtype, shape = CLOUD_ARRAYS[name]
        return decode_array(members[name], dtype, shape) if name in members else _NO_ROWS[name]

    source_id, label = _decode_meta(members[CLOUD_META])
    cloud = Cloud(
        source_id,
        label,
        array(POINTS),
        normals=array(NORMALS),
        colors=array(COLORS),
        point_labels=array(POINT_LABELS),
        places=array(PLACES),
        label_counts=array(LABEL_COUNTS),
    )
    if check_values:
        check_cloud(cloud)
    elif any(len(each) not in (0, cloud.num_points) for each in cloud.arrays.values()):
        raise SchemaError(f"{source_id!r}: its arrays differ in length; the shard is damaged")
    return cloud


_NO_ROWS = {name: np.zeros(shape, dtype) for name, (dtype, shape) in CLOUD_ARRAYS.items()}


def _decode_meta(content: bytes) -> tuple[str, str]:
    """Read source id and label; a value of another type is refused, not converted."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"{CLOUD_META} is not JSON ({error}); write the shard again") from error
    fields = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if set(fields) != _META_FIELDS or not all(isinstance(each, str) for each in fields.values()):
        raise CodecError(
            f"{CLOUD_META} holds {content[:80]!r}: it must hold exactly two texts, "
            f"{' and '.join(sorted(_META_FIELDS))}; write the shard again"
        )
    return fields["source_id"], fields["label"]
