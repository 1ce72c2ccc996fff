"""How do the members of a sample become bytes, and back? A fixed table; nothing is unpickled.

Content is checked before memory is allocated for it: the size a picture's header claims, the dtype
and shape an array's header claims. Same sample, same bytes.
"""

import re
import struct
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import simplejpeg  # pyright: ignore[reportMissingTypeStubs]
from jaxtyping import UInt8

from shards.errors import CodecError
from shards.meta import decode_meta, encode_meta
from shards.schema import (
    CAMERAS,
    COLORS,
    MAX_VIEWS,
    META,
    NORMALS,
    POINTS,
    VISIBILITY,
    Sample,
    SchemaError,
    check_counts,
    check_sample,
    view_member,
)

DEFAULT_QUALITY = 94
MAX_SIDE_PX = 4096

# The arrays of a sample: dtype and shape, where 0 stands for any length.
ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    POINTS: ("<f2", (0, 3)),
    NORMALS: ("<f2", (0, 3)),
    COLORS: ("|u1", (0, 3)),
    CAMERAS: ("<f4", (0, 2, 4, 4)),
}

_KNOWN = {*ARRAYS, VISIBILITY, META}
_NO_ROWS = {name: np.zeros(shape, dtype) for name, (dtype, shape) in ARRAYS.items()}
_NO_MATRICES = _NO_ROWS[CAMERAS][:, 0]

_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z]\d{1,2})', 'fortran_order': False, "
    rb"'shape': \(([\d, ]{0,400})\), \} *\n"
)
_VIEW_OF_MEMBER = {view_member(view): view for view in range(MAX_VIEWS)}


def encode_picture(rgb: UInt8[np.ndarray, "H W 3"], quality: int = DEFAULT_QUALITY) -> bytes:
    """Compress a picture to JPEG, without subsampling of colour.

    Args:
        rgb: sRGB, row 0 on top.
        quality: 1 (small) to 100 (close to the input).

    Raises:
        CodecError: the quality is out of range.
    """
    if not 1 <= quality <= 100:
        raise CodecError(f"quality {quality}: JPEG knows 1 to 100; {DEFAULT_QUALITY} is usual")
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb), quality=quality, colorspace="RGB", colorsubsampling="444"
    )


def picture_size(content: bytes) -> tuple[int, int]:
    """Read (height, width), in px, from a JPEG's header; nothing is decoded.

    Raises:
        CodecError: not a JPEG.
    """
    try:
        height_px, width_px, _, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError as error:
        raise CodecError(
            f"{len(content)} bytes are not a JPEG ({error}); the member is damaged: render it again"
        ) from error
    return int(height_px), int(width_px)


def decode_picture(content: bytes, max_side_px: int = MAX_SIDE_PX) -> UInt8[np.ndarray, "H W 3"]:
    """Decompress a JPEG to sRGB, row 0 on top.

    Args:
        content: the file.
        max_side_px: a picture whose header claims more is refused before it is decoded.

    Raises:
        CodecError: not a JPEG, a damaged one, or a picture larger than max_side_px.
    """
    height_px, width_px = picture_size(content)
    if max(height_px, width_px) > max_side_px:
        raise CodecError(
            f"a picture of {width_px} x {height_px} px: at most {max_side_px} px a side are "
            "decoded; raise max_side_px if it is meant to be that large"
        )
    try:
        return simplejpeg.decode_jpeg(
            content, colorspace="RGB", buffer=_picture_memory(height_px, width_px)
        )
    except ValueError as error:
        raise CodecError(
            f"the JPEG cannot be decoded ({error}); the member is damaged: render it again"
        ) from error


def _picture_memory(height_px: int, width_px: int) -> UInt8[np.ndarray, "H W 3"]:
    """Allocate a picture whose first byte is not at a multiple of 32 bytes.

    To rows that begin at one, libjpeg-turbo writes past the processor's caches, which makes a
    picture of 224 px a quarter slower to decode, and its reader wait for the memory. Where malloc
    puts an array is chance, half of them there.
    """
    num_bytes = height_px * width_px * 3
    memory = np.empty(num_bytes + 32, np.uint8)
    skipped = (16 - memory.__array_interface__["data"][0]) % 32
    return memory[skipped : skipped + num_bytes].reshape(height_px, width_px, 3)


def encode_array(array: np.ndarray) -> bytes:
    """Write an array as .npy, version 1.0, row-major, little-endian.

    Raises:
        CodecError: the array holds Python objects or structures.
    """
    if array.dtype.kind not in "biuf":
        raise CodecError(
            f"dtype {array.dtype}: a shard holds plain numbers only; convert the array first"
        )
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    header = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': {array.shape}, }}"
    # NumPy pads the header with blanks, so that the numbers begin at a multiple of 64 bytes.
    used_bytes = len(_NPY_MAGIC) + 2 + len(header) + 1
    header += " " * (-used_bytes % 64) + "\n"
    return _NPY_MAGIC + struct.pack("<H", len(header)) + header.encode() + array.tobytes()


def decode_array(content: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read an array from .npy, if it is of the wanted kind.

    Args:
        content: the file, version 1.0, with the header as NumPy writes it.
        dtype: the only dtype that is accepted, as in `numpy.dtype.str`.
        shape: the only shape that is accepted; 0 stands for any length.

    Returns:
        A new array, which may be written to.

    Raises:
        CodecError: another dtype or shape, objects, column-major order, missing or surplus bytes.
    """
    found_dtype, found_shape, start = _read_npy_header(content)
    fits = len(found_shape) == len(shape) and all(
        want in (0, found) for want, found in zip(shape, found_shape, strict=True)
    )
    if found_dtype != dtype or not fits:
        raise CodecError(
            f"an array {found_dtype} {found_shape}: the schema wants {dtype} "
            f"{_shape_text(shape)}; write the shard again with this version"
        )
    numbers = 1
    for length in found_shape:
        numbers *= length
    want_bytes = numbers * np.dtype(dtype).itemsize
    if len(content) - start != want_bytes:
        raise CodecError(
            f"an array {found_dtype} {found_shape} needs {want_bytes} bytes and has "
            f"{len(content) - start}: the member is damaged; write the shard again"
        )
    try:
        return np.frombuffer(content, dtype=dtype, offset=start).reshape(found_shape).copy()
    except ValueError as error:  # 0 times more than there are addresses
        raise CodecError(f"an array {_shape_text(found_shape)}: {error}; it is damaged") from error


def _read_npy_header(content: bytes) -> tuple[str, tuple[int, ...], int]:
    """Read dtype, shape and where the numbers start."""
    start = 10
    if content[:8] == _NPY_MAGIC and len(content) >= start:
        start += struct.unpack_from("<H", content, 8)[0]
        found = _parse_npy_header(content[10:start])
        if found is not None:
            return *found, start
    raise CodecError(
        f"{bytes(content[:80])!r} is no header of a plain row-major .npy (version 1.0, numbers, no "
        "objects); write the array with shards.codec.encode_array"
    )


@lru_cache(maxsize=256)
def _parse_npy_header(header: bytes) -> tuple[str, tuple[int, ...]] | None:
    """Read dtype and shape by a pattern; no expression is ever evaluated."""
    match = _NPY_HEADER.fullmatch(header)
    if match is None:
        return None
    lengths = match[2].replace(b",", b" ").split()
    return match[1].decode(), tuple(int(length) for length in lengths)


def _shape_text(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(length) if length else "any" for length in shape) + ")"


def encode_sample(sample: Sample) -> dict[str, bytes]:
    """Write every member of a whole sample.

    Returns:
        Bytes by member name, names sorted.

    Raises:
        SchemaError: the sample does not hold what the schema says.
        CodecError: a picture is not a JPEG.
    """
    check_sample(sample, whole=True)
    check_picture_sizes(sample)
    members = {
        POINTS: encode_array(sample.points),
        NORMALS: encode_array(sample.normals),
        COLORS: encode_array(sample.colors),
        CAMERAS: encode_array(np.stack([sample.view_matrices, sample.projection_matrices], axis=1)),
        VISIBILITY: sample.visibility.tobytes(),
        META: encode_meta(sample.meta),
    }
    members |= {view_member(view): content for view, content in sample.pictures.items()}
    return dict(sorted(members.items()))


def check_picture_sizes(sample: Sample) -> None:
    """Check that the pictures are of the size that the meta record tells; none is decoded.

    Raises:
        SchemaError: one is of another size.
        CodecError: one is not a JPEG.
    """
    want = (sample.meta.size_px, sample.meta.size_px)
    for view, content in sample.pictures.items():
        if (found := picture_size(content)) != want:
            raise SchemaError(
                f"{view_member(view)} of {sample.meta.source_id} is {found[1]} x {found[0]} px: "
                f"{META} says {want[0]} px a side; render all views at one size"
            )


def decode_sample(members: Mapping[str, bytes], check_values: bool = True) -> Sample:
    """Read a sample from its members; those that are left out stay empty.

    Args:
        members: bytes by member name; POINTS and META at least. Without NORMALS or COLORS the
            sample has 0 rows of them; without CAMERAS and VISIBILITY it has 0 views.
        check_values: whether the numbers themselves are checked (points in the unit sphere, unit
            normals, finite matrices). A reader leaves that out for bytes whose checksums are
            right: their writer checked them, and `verify` does. Dtypes, shapes and numbers of rows
            are always checked.

    Raises:
        CodecError: bytes that are not what the member's name promises, or an unknown member.
        SchemaError: members that do not go together.
    """
    if POINTS not in members or META not in members:
        missing = {POINTS, META} - set(members)
        raise SchemaError(f"{', '.join(sorted(missing))} missing: no sample is read without them")
    if (CAMERAS in members) != (VISIBILITY in members):
        raise SchemaError(f"{CAMERAS} and {VISIBILITY} tell of the same views: read both or none")
    points = decode_array(members[POINTS], *ARRAYS[POINTS])
    if CAMERAS in members:
        cameras = decode_array(members[CAMERAS], *ARRAYS[CAMERAS])
        view_matrices, projection_matrices = cameras[:, 0], cameras[:, 1]
        visibility = _decode_visibility(members[VISIBILITY], len(cameras), len(points))
    else:
        view_matrices = projection_matrices = _NO_MATRICES
        visibility = _no_visibility(len(points))
    sample = Sample(
        points=points,
        normals=_decode_optional(members, NORMALS),
        colors=_decode_optional(members, COLORS),
        view_matrices=view_matrices,
        projection_matrices=projection_matrices,
        visibility=visibility,
        pictures=_pictures(members),
        meta=decode_meta(members[META]),
    )
    if check_values:
        check_sample(sample)
    else:
        check_counts(sample)
    return sample


def _decode_optional(members: Mapping[str, bytes], name: str) -> np.ndarray:
    if name not in members:
        return _NO_ROWS[name]
    return decode_array(members[name], *ARRAYS[name])


def _decode_visibility(
    content: bytes, num_views: int, num_points: int
) -> UInt8[np.ndarray, "V packed"]:
    packed = (num_points + 7) // 8
    if len(content) != num_views * packed:
        raise SchemaError(
            f"{VISIBILITY} has {len(content)} bytes: {num_views} views of {num_points} points need "
            f"{num_views} x {packed}; write the shard again"
        )
    return np.frombuffer(content, np.uint8).reshape(num_views, packed).copy()


@lru_cache(maxsize=256)
def _no_visibility(num_points: int) -> UInt8[np.ndarray, "0 packed"]:
    return np.empty((0, (num_points + 7) // 8), np.uint8)


def _pictures(members: Mapping[str, bytes]) -> dict[int, bytes]:
    pictures: dict[int, bytes] = {}
    for name in members:
        if name in _VIEW_OF_MEMBER:
            pictures[_VIEW_OF_MEMBER[name]] = members[name]
        elif name not in _KNOWN:
            raise CodecError(
                f"unknown member {name!r}: a sample holds {', '.join(sorted(_KNOWN))} and "
                "viewNN.jpg; read it with the version that wrote it"
            )
    return pictures
