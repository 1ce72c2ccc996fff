"""What of a bucket is on this machine's disk? Pieces of shards, each where it lies in its shard.

A file per shard, named by the shard's SHA-256, is as long as the shard and holds the pieces that
were fetched; the rest are holes. There is no index and no lock: a piece is there if its checksum is
right. So a hole, half a piece of a process that was killed, a disk that was full and two processes
that write the same are all the same: what is not right is fetched again. Whatever the disk refuses,
reading goes on without it.
"""

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from zlib_ng.zlib_ng import crc32

from shards.columns import MemberSpan
from shards.store import is_sha256, sha256

logger = logging.getLogger(__name__)

# Of the limit, is written by one process before it looks what all of them wrote.
_CHECKED_EVERY = 1 / 32
# To what share of the limit the files written to longest ago are removed.
_CLEARED_TO = 0.9


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Where pieces of remote shards are kept.

    Attributes:
        folder: on a local disk; shared by all processes of a machine that name it.
        max_gb: how much is kept, in 1e9 bytes; each process may exceed it by 1/32 for a moment.
    """

    folder: str
    max_gb: float = 100.0

    def __post_init__(self) -> None:
        if not self.folder or self.max_gb <= 0:
            raise ValueError(
                f"a cache of {self.max_gb} GB in {self.folder!r}: it needs a folder and more than "
                "0 GB; leave the cache out to do without"
            )


class DiskCache:
    """Pieces of shards on a local disk; threads and processes may share it, and it may be pickled.

    Attributes:
        num_hits: pieces that this process found.
        num_misses: pieces that it did not find.
    """

    def __init__(self, config: CacheConfig) -> None:
        """Know the folder; it is made when something is first kept."""
        self._config = config
        self._folder, self._max_bytes = Path(config.folder), int(config.max_gb * 1e9)
        self._lock = threading.Lock()
        self._unchecked_bytes = 0
        self._has_told = False
        self.num_hits = self.num_misses = 0

    def __reduce__(self) -> tuple[type["DiskCache"], tuple[CacheConfig]]:
        return DiskCache, (self._config,)

    def find(self, shard_sha256: str, spans: Sequence[MemberSpan]) -> dict[str, bytes]:
        """Give those members of a sample that are kept, their checksums right, by their names."""
        found: dict[str, bytes] = {}
        path = self._path(shard_sha256)
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                for span in spans:
                    content = os.pread(descriptor, span.length, span.offset)
                    if len(content) == span.length and crc32(content) == span.crc32:
                        found[span.name] = content
            finally:
                os.close(descriptor)
        with self._lock:
            self.num_hits += len(found)
            self.num_misses += len(spans) - len(found)
        return found

    def keep(self, shard_sha256: str, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Keep (offset, content) pieces of a shard, if the disk will have them."""
        path = self._path(shard_sha256)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                for offset, content in pieces:
                    os.pwrite(descriptor, content, offset)
            finally:
                os.close(descriptor)
            self._count(sum(len(content) for _, content in pieces))
        except OSError as error:
            self._tell_once(error)

    def find_whole(self, content_sha256: str) -> bytes | None:
        """Give a file that is kept whole, known by its hash; None if it is not there or damaged."""
        path = self._path(content_sha256)
        with suppress(OSError):
            content = path.read_bytes()
            if sha256(content) == content_sha256:
                return content
        return None

    def _path(self, name: str) -> Path:
        """Name the file of a shard or a part.

        Raises:
            ValueError: it is no hash, and might lead out of the folder.
        """
        if not is_sha256(name):
            raise ValueError(f"{name!r} is no SHA-256; the cache knows content by nothing else")
        return self._folder / name

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self._unchecked_bytes += num_bytes
            if self._unchecked_bytes < self._max_bytes * _CHECKED_EVERY:
                return
            self._unchecked_bytes = 0
        self._make_room()

    def _make_room(self) -> None:
        """Remove the files written to longest ago, if all together are too large."""
        kept: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another process was faster
                status = path.lstat()
                # Whatever else lies in the folder is somebody's, and is left alone.
                if is_sha256(path.name) and S_ISREG(status.st_mode):
                    kept.append((status.st_mtime, status.st_blocks * 512, path))
        excess_bytes = sum(num_bytes for _, num_bytes, _ in kept) - self._max_bytes
        if excess_bytes <= 0:
            return
        excess_bytes += int(self._max_bytes * (1 - _CLEARED_TO))
        for _, num_bytes, path in sorted(kept):
            if excess_bytes <= 0:
                return
            with suppress(FileNotFoundError):
                path.unlink()
            excess_bytes -= num_bytes

    def _tell_once(self, error: OSError) -> None:
        if not self._has_told:
            self._has_told = True
            logger.warning(
                "cache %s: %s; what is read from now on may not be kept, and is fetched again",
                self._folder,
                error.strerror or error,
            )
