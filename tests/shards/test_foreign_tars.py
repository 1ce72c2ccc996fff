"""Tars that write_shard did not write: refused in little memory, never taken for shorter ones."""

import tarfile
import tracemalloc

import pytest

from shards.errors import CorruptSampleError
from shards.store import LocalStore
from shards.writer import index_shard, write_shard


@pytest.mark.parametrize("position", [0, 100, 130, 150, 156])
def test_a_broken_header_between_samples_is_not_taken_for_the_end(tmp_path, samples_of, position):
    """tarfile does that; who adopts such a shard would lose its samples without a word."""
    store = LocalStore(tmp_path)
    whole = write_shard(store, "s.tar", samples_of(range(3)))
    content = bytearray((tmp_path / "s.tar").read_bytes())
    second = whole.samples.row(1).members[0].offset - 512
    content[second + position] ^= 0x10
    (tmp_path / "t.tar").write_bytes(content)
    with tarfile.open(tmp_path / "t.tar") as tar:
        assert len({name.partition(".")[0] for name in tar.getnames()}) == 1
    with pytest.raises(CorruptSampleError, match="after 1 samples"):
        index_shard(store, "t.tar")


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def _signed(header: bytes, at: int, field: bytes) -> bytes:
    """Change a field of a header, and make its checksum right."""
    changed = bytearray(header)
    changed[at : at + len(field)] = field
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


def _pax(name: str, value: str) -> bytes:
    record = f" {name}={value}\n"
    record = f"{len(record) + 2}{record}".encode()
    return _header("pax", len(record), b"x") + record.ljust(512, b"\0")


_SIZE, _REAL_SIZE = 124, 483  # where they stand in a header


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(_pax("GNU.sparse.size", f"{1 << 40}"), id="PAX sparse"),
        pytest.param(_pax("size", "-512"), id="PAX size"),
        pytest.param(_pax("path", "key.points.npy"), id="PAX name"),
        pytest.param(_header("long", 512, b"L") + b"k.points.npy".ljust(512, b"\0"), id="GNU name"),
        pytest.param(_header("k.points.npy", 0, b"1"), id="hard link"),
        pytest.param(_header("k.points.npy", 0, b"2"), id="symbolic link"),
        pytest.param(_header("k.points.npy", 0, b"5"), id="folder"),
        pytest.param(_header("k.points.npy", 0, b"3"), id="device"),
        *(
            pytest.param(
                _signed(
                    _header("k.points.npy", 512, b"S"),
                    _REAL_SIZE,
                    b"\x80" + size.to_bytes(11, "big"),
                )
                + bytes(512),
                id=f"sparse {size}",
            )
            for size in (2 << 30, 1 << 60)
        ),
        *(
            pytest.param(
                _signed(
                    _header("k.points.npy", 0), _SIZE, kind + size.to_bytes(11, "big", signed=True)
                ),
                id=f"size {size}",
            )
            for kind, size in (
                (b"\xff", -512),
                (b"\xff", -1024),
                (b"\x80", 1 << 40),
                (b"\x80", 1 << 80),
            )
        ),
    ],
)
def test_what_write_shard_never_writes_is_refused_before_memory_is_taken(
    tmp_path, samples_of, first
):
    store = LocalStore(tmp_path)
    write_shard(store, "s.tar", samples_of(range(1)))
    (tmp_path / "t.tar").write_bytes(first + (tmp_path / "s.tar").read_bytes())
    tracemalloc.start()
    try:
        with pytest.raises(CorruptSampleError):
            index_shard(store, "t.tar")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
