"""How does object storage keep what was published? Through obstore, which aborts on exceptions.

obstore itself tries again what a server refused (5xx) or a connection dropped. What then still
fails in passing, and an answer that breaks off while it is read, is tried again here; publishing is
not, because a second request would find the name taken by the first: see shards.store.put_once.
No request waits for ever.
"""

import functools
import hashlib
import mmap
import os
import re
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import ParamSpec, TypeVar

import obstore
import stamina
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore, from_url

from shards.errors import NotFoundInStoreError, StoreError, TransientStoreError, UrlError, taken
from shards.local import scratch_in, sweep
from shards.secret_urls import without_secrets

_RETRIES_OF_A_REQUEST = 6
_SHORTEST_PAUSE = timedelta(milliseconds=20)
_LONGEST_PAUSE = timedelta(seconds=5)
_LONGEST_RETRYING = timedelta(seconds=60)
_CONNECTING = timedelta(seconds=5)
_PIECE_BYTES = 8 << 20
# What obstore says where a range begins past the end: of a bucket that refuses, of one that answers
# with no bytes, and of a folder.
_PAST_THE_END = (
    "416 Range Not Satisfiable",
    "Wanted range starting at",
    "Requested range was invalid",
)
# obstore has a kind of error for what a bucket says of an object, and none for a refused listing.
_REFUSED_LISTING = re.compile(r"^[^\n]*?performing list request: [^\n]*?status code: (\d+)")
_NOT_FOUND = "no such object; check the bucket and the prefix, or make the shards first"
_DENIED = "access denied; check the credentials in the environment and the bucket's policy"

# A server that falls silent is given up after this long, however much it has sent.
_SILENCE = timedelta(seconds=30)
# A request as a whole: to hash or upload a shard of 512 MB at 0.5 MB/s takes 17 minutes. obstore's
# own limit of 30 s would break off every upload slower than 17 MB/s.
_WHOLE_REQUEST = timedelta(minutes=20)


# Where the environment names a server of one's own, by the scheme of the URL.
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}

# Which process began to use obstore; its threads do not outlive a fork.
_started_by: int | None = None

P = ParamSpec("P")
T = TypeVar("T")


def _tried_again(request: Callable[P, T]) -> Callable[P, T]:
    """Try again what failed in passing, three times, after pauses."""
    patiently = stamina.retry(on=TransientStoreError, attempts=3, timeout=None)(request)

    @functools.wraps(request)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        _refuse_after_fork()
        try:  # without stamina, whose own work takes longer than a small request's
            return request(*args, **kwargs)
        except TransientStoreError:
            return patiently(*args, **kwargs)

    return tried


def _refuse_after_fork() -> None:
    """Raise where a request would wait for ever, because the threads that send it are elsewhere.

    Raises:
        StoreError: this process was forked from one that had sent requests.
    """
    global _started_by
    if _started_by is None:
        _started_by = os.getpid()
    elif _started_by != os.getpid():
        raise StoreError(
            "object storage was used before this process was forked, and its threads stayed "
            "behind: start processes by spawn or forkserver (of a torch DataLoader: "
            "multiprocessing_context='spawn'), or fork before anything is read"
        )


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """A prefix of a bucket, through obstore.

    Attributes:
        url: s3://bucket/prefix or the like.
    """

    url: str
    _objects: ObjectStore = field(init=False, repr=False, compare=False)
    _uploads: ObjectStore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "_objects", _connect(self.url, _SILENCE))
            # While it takes an upload in, a server is silent.
            object.__setattr__(self, "_uploads", _connect(self.url, _WHOLE_REQUEST))
        except (BaseError, OSError, ValueError) as error:
            first_line = str(error).partition("\n")[0]
            raise UrlError(
                f"{self.url}: {first_line}; give s3://BUCKET/PREFIX or the like, and in the "
                "environment what such a store needs"
            ) from error

    def __reduce__(self) -> tuple[type["RemoteStore"], tuple[str]]:
        return RemoteStore, (self.url,)

    @property
    def concurrency(self) -> int:
        """Waiting for the network, not the processor, takes the time."""
        return 16

    @_tried_again
    def get(self, name: str) -> bytes:
        """Read an object whole."""
        with _explained(self.url, name):
            return bytes(obstore.get(self._objects, name).bytes())

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read some (offset, length) ranges, one after the other.

        Not by obstore.get_ranges: it panics past every `except Exception` when the object is
        shorter than it should be.
        """
        return [self._range(name, offset, length) for offset, length in ranges]

    @_tried_again
    def _range(self, name: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        try:
            with _explained(self.url, name):
                part = obstore.get_range(self._objects, name, start=offset, length=length)
                return bytes(part)
        except NotFoundInStoreError:
            raise
        except StoreError as error:
            # What S3 refuses is of no bytes in a file.
            if not any(said in str(error) for said in _PAST_THE_END) or offset < self.size(name):
                raise
            return b""

    @_tried_again
    def size(self, name: str) -> int:
        """Tell an object's length, in bytes."""
        with _explained(self.url, name):
            return obstore.head(self._objects, name)["size"]

    @_tried_again
    def sha256(self, name: str) -> str:
        """Hash an object, in hexadecimal, a piece at a time."""
        digest = hashlib.sha256()
        with _explained(self.url, name):
            for piece in obstore.get(self._objects, name).stream(min_chunk_size=_PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()

    @_tried_again
    def list_names(self, prefix: str = "") -> list[str]:
        """Name all objects below a prefix, sorted."""
        with _explained(self.url, prefix):
            pages = self._objects.list(prefix or None)  # pyright: ignore[reportUnknownMemberType]
            return sorted(entry["path"] for page in pages for entry in page)

    def put_new(self, name: str, content: bytes | Path) -> None:
        """Upload in one request that fails if the name exists (If-None-Match)."""
        _refuse_after_fork()
        with _explained(self.url, name), _as_buffer(content) as buffer:
            obstore.put(self._uploads, name, buffer, mode="create", use_multipart=False)

    @_tried_again
    def remove(self, name: str) -> None:
        """Remove an object."""
        with suppress(NotFoundInStoreError), _explained(self.url, name):
            obstore.delete(self._objects, name)

    def scratch(self) -> AbstractContextManager[Path]:
        """Lend a file in the system's temporary folder, which is swept like a local store's."""
        sweep(Path(tempfile.gettempdir()))
        return scratch_in(Path(tempfile.gettempdir()))


def _connect(url: str, silence: timedelta) -> ObjectStore:
    """Open a bucket; plain http is allowed only where the user's own endpoint says http."""
    names = _ENDPOINTS.get(url.partition("://")[0], ())
    endpoint = next((os.environ[name] for name in names if name in os.environ), "")
    return from_url(
        url,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": _CONNECTING,
            "read_timeout": silence,
            "timeout": _WHOLE_REQUEST,
        },
        retry_config={
            "max_retries": _RETRIES_OF_A_REQUEST,
            "backoff": {"init_backoff": _SHORTEST_PAUSE, "max_backoff": _LONGEST_PAUSE},
            "retry_timeout": _LONGEST_RETRYING,
        },
    )


@contextmanager
def _as_buffer(content: bytes | Path) -> Generator[bytes | mmap.mmap]:
    """Lend the bytes of a file as a mapping: given a path, obstore holds them in memory twice."""
    if isinstance(content, bytes) or content.stat().st_size == 0:
        yield content if isinstance(content, bytes) else b""
        return
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


@contextmanager
def _explained(url: str, name: str) -> Generator[None]:
    """Turn obstore's errors into ours, with the remedy."""
    place = f"{url}/{name}".rstrip("/")
    try:
        yield
    except (AlreadyExistsError, PreconditionError, FileExistsError) as error:
        raise taken(url, name) from error
    except FileNotFoundError as error:
        raise NotFoundInStoreError(f"{place}: {_NOT_FOUND}") from error
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise StoreError(f"{place}: {_DENIED}") from error
    except (BaseError, OSError, ValueError) as error:
        listing = _REFUSED_LISTING.match(str(error))
        match listing and listing[1]:
            case "404":
                raise NotFoundInStoreError(f"{place}: {_NOT_FOUND}") from error
            case "401" | "403":
                raise StoreError(f"{place}: {_DENIED}") from error
            case _:
                pass
        first_line = without_secrets(str(error).partition("\n")[0])
        kind = TransientStoreError if isinstance(error, GenericError | OSError) else StoreError
        raise kind(
            f"{place}: {first_line}; check the endpoint and the network, then run it again"
        ) from error
