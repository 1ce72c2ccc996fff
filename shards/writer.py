"""How do samples become a shard? One deterministic WebDataset tar, indexed and published whole.

Same samples, same bytes: members sorted within a sample, USTAR headers with time 0, owner 0 and
mode 0444, the file padded to a multiple of 10,240 bytes as tar does. Python's own tarfile writes
what webdataset's TarWriter would (a test compares the bytes); importing webdataset would import
torch, which has no place here.
"""

import io
import re
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from zlib_ng.zlib_ng import crc32

from shards.codec import check_picture_sizes, decode_sample, encode_sample
from shards.columns import MAX_MEMBER_BYTES, MemberSpan, SampleRow, ShardInfo, columns_of
from shards.errors import MEND_SHARD, CodecError, CorruptSampleError
from shards.local import explained_disk
from shards.schema import Sample, SchemaError
from shards.store import Store, put_once, sha256

# A key, and the bytes of its members by their names, sorted.
TarSample = tuple[str, Mapping[str, bytes]]

_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tar")


def write_shard(store: Store, name: str, samples: Iterable[Sample]) -> ShardInfo:
    """Write samples to a new shard, read it back, and publish it.

    Repeating the same work succeeds: a shard of this name with the same content is left as it is.
    If anything fails, also while `samples` is iterated, nothing is published.

    Args:
        store: where to.
        name: such as `shard_name(0)`.
        samples: in the order in which they will lie; whole, with different keys.

    Returns:
        What the manifest needs to know of the shard.

    Raises:
        SchemaError: a sample breaks the schema, two have the same key, or there is none.
        StoreError: the store refused, or holds other content under this name.
    """
    return write_tar(
        store, name, encode_each(samples, encode_sample), lambda file: list(index_tar(file, name))
    )


def write_tar(
    store: Store,
    name: str,
    samples: Iterable[TarSample],
    index: Callable[[io.BufferedReader], Sequence[SampleRow]],
) -> ShardInfo:
    """Write encoded samples to a new shard, read it back with `index`, and publish it.

    Raises:
        SchemaError: the name is no shard's.
        StoreError: the store refused, or holds other content under this name.
        Exception: what `samples` or `index` raises; then nothing is published.
    """
    check_shard_name(name)
    with store.scratch() as path:
        _write_file(path, samples)
        with explained_disk("read", path), path.open("rb") as file:
            columns = columns_of(index(file))
            num_bytes = path.stat().st_size
        digest = put_once(store, name, path)
    return ShardInfo(name=name, num_bytes=num_bytes, sha256=digest, samples=columns)


def index_shard(store: Store, name: str) -> ShardInfo:
    """Read a published shard and tell what `write_shard` told of it.

    Raises:
        CorruptSampleError: the file is not such a tar as `write_shard` writes.
        StoreError: there is no such shard.
    """
    content = store.get(name)
    columns = columns_of(list(index_tar(io.BytesIO(content), name)))
    return ShardInfo(name=name, num_bytes=len(content), sha256=sha256(content), samples=columns)


def check_shard_name(name: str) -> None:
    """Refuse a name that is not a plain file name ending in .tar.

    Raises:
        SchemaError: it is not.
    """
    if not _SHARD_NAME.fullmatch(name):
        raise SchemaError(
            f"shard name {name!r}: a plain file name ending in .tar is needed; use "
            "shards.columns.shard_name(number)"
        )


def _write_file(path: Path, samples: Iterable[TarSample]) -> None:
    with _opened_to_write(path) as file:
        tar = tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        # The samples come from outside: an OSError of theirs is not the disk's.
        for key, members in samples:
            with explained_disk("write", path):
                for member, content in members.items():
                    tar.addfile(_header(f"{key}.{member}", content), io.BytesIO(content))
        with explained_disk("write", path):
            tar.close()
            file.close()


@contextmanager
def _opened_to_write(path: Path) -> Generator[io.BufferedWriter]:
    """Open a file; closing it after a failure flushes again, whose error would hide the first."""
    with explained_disk("write", path):
        file = path.open("wb")
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


@runtime_checkable
class Keyed(Protocol):
    """What lies in a shard: it has a name, and a key from it."""

    @property
    def source_id(self) -> str:
        """Where it came from."""
        ...

    @property
    def key(self) -> str:
        """The name's hash."""
        ...


Item = TypeVar("Item", bound=Keyed)


def encode_each(
    samples: Iterable[Item], encode: Callable[[Item], Mapping[str, bytes]]
) -> Iterator[TarSample]:
    """Give the key and the members of each sample; at least one, and none twice.

    Raises:
        SchemaError: two have the same key, or there is none.
    """
    keys: set[str] = set()
    for sample in samples:
        if sample.key in keys:
            raise SchemaError(
                f"source id {sample.source_id!r} comes twice: ids are unique in a set; leave one "
                "of the two out"
            )
        keys.add(sample.key)
        yield sample.key, encode(sample)
    if not keys:
        raise SchemaError("a shard of no samples: at least one is needed; make fewer shards")


def _header(name: str, content: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    header.mode = 0o444
    return header  # TarInfo's own defaults: time 0, owner 0, no names


def index_tar(file: io.BufferedIOBase, name: str) -> Iterator[SampleRow]:
    """Read a tar of shapes through and tell where every member lies; every sample is checked.

    Args:
        file: the shard.
        name: of the shard, for messages.

    Raises:
        CorruptSampleError: a broken tar, or a member that is not what its name says.
    """
    return index_samples(file, name, _row)


def index_samples(
    file: io.BufferedIOBase, name: str, row_of: Callable[[Mapping[str, bytes]], SampleRow]
) -> Iterator[SampleRow]:
    """Read a tar of samples of any kind through and tell where every member lies.

    Args:
        file: the shard.
        name: of the shard, for messages.
        row_of: decodes and checks the members of a sample; its row, without where they lie.

    Raises:
        CorruptSampleError: a broken tar, or a member that is not what its name says.
    """
    keys: set[str] = set()
    try:
        for key, group in groupby(read_tar(file), key=lambda found: found[0].partition(".")[0]):
            if key in keys:
                raise SchemaError("its members do not lie together")
            keys.add(key)
            yield _index_sample(key, list(group), row_of)
    except (tarfile.TarError, EOFError, SchemaError, CodecError) as error:
        raise CorruptSampleError(
            f"{name}, after {len(keys)} samples: {error}; the shard is damaged: {MEND_SHARD}"
        ) from error


def read_tar(file: io.BufferedIOBase) -> Iterator[tuple[str, int, bytes]]:
    """Give name, offset and content of each file in a tar such as `write_tar` writes.

    Not as tarfile walks through one: it takes a broken header for the end, and follows extensions
    (sparse files, PAX records) by which a small tar claims any amount of memory.

    Raises:
        SchemaError: it holds something else than plain files, or a very large one.
        tarfile.TarError, EOFError: it is broken.
    """
    offset = 0
    while any(block := file.read(tarfile.BLOCKSIZE)):
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if header.type != tarfile.REGTYPE:
            raise SchemaError(f"{header.name!r} is not a plain file")
        if not 0 <= header.size <= MAX_MEMBER_BYTES:
            raise SchemaError(f"{header.name!r} of {header.size} bytes: 0 to {MAX_MEMBER_BYTES}")
        offset += tarfile.BLOCKSIZE
        content = file.read(header.size)
        padding = bytes(-header.size % tarfile.BLOCKSIZE)
        if len(content) != header.size or file.read(len(padding)) != padding:
            raise EOFError(f"{header.name!r} ends early, or is padded with other bytes than 0")
        yield header.name, offset, content
        offset += len(content) + len(padding)
    end = offset + 2 * tarfile.BLOCKSIZE
    rest = bytes(end + -end % tarfile.RECORDSIZE - offset)
    if block + file.read(len(rest)) != rest:
        raise EOFError(
            f"after {offset} bytes, where {len(rest)} zeros should end it: it is cut off"
        )


def _index_sample(
    key: str,
    found: list[tuple[str, int, bytes]],
    row_of: Callable[[Mapping[str, bytes]], SampleRow],
) -> SampleRow:
    members = {name.partition(".")[2]: content for name, _, content in found}
    if len(members) != len(found):
        raise SchemaError(f"{key} has a member twice")
    row = row_of(members)
    if row.key != key:
        raise SchemaError(f"{key} holds the sample {row.source_id!r} of key {row.key}")
    spans = (
        MemberSpan(name.partition(".")[2], offset, len(content), crc32(content))
        for name, offset, content in found
    )
    return replace(row, members=tuple(spans))


def _row(members: Mapping[str, bytes]) -> SampleRow:
    sample = decode_sample(members)
    check_picture_sizes(sample)
    return SampleRow(
        key=sample.key,
        source_id=sample.source_id,
        label=sample.meta.label,
        num_points=sample.num_points,
        num_views=sample.num_views,
        members=(),
    )
