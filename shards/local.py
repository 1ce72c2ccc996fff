"""How does a local folder keep what was published? Written beside, forced to disk, then linked."""

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from shards.errors import NotFoundInStoreError, StoreError, taken
from shards.open_files import OpenFiles

# Names that begin so are work in progress; a killed process may leave some behind.
SCRATCH_PREFIX = ".part-"
# Work in progress that was not written to for so long has no writer any more.
LEFT_BEHIND_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A folder; made when something is first published.

    Attributes:
        root: the folder.
    """

    root: Path
    _open: OpenFiles = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_open", OpenFiles(self.root))

    def __reduce__(self) -> tuple[type["LocalStore"], tuple[Path]]:
        return LocalStore, (self.root,)

    @property
    def url(self) -> str:
        """The folder, as it was given."""
        return str(self.root)

    @property
    def concurrency(self) -> int:
        """A second thread reads no faster from the page cache."""
        return 1

    def get(self, name: str) -> bytes:
        """Read a file whole."""
        with self._explained("read", name):
            return (self.root / name).read_bytes()

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read some (offset, length) ranges; the file stays open for the next."""
        try:
            file = self._open.get(name)
            return [os.pread(file.descriptor, length, offset) for offset, length in ranges]
        except OSError:
            with self._explained("read", name):
                raise

    def is_cached(self, name: str, offset: int) -> bool:
        """Tell whether the system would read a byte without going to the disk, if it can tell."""
        if not hasattr(os, "RWF_NOWAIT"):  # macOS
            return False
        try:
            file = self._open.get(name)
            return os.preadv(file.descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
        except OSError:  # it is not, or the file system cannot tell, or has no such file
            return False

    def will_need(self, name: str, ranges: Sequence[tuple[int, int]]) -> None:
        """Have the system begin to read (offset, length) ranges, if it can."""
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        try:
            file = self._open.get(name)
            for offset, length in ranges:
                os.posix_fadvise(file.descriptor, offset, length, os.POSIX_FADV_WILLNEED)
        except OSError:  # told when it is read
            return

    def reopen(self, name: str) -> None:
        """Read a file by its name next time, not the one of that name which was open."""
        self._open.forget(name)

    def size(self, name: str) -> int:
        """Tell a file's length, in bytes."""
        with self._explained("read", name):
            return (self.root / name).stat().st_size

    def sha256(self, name: str) -> str:
        """Hash a file, in hexadecimal, a piece at a time."""
        with self._explained("read", name), (self.root / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def list_names(self, prefix: str = "") -> list[str]:
        """Name all files below a sub-folder, sorted, without work in progress."""
        folder = self.root / prefix
        with self._explained("list", prefix):
            folder.stat()
            return sorted(
                path.relative_to(self.root).as_posix()
                for path in folder.rglob("*")
                if path.is_file() and not path.name.startswith(SCRATCH_PREFIX)
            )

    def put_new(self, name: str, content: bytes | Path) -> None:
        """Write beside the target, force it to disk, then link it to its name."""
        target = self.root / name
        with explained_disk("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path) and content.name.startswith(SCRATCH_PREFIX):
                self._publish(content, name)
            else:
                with scratch_in(target.parent) as copy:
                    _write(copy, content)
                    self._publish(copy, name)

    def _publish(self, file: Path, name: str) -> None:
        target = self.root / name
        _force_to_disk(file)
        try:
            os.link(file, target)  # fails if the name exists, where a rename would replace it
        except FileExistsError as error:
            raise taken(self.url, name) from error
        _force_to_disk(target.parent)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with explained_disk("remove", self.root / name):
            (self.root / name).unlink(missing_ok=True)

    def scratch(self) -> AbstractContextManager[Path]:
        """Lend a file in the folder itself, so that publishing is a link, not a copy.

        What killed writers left there goes, once nobody has written to it for a day.
        """
        sweep(self.root)
        return scratch_in(self.root)

    @contextmanager
    def _explained(self, verb: str, name: str) -> Generator[None]:
        """Turn the system's errors into ours; what is not there is a kind of its own."""
        with explained_disk(verb, self.root / name):
            try:
                yield
            except FileNotFoundError as error:
                raise NotFoundInStoreError(self._missing(name)) from error

    def _missing(self, name: str) -> str:
        if not self.root.is_dir():
            return f"{self.root}: no such folder; check the path, or make the shards first"
        return f"{self.root / name}: no such file in this folder; is it the right one, and whole?"


@cache
def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder; once in a process: large ones take seconds."""
    oldest_s = time.time() - LEFT_BEHIND_S
    for path in folder.glob(f"{SCRATCH_PREFIX}*"):
        with suppress(OSError):  # another sweeper was faster, or it is not ours
            if path.stat().st_mtime < oldest_s:
                path.unlink()


@contextmanager
def explained_disk(verb: str, path: Path) -> Generator[None]:
    """Turn the system's errors into a StoreError with the remedy: a full disk, no permission."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {verb} {path}: {_remedy(error)}") from error


def _write(path: Path, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    with content.open("rb") as source, path.open("wb") as target:
        while block := source.read(1 << 20):
            target.write(block)


@contextmanager
def scratch_in(folder: Path) -> Generator[Path]:
    """Lend a new file in a folder; it is gone afterwards."""
    with explained_disk("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=SCRATCH_PREFIX, dir=folder)
        os.fchmod(descriptor, 0o644)
        os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()


def _force_to_disk(path: Path) -> None:
    """Wait until a file or a folder would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            rule = "the disk, the quota or the largest file size is used up; nothing was published"
            remedy = "free some space, or choose another folder, and run it again"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            rule = "this user may not"
            remedy = "change the folder's permissions, or choose another folder"
        case errno.ENOTDIR | errno.EISDIR | errno.EEXIST:
            rule = "a file stands where a folder is needed, or the other way round"
            remedy = "check the path"
        case _:
            rule = "the system refused"
            remedy = "check the disk, then run it again"
    return f"{error.strerror or error}: {rule}; {remedy}"
