"""How does the meta record of a sample become JSON, and back? Nothing is converted on the way."""

import json
from dataclasses import asdict
from typing import Any, TypeVar, cast

from shards.errors import CodecError
from shards.schema import META, RigViews, SampleMeta

T = TypeVar("T")

# As JSON has them.
_META_TYPES: dict[str, type] = {
    "source_id": str,
    "label": str,
    "size_px": int,
    "rigs": list,
    "seed": int,
    "scale": float,
    "num_faces": int,
    "warnings": list,
}
_META_FIELDS = {*_META_TYPES, "center"}


def encode_meta(meta: SampleMeta) -> bytes:
    """Write the meta record as JSON: sorted keys, ASCII, no blanks."""
    return json.dumps(asdict(meta), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def decode_meta(content: bytes) -> SampleMeta:
    """Read the meta record.

    Raises:
        CodecError: not JSON, or fields missing, unknown or of another type.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CodecError(
            f"{META} is not JSON ({error}); it is damaged: write the shard again"
        ) from error
    if not isinstance(found, dict) or cast("dict[str, Any]", found).keys() != _META_FIELDS:
        raise CodecError(
            f"{META} holds {content[:80]!r}: it must hold exactly "
            f"{', '.join(sorted(_META_FIELDS))}; "
            "write the shard again with this version"
        )
    return _to_meta(cast("dict[str, Any]", found))


def _to_meta(found: dict[str, Any]) -> SampleMeta:
    """Build the record from parsed JSON; a value of another type is refused, not converted."""
    try:
        x, y, z = found["center"]
        for name, kind in _META_TYPES.items():
            if type(found[name]) is not kind:
                raise TypeError(f"{name} = {found[name]!r} is not of type {kind.__name__}")
        if not type(x) is type(y) is type(z) is float:
            raise TypeError(f"center = {found['center']!r} is not of three floats")
        return SampleMeta(
            source_id=found["source_id"],
            label=found["label"],
            size_px=found["size_px"],
            rigs=tuple(map(_to_rig, found["rigs"])),
            seed=found["seed"],
            center=(x, y, z),
            scale=found["scale"],
            num_faces=found["num_faces"],
            warnings=tuple(_typed(code, str) for code in found["warnings"]),
        )
    except (TypeError, ValueError) as error:
        raise CodecError(
            f"{META}: {error}; every field must have the type SampleMeta gives it: "
            "write the shard again with this version"
        ) from error


def _to_rig(found: object) -> RigViews:
    rig = cast("dict[str, object]", _typed(found, dict))
    if set(rig) != {"name", "num_views"}:
        raise ValueError(f"a rig of {sorted(rig)}, not of name and num_views")
    return RigViews(_typed(rig["name"], str), _typed(rig["num_views"], int))


def _typed(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value
