import io
import re
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from small_sets import NUM_VIEWS

from shards.codec import (
    ARRAYS,
    decode_array,
    decode_meta,
    decode_picture,
    decode_sample,
    encode_array,
    encode_meta,
    encode_picture,
    encode_sample,
)
from shards.errors import CodecError, ShardError
from shards.schema import (
    CAMERAS,
    COLORS,
    META,
    NORMALS,
    POINTS,
    VISIBILITY,
    RigViews,
    SchemaError,
)


def test_a_sample_survives_the_round_trip(sample):
    decoded = decode_sample(encode_sample(sample))
    for name in ("points", "normals", "colors", "view_matrices", "projection_matrices"):
        assert np.array_equal(getattr(decoded, name), getattr(sample, name)), name
    assert np.array_equal(decoded.visibility, sample.visibility)
    assert decoded.pictures == sample.pictures
    assert decoded.meta == sample.meta


def test_the_same_sample_gives_the_same_bytes_also_from_other_memory_layouts(sample):
    other = replace(
        sample,
        points=np.asfortranarray(sample.points),
        view_matrices=np.ascontiguousarray(sample.view_matrices[::-1])[::-1],
    )
    assert encode_sample(other) == encode_sample(sample)


def test_arrays_are_written_exactly_as_numpy_writes_them(sample):
    for name, content in encode_sample(sample).items():
        if name.endswith(".npy"):
            array = np.load(io.BytesIO(content), allow_pickle=False)
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            assert buffer.getvalue() == content


def _npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(_npy(np.array([[Bomb()] * 3], object), allow_pickle=True), id="objects"),
        pytest.param(_npy(np.zeros((5, 3), np.float32)), id="another dtype"),
        pytest.param(_npy(np.zeros((5, 3), ">f2")), id="big-endian"),
        pytest.param(_npy(np.zeros((5, 4), np.float16)), id="another shape"),
        pytest.param(_npy(np.zeros(15, np.float16)), id="another rank"),
        pytest.param(_npy(np.asfortranarray(np.ones((5, 3), np.float16))), id="column-major"),
        pytest.param(_npy(np.zeros((5, 3), np.float16))[:-1], id="truncated"),
        pytest.param(_npy(np.zeros((5, 3), np.float16)) + b"\0", id="surplus"),
        pytest.param(_npy(np.zeros((5, 3), [("x", "<f2")])), id="structure"),
        pytest.param(b"", id="empty"),
    ],
)
def test_an_array_of_another_kind_is_refused(content):
    with pytest.raises(CodecError):
        decode_array(content, *ARRAYS[POINTS])


def test_a_header_that_claims_a_huge_array_is_refused_without_allocating_it():
    content = _npy(np.zeros((5, 3), np.float16))
    claimed = re.sub(rb"\(5, 3\)(.{8})", rb"(5000000000000, 3)"[:14] + rb"\1", content, count=1)
    assert claimed != content
    huge = content.replace(b"(5, 3), }" + b" " * 12, b"(5000000000000, 3), }")
    assert len(huge) == len(content)
    with pytest.raises(CodecError, match="needs 30000000000000 bytes"):
        decode_array(huge, *ARRAYS[POINTS])


@pytest.mark.parametrize("shape", ["9" * 5000 + ", 3", "0, " + "9" * 30])
def test_lengths_past_all_addresses_are_refused(shape):
    """Of more digits than Python reads, or of no bytes because another length is 0."""
    header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({shape}), }}\n".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(CodecError):
        decode_array(content, "<f2", (0, 0))


def test_objects_are_refused_by_the_writer_too():
    with pytest.raises(CodecError, match="plain numbers"):
        encode_array(np.array([None, 1]))


@pytest.mark.parametrize("shape", [(224, 224), (16, 40), (1, 1), (33, 7)])
def test_a_picture_lies_where_it_is_decoded_fast_and_is_what_the_library_gives(shape):
    content = encode_picture(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    kept = [decode_picture(content) for _ in range(8)]
    for picture in kept:
        assert picture.__array_interface__["data"][0] % 32 == 16
        assert picture.flags.c_contiguous
        assert picture.flags.writeable
        assert np.array_equal(picture, simplejpeg.decode_jpeg(content, colorspace="RGB"))


def test_pictures_keep_size_orientation_and_nearly_the_colours():
    v, u = np.mgrid[0:32, 0:48]
    rgb = np.stack([u * 5, v * 7, np.full_like(u, 40)], axis=-1).astype(np.uint8)
    decoded = decode_picture(encode_picture(rgb, 95))
    assert decoded.shape == rgb.shape
    assert np.abs(decoded.astype(int) - rgb).max() <= 6  # smooth ramps at quality 95


def test_a_picture_bomb_is_refused_by_its_header():
    content = bytearray(encode_picture(np.zeros((16, 16, 3), np.uint8), 90))
    frame = content.index(b"\xff\xc0")  # SOF0: length, precision, height, width
    content[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    with pytest.raises(CodecError, match="65500 x 65500 px"):
        decode_picture(bytes(content))


def test_a_picture_larger_than_asked_is_refused():
    content = encode_picture(np.zeros((16, 40, 3), np.uint8), 90)
    with pytest.raises(CodecError, match="40 x 16 px"):
        decode_picture(content, max_side_px=32)
    assert decode_picture(content, max_side_px=40).shape == (16, 40, 3)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_our_error_or_decode(content):
    for decode in (
        decode_picture,
        decode_meta,
        lambda c: decode_array(c, *ARRAYS[COLORS]),
    ):
        with pytest.raises(CodecError):
            decode(content)


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_picture_decodes_or_raises_our_error(position, byte):
    content = bytearray(encode_picture(np.full((16, 16, 3), 90, np.uint8), 90))
    content[position % len(content)] = byte
    try:
        picture = decode_picture(bytes(content), max_side_px=64)
    except ShardError:
        return
    assert max(picture.shape) <= 64


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seed":7', b'"seed":"7"'),
        (b'"seed":7', b'"seed":7.0'),
        (b'"seed":7', b'"seed":true'),
        (b'"seed":7,', b""),
        (b'"seed":7', b'"seed":7,"extra":1'),
        (b"[0.5,-1.0,2.0]", b"[0.5,-1.0]"),
        (b'["flipped_faces"]', b'"flipped_faces"'),
        (b'"num_views":2', b'"num_views":"2"'),
        (b',"num_views":2', b""),
        (b'{"name":"fibonacci_1","num_views":1}', b'"fibonacci_1"'),
    ],
)
def test_a_meta_record_of_other_fields_or_types_is_refused(sample, old, new):
    content = encode_meta(sample.meta)
    assert old in content
    with pytest.raises(CodecError):
        decode_meta(content.replace(old, new))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_json_is_refused(content):
    with pytest.raises(CodecError, match="is not JSON"):
        decode_meta(content)


def test_members_that_were_left_out_stay_empty(sample):
    members = encode_sample(sample)
    cloud = decode_sample({name: members[name] for name in (POINTS, META)})
    assert np.array_equal(cloud.points, sample.points)
    assert (len(cloud.normals), len(cloud.colors), cloud.num_views) == (0, 0, 0)
    assert cloud.pictures == {}


def test_points_and_meta_cannot_be_left_out_and_cameras_go_with_visibility(sample):
    members = encode_sample(sample)
    for left_out in (POINTS, META, CAMERAS, VISIBILITY):
        with pytest.raises(SchemaError):
            decode_sample({name: members[name] for name in members if name != left_out})
    decode_sample({name: members[name] for name in members if name != NORMALS})


def test_a_hundred_views_and_more_survive_the_round_trip(sample):
    many = 123
    meta = replace(sample.meta, rigs=(RigViews("fibonacci_123", many),))
    large = replace(
        sample,
        view_matrices=np.repeat(sample.view_matrices[:1], many, axis=0),
        projection_matrices=np.repeat(sample.projection_matrices[:1], many, axis=0),
        visibility=np.repeat(sample.visibility[:1], many, axis=0),
        pictures={view: sample.pictures[view % NUM_VIEWS] for view in range(many)},
        meta=meta,
    )
    members = encode_sample(large)
    assert "view99.jpg" in members
    assert "view100.jpg" in members
    decoded = decode_sample(members)
    assert decoded.pictures == large.pictures
    assert decoded.meta == meta


@pytest.mark.parametrize("name", ["view099.jpg", "view1.jpg", "view1000.jpg"])
def test_a_view_has_one_name_only(sample, name):
    with pytest.raises(CodecError, match=name):
        decode_sample(encode_sample(sample) | {name: sample.pictures[0]})


def test_an_unknown_member_is_refused(sample):
    with pytest.raises(CodecError, match=r"evil\.pyd"):
        decode_sample(encode_sample(sample) | {"evil.pyd": b""})


def test_a_picture_of_another_size_than_meta_says_is_refused(sample):
    other = encode_picture(np.zeros((16, 8, 3), np.uint8), 90)
    with pytest.raises(SchemaError, match="8 x 16 px"):
        encode_sample(replace(sample, pictures=sample.pictures | {1: other}))
