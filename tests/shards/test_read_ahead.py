"""The system is asked to read ahead where its cache lacks what is needed; else it is left alone."""

import os
from pathlib import Path

import pytest

from shards.columns import MemberSpan
from shards.fetch import MAX_GAP_BYTES, MIN_BURSTS_CACHED, ReadAhead
from shards.reader import Request, ShardReader
from shards.store import LocalStore

BURST = [("a", [MemberSpan("x", 512, 10, 0), MemberSpan("y", 1024, 20, 0)])]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int]]]:
    """What the system is asked to read ahead, in place of asking it."""
    found: list[list[tuple[int, int]]] = []
    monkeypatch.setattr(LocalStore, "will_need", lambda _, name, ranges: found.append(ranges))
    return found


def test_what_the_cache_holds_is_soon_not_asked_for_any_more(tmp_path, monkeypatch, asked) -> None:
    cached = True
    monkeypatch.setattr(LocalStore, "is_cached", lambda *_: cached)
    ahead = ReadAhead(LocalStore(tmp_path))
    for _ in range(3 * MIN_BURSTS_CACHED):
        ahead.announce(BURST)
    assert len(asked) == MIN_BURSTS_CACHED - 1
    cached = False
    ahead.announce(BURST)
    cached = True
    for _ in range(3 * MIN_BURSTS_CACHED):
        ahead.announce(BURST)
    assert len(asked) == 2 * MIN_BURSTS_CACHED - 1


def test_members_that_lie_close_are_asked_for_together(tmp_path, asked) -> None:
    far = MemberSpan("z", 1044 + MAX_GAP_BYTES["disk"] + 1, 5, 0)
    ahead = ReadAhead(LocalStore(tmp_path))
    ahead.announce([("a", [*BURST[0][1], far])])
    ahead.announce([])
    assert asked == [[(512, 532), (far.offset, 5)]]


def test_a_stream_asks_for_what_it_will_read(shard_set, monkeypatch, asked) -> None:
    monkeypatch.setattr(LocalStore, "is_cached", lambda *_: False)
    reader = ShardReader(shard_set, members=())
    indices = range(reader.manifest.num_samples)
    for _ in reader.stream([Request(index) for index in indices], read_ahead=4):
        pass
    assert len(asked) == len(indices)


def is_in_memory(path: Path, offset: int) -> bool | None:
    """Ask the system itself; None where it cannot tell."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], offset, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False
        except OSError:
            return None


def test_the_system_tells_what_it_has_in_its_cache(tmp_path: Path) -> None:
    path, store = tmp_path / "a", LocalStore(tmp_path)
    path.write_bytes(bytes(1 << 20))
    if is_in_memory(path, 0) is None:
        pytest.skip("this file system cannot tell what is cached")
    assert store.is_cached("a", 0)
    assert store.is_cached("a", (1 << 20) - 1)
    assert not store.is_cached("a", 1 << 20)
    assert not store.is_cached("b", 0)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if is_in_memory(path, 0):
        pytest.skip("this file system lies in memory")
    # A look may load its own page, so another one is asked for, and that then read.
    assert not store.is_cached("a", 700_000)
    store.get_ranges("a", [(700_000, 1)])
    assert store.is_cached("a", 700_000)
