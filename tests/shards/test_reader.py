import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sets import keys_of

import shards.member_reader
from shards.codec import encode_sample
from shards.columns import MemberSpan
from shards.errors import CorruptSampleError, NotFoundInStoreError, StoreError
from shards.fetch import coalesce
from shards.manifest import shard_name
from shards.reader import PAIRING, Request, ShardReader
from shards.schema import POINTS, SchemaError, view_member
from shards.store import RemoteStore


def _flip(manifest, sample_index, member, byte=0):
    """Flip one bit of a member on disk."""
    shard = manifest.shard_of(sample_index)
    row = manifest.row(sample_index)
    span = next(each for each in row.members if each.name == member)
    path = Path(manifest.url) / shard.name
    content = bytearray(path.read_bytes())
    content[span.offset + byte] ^= 1
    path.write_bytes(content)


@pytest.fixture
def remote_reader(shard_set, monkeypatch):
    """Reads through the remote face: obstore's store of files, without a server."""
    store = RemoteStore(f"file://{shard_set.url}")
    monkeypatch.setattr(shards.member_reader, "open_store", lambda url: store)
    reader = ShardReader(shard_set)
    monkeypatch.undo()
    return reader


def _reader_threads():
    return [each for each in threading.enumerate() if each.name.startswith("shard-reader")]


def test_every_sample_is_read_as_it_was_written(shard_set, samples_of):
    reader = ShardReader(shard_set.url)
    for index, written in enumerate(samples_of(range(12))):
        read = reader.read(Request(index, (0, 1, 2)))
        assert encode_sample(read) == encode_sample(written)


def test_only_the_views_asked_for_are_read(shard_set, samples_of):
    written = samples_of(range(6))[5]
    read = ShardReader(shard_set).read(Request(5, (2, 0)))
    assert read.pictures == {view: written.pictures[view] for view in (0, 2)}
    assert ShardReader(shard_set).read(Request(5)).pictures == {}


def test_only_the_members_asked_for_are_read(shard_set, samples_of):
    pairing = ShardReader(shard_set, members=PAIRING).read(Request(5, (1,)))
    assert (len(pairing.normals), len(pairing.colors), pairing.num_views) == (0, 0, 3)
    cloud = ShardReader(shard_set, members=(POINTS,)).read(Request(5))
    assert np.array_equal(cloud.points, samples_of(range(6))[5].points)
    assert cloud.num_views == 0
    assert ShardReader(shard_set, members=()).read(Request(5, (1,))).pictures.keys() == {1}
    with pytest.raises(SchemaError, match=r"no member 'view00\.jpg'"):
        ShardReader(shard_set, members=("view00.jpg",))


def test_damage_of_what_is_not_asked_for_does_not_matter(shard_set):
    _flip(shard_set, 5, view_member(2))
    _flip(shard_set, 5, "normals.npy", 200)
    assert ShardReader(shard_set, members=PAIRING).read(Request(5, (0, 1))) is not None


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_flipped_bit_in_any_member_is_caught(shard_set, place):
    names = [span.name for span in shard_set.row(5).members]
    assert len(names) == 9
    for name in names:
        _flip(shard_set, 5, name, place if place >= 0 else _length(shard_set, 5, name) - 1)
        with pytest.raises(CorruptSampleError, match=rf"{name}.*python -m shards verify"):
            ShardReader(shard_set).read(Request(5, (0, 1, 2)))
        _flip(shard_set, 5, name, place if place >= 0 else _length(shard_set, 5, name) - 1)
    assert ShardReader(shard_set).read(Request(5, (0, 1, 2))) is not None


def _length(manifest, sample_index, member):
    return next(each.length for each in manifest.row(sample_index).members if each.name == member)


def test_every_truncation_that_touches_a_sample_is_caught(shard_set):
    path = Path(shard_set.url) / shard_set.shards[1].name
    content = path.read_bytes()
    last = shard_set.row(7).members[-1]
    for length in range(0, len(content), 512):
        path.write_bytes(content[:length])
        reader = ShardReader(shard_set, on_corrupt="skip_and_count")
        whole = reader.read(Request(7, (0, 1, 2))) is not None
        assert whole == (length >= last.offset + last.length)


def test_skip_and_count_counts_and_names_and_reads_all_the_rest(shard_set):
    _flip(shard_set, 3, POINTS, 130)
    _flip(shard_set, 9, view_member(1))
    reader = ShardReader(shard_set, on_corrupt="skip_and_count")
    samples = list(reader.stream(Request(index, (1,)) for index in range(12)))
    assert [index for index, sample in enumerate(samples) if sample is None] == [3, 9]
    assert [each.sample_index for each in reader.corrupt] == [3, 9]
    assert [each.key for each in reader.corrupt] == [keys_of(shard_set)[3], keys_of(shard_set)[9]]
    assert [each.shard for each in reader.corrupt] == [shard_name(0), shard_name(2)]
    assert POINTS in reader.corrupt[0].detail
    assert view_member(1) in reader.corrupt[1].detail


def test_a_sample_that_is_asked_for_again_is_counted_once(shard_set):
    _flip(shard_set, 3, POINTS, 130)
    reader = ShardReader(shard_set, on_corrupt="skip_and_count")
    for _ in range(3):
        assert reader.read(Request(3, (0,))) is None
        assert list(reader.stream([Request(3), Request(3, (1,))])) == [None, None]
    assert [each.sample_index for each in reader.corrupt] == [3]


def test_a_sample_that_belongs_elsewhere_is_caught(tmp_path, make_set_in):
    """Right checksums, wrong shard: the file of another set lies under this set's name."""
    one = make_set_in(tmp_path / "one", num_shards=2)
    first, second = (Path(one.url) / shard_name(number) for number in range(2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(CorruptSampleError):
        ShardReader(one).read(Request(0))


def test_a_missing_shard_always_raises(shard_set):
    (Path(shard_set.url) / shard_name(1)).unlink()
    reader = ShardReader(shard_set, on_corrupt="skip_and_count")
    with pytest.raises(NotFoundInStoreError, match="shard-000001"):
        reader.read(Request(5))
    assert reader.corrupt == []


def test_a_view_the_sample_does_not_have_is_refused(shard_set):
    for on_corrupt in ("fail", "skip_and_count"):
        with pytest.raises(SchemaError, match=r"view03\.jpg.*it has 3 views"):
            ShardReader(shard_set, on_corrupt=on_corrupt).read(Request(5, (3,)))


def test_a_missing_set_is_told(tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        ShardReader(tmp_path / "nowhere")


@pytest.mark.parametrize("read_ahead", [1, 2, 8, 50])
def test_stream_equals_read(shard_set, read_ahead):
    reader = ShardReader(shard_set)
    requests = [Request(index % 12, (index % 3,)) for index in range(30)]
    streamed = list(reader.stream(iter(requests), read_ahead))
    assert len(streamed) == 30
    for request, sample in zip(requests, streamed, strict=True):
        alone = reader.read(request)
        assert sample.key == alone.key
        assert sample.pictures == alone.pictures
        assert np.array_equal(sample.points, alone.points)


def test_an_empty_stream_ends(shard_set):
    assert list(ShardReader(shard_set).stream([])) == []


def test_a_folder_is_read_without_a_thread(shard_set):
    stream = ShardReader(shard_set).stream(Request(index) for index in range(12))
    for _ in stream:
        assert _reader_threads() == []


def test_threads_end_when_the_stream_is_exhausted_or_closed(remote_reader):
    reader = remote_reader
    list(reader.stream(Request(index) for index in range(12)))
    assert _reader_threads() == []
    with closing(reader.stream(Request(index % 12) for index in range(10_000))) as stream:
        next(stream)
        assert _reader_threads() != []
    assert _reader_threads() == []


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_an_error_is_raised_in_its_turn(shard_set, remote_reader, where):
    _flip(shard_set, 6, POINTS, 130)
    reader = ShardReader(shard_set) if where == "folder" else remote_reader
    stream = reader.stream(Request(index) for index in range(12))
    assert tuple(next(stream).key for _ in range(6)) == keys_of(shard_set)[:6]
    with pytest.raises(CorruptSampleError, match="sample 6"):
        next(stream)
    assert _reader_threads() == []


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_shard_that_goes_missing_is_told_in_its_turn(shard_set, remote_reader, where):
    (Path(shard_set.url) / shard_name(1)).unlink()
    reader = ShardReader(shard_set) if where == "folder" else remote_reader
    stream = reader.stream(Request(index) for index in range(12))
    assert tuple(next(stream).key for _ in range(4)) == keys_of(shard_set)[:4]
    with pytest.raises(NotFoundInStoreError, match="shard-000001"):
        next(stream)


def test_a_shard_that_was_mended_is_read_by_a_reader_that_saw_the_damage(shard_set):
    reader, path = ShardReader(shard_set), Path(shard_set.url) / shard_name(1)
    whole = path.read_bytes()
    _flip(shard_set, 6, POINTS, 130)
    with pytest.raises(CorruptSampleError):
        reader.read(Request(6))
    path.unlink()
    path.write_bytes(whole)  # another file of the same name
    assert reader.read(Request(6)) is not None


def test_an_error_of_the_requests_ends_the_threads_too(shard_set, remote_reader):
    def requests():
        yield Request(0)
        raise RuntimeError("the plan failed")

    for reader in (ShardReader(shard_set), remote_reader):
        with pytest.raises(RuntimeError, match="the plan failed"):
            list(reader.stream(requests()))
        assert _reader_threads() == []


@pytest.mark.parametrize("read_ahead", [1, 2, 8])
def test_an_error_of_any_kind_is_raised_in_its_turn(shard_set, remote_reader, read_ahead):
    """Padding of a plan, say, that was asked for by mistake."""
    for reader in (ShardReader(shard_set), remote_reader):
        stream = reader.stream(map(Request, (0, 1, -1, 2)), read_ahead)
        assert [next(stream).source_id for _ in range(2)] == [
            shard_set.row(number).source_id for number in range(2)
        ]
        with pytest.raises(IndexError, match="sample -1"):
            next(stream)


def test_no_more_is_asked_for_than_read_ahead(shard_set, remote_reader):
    asked: list[int] = []

    def requests():
        for index in range(12):
            asked.append(index)
            yield Request(index)

    for reader in (ShardReader(shard_set), remote_reader):
        for read_ahead in (1, 3, 8):
            asked.clear()
            stream = reader.stream(requests(), read_ahead)
            for handed, _ in enumerate(stream, 1):
                assert len(asked) <= handed + read_ahead
            assert asked == list(range(12))
    with pytest.raises(ValueError, match="at least 1"):
        ShardReader(shard_set).stream([], read_ahead=0)


def _read_elsewhere(reader: ShardReader) -> str:
    return reader.read(Request(4, (1,))).key


def test_a_reader_works_in_another_process(shard_set, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    reader = pickle.loads(pickle.dumps(ShardReader(shard_set)))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(_read_elsewhere, reader).result() == keys_of(shard_set)[4]


def test_object_storage_is_read_by_several_threads_in_order(tmp_path, make_set_in, monkeypatch):
    url = make_set_in(tmp_path).url
    # obstore's store of files: the remote face without a server.
    monkeypatch.setattr(
        shards.member_reader, "open_store", lambda url: RemoteStore(f"file://{url}")
    )
    reader = ShardReader(url, on_corrupt="skip_and_count")
    requests = [Request(index, (0, 2)) for index in range(12)] * 5
    assert [each.key for each in reader.stream(requests)] == list(keys_of(reader.manifest)) * 5
    assert _reader_threads() == []
    path = tmp_path / shard_name(1)
    path.write_bytes(path.read_bytes()[:3000])
    found = [sample is not None for sample in reader.stream(requests[:12])]
    assert found == [True] * 4 + [False] * 4 + [True] * 4
    assert [each.sample_index for each in reader.corrupt] == [4, 5, 6, 7]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), max_size=12), st.integers(0, 40))
def test_coalesced_runs_hold_every_span_once_and_no_gap_too_wide(gaps_and_lengths, max_gap):
    spans, end = [], 0
    for gap, length in gaps_and_lengths:
        spans.append(MemberSpan(f"m{len(spans)}", end + gap, length, 0))
        end += gap + length
    runs = coalesce(spans[::-1], max_gap)
    assert [span for *_, run in runs for span in run] == spans
    for start, length, run in runs:
        assert start == run[0].offset
        assert start + length == run[-1].offset + run[-1].length
    ends = [span.offset + span.length for span in spans]
    wide = [b.offset - a for a, b in zip(ends, spans[1:], strict=False) if b.offset - a > max_gap]
    assert len(runs) == (len(wide) + 1 if spans else 0)
