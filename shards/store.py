"""Where do the bytes lie? Local folders and object storage behind one face.

Nothing is ever overwritten and nothing is ever seen half-written: `put_new` publishes whole content
under a name that was free, or raises. Names are relative, with "/" between their parts.

On object storage `put_new` is one conditional request (If-None-Match; for Google, generation 0),
because a multipart upload cannot be conditional everywhere. It is sent from a mapping of the
spooled file, and S3 and Azure take at most 5 GB in it: shards of a few hundred MB are meant.
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

import stamina

from shards.errors import (
    AlreadyInStoreError,
    NotFoundInStoreError,
    TransientStoreError,
    UrlError,
)
from shards.local import LocalStore
from shards.remote import RemoteStore
from shards.secret_urls import REFUSAL, holds_secret

__all__ = [
    "LocalStore",
    "RemoteStore",
    "Store",
    "as_store",
    "file_sha256",
    "get_range",
    "is_sha256",
    "open_store",
    "put_once",
    "sha256",
]

_SHA256 = re.compile(r"[0-9a-f]{64}")
REMOTE_SCHEMES = ("s3", "gs", "az")


@runtime_checkable
class Store(Protocol):
    """A folder or a bucket's prefix."""

    @property
    def url(self) -> str:
        """Where it is, as a user wrote it."""
        ...

    @property
    def concurrency(self) -> int:
        """How many requests at once make reading faster: 1 on a disk, more over a network."""
        ...

    def get(self, name: str) -> bytes:
        """Read an object whole."""
        ...

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read some (offset, length) ranges, in bytes; shorter where the object ends early."""
        ...

    def size(self, name: str) -> int:
        """Tell an object's length, in bytes."""
        ...

    def sha256(self, name: str) -> str:
        """Hash an object, in hexadecimal, a piece at a time."""
        ...

    def list_names(self, prefix: str = "") -> list[str]:
        """Name all objects below a folder, sorted; work in progress is left out."""
        ...

    def put_new(self, name: str, content: bytes | Path) -> None:
        """Publish content, or a local file's content, under a free name: wholly or not at all.

        Raises:
            AlreadyInStoreError: the name is taken, perhaps by a writer who was a moment faster.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def scratch(self) -> AbstractContextManager[Path]:
        """Lend a local file from which `put_new` is cheap; it is gone afterwards."""
        ...


def open_store(url: str | Path) -> Store:
    """Open the store that a URL names; nothing is touched yet.

    Args:
        url: a local path, file://, s3://, gs:// or az://. Credentials and endpoints come from the
            environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL; AZURE_STORAGE_ACCOUNT_NAME,
            AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_ENDPOINT; GOOGLE_SERVICE_ACCOUNT,
            GOOGLE_BASE_URL, ...).

    Raises:
        UrlError: no place, no such scheme, or settings that cannot be used.
    """
    scheme, separator, rest = str(url).partition("://")
    if separator and holds_secret(str(url)):
        raise UrlError(f"the URL of a {scheme} store: {REFUSAL}")
    if not (rest if separator else scheme).strip():
        raise UrlError(
            f"{str(url)!r}: names no folder or bucket; give one, or . for the current folder"
        )
    if not separator:
        return LocalStore(Path(url))
    if scheme == "file":
        return LocalStore(Path(rest))
    if scheme not in REMOTE_SCHEMES:
        raise UrlError(
            f"{url}: unknown scheme {scheme!r}; give a path, file://, "
            + ", ".join(f"{known}://" for known in REMOTE_SCHEMES)
        )
    if {"?", "#"} & set(rest):
        raise UrlError(
            f"{url}: what follows ? or # would be passed over; leave it out, and set the endpoint "
            "and the like in the environment"
        )
    return RemoteStore(str(url).rstrip("/"))


def as_store(url: str | Path | Store) -> Store:
    """Open the store that a URL names, or give back the one that was opened already."""
    return open_store(url) if isinstance(url, str | Path) else url


def get_range(store: Store, name: str, offset: int, length: int) -> bytes:
    """Read one range of an object, in bytes; shorter where the object ends early."""
    return store.get_ranges(name, [(offset, length)])[0]


def put_once(store: Store, name: str, content: bytes | Path) -> str:
    """Publish content, which may be there already: whoever repeats the same work succeeds.

    So does whoever published it without hearing of it, because the answer was lost: the name is
    then taken by the same content.

    Returns:
        SHA-256 of the content, in hexadecimal.

    Raises:
        AlreadyInStoreError: the name is taken by other content.
    """
    digest = file_sha256(content) if isinstance(content, Path) else sha256(content)
    for attempt in stamina.retry_context(on=TransientStoreError, attempts=4, timeout=None):
        with attempt:
            found = _put_or_hash(store, name, content)
            if found not in (None, digest):
                raise AlreadyInStoreError(
                    f"{store.url}/{name}: has SHA-256 {found[:12]}..., not {digest[:12]}...; what "
                    "is published is never replaced: remove it first, or write to another folder"
                )
    return digest


def _put_or_hash(store: Store, name: str, content: bytes | Path) -> str | None:
    """Publish content, or give the hash of what has its name."""
    try:
        store.put_new(name, content)
    except AlreadyInStoreError:
        try:
            return store.sha256(name)
        except NotFoundInStoreError as error:
            # Two requests at once, and the one that was to win did not come to its end.
            raise TransientStoreError(f"{store.url}/{name}: taken and not there") from error
    return None


def sha256(content: bytes) -> str:
    """Hash bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def is_sha256(text: str) -> bool:
    """Tell whether a text is a hash as `sha256` writes it; what others wrote may be anything."""
    return _SHA256.fullmatch(text) is not None


def file_sha256(path: Path) -> str:
    """Hash a local file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
