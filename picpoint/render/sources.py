"""Where are the shapes? Folders, archives and lists of mesh files, listed in a fixed order."""

import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from sys import intern
from typing import NoReturn

from picpoint.render.furniture import FURNITURE_CATALOGUE, parse_furniture
from picpoint.render.layouts import NamedFile, name_file
from picpoint.render.lists import LIST_SUFFIXES, OpenTable, parse_list
from picpoint.render.meshes import Mesh, MeshError, turn
from picpoint.render.object_classes import object_class
from picpoint.render.readers import (
    DEFAULT_LIMITS,
    SUFFIXES,
    MeshLimits,
    check_num_bytes,
    read_mesh,
    read_mesh_file,
)
from shards.errors import NotFoundInStoreError, StoreError, TransientStoreError
from shards.store import REMOTE_SCHEMES, Store, open_store

CATALOGUE = "catalogue.csv"
FURNITURE_SUFFIX = ".sh3f"
_PIECE_BYTES = 4096
# What zipfile and its decompressors raise on damaged or encrypted bytes, and the system.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    ValueError,
)


class SourceError(ValueError):
    """A source of shapes that cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class SourceShape:
    """One shape that can be read, here or in another process.

    Attributes:
        source_id: unique within the source.
        label: class name, or "" where none is known.
        source: the folder or archive; or, as text, the URL of a folder in object storage.
        file: the mesh's name in it, with slashes.
        to_upright: rotation of the file's vertices, row by row, after which y is up; None for none.
    """

    source_id: str
    label: str
    source: Path | str
    file: str
    to_upright: tuple[float, ...] | None = None

    def read_mesh(self, limits: MeshLimits = DEFAULT_LIMITS) -> Mesh:
        """Read the shape.

        Raises:
            MeshError: it cannot be rendered; `reason` says why.
            SourceError: the source itself is gone, or refuses.
            TransientStoreError: object storage failed in passing.
        """
        try:
            mesh = self._read(limits)
        except TransientStoreError:
            raise
        except StoreError as error:
            raise SourceError(f"{self.source}: {error}") from error
        return mesh if self.to_upright is None else turn(mesh, self.to_upright)

    def _read(self, limits: MeshLimits) -> Mesh:
        if isinstance(self.source, str):
            return _read_from(_fetcher(_open_url(self.source)), self.file, limits)
        if self.source.is_dir():
            return read_mesh_file(self.source / self.file, limits, root=self.source)
        return _read_from(_unpacker(_keep_open(self.source)), self.file, limits)

    def stamp(self) -> tuple[int, int]:
        """Give size and time of change of the file or archive that it is read from.

        Returns:
            Bytes and nanoseconds; 0 for the time of what lies in object storage.

        Raises:
            SourceError: it is gone.
        """
        try:
            if isinstance(self.source, str):
                return open_store(self.source).size(self.file), 0
            state = (self.source / self.file if self.source.is_dir() else self.source).stat()
            return state.st_size, state.st_mtime_ns
        except (OSError, StoreError) as error:
            raise SourceError(
                f"{self.source}: {self.file} is gone ({error}); put it back"
            ) from error


def list_shapes(source: str | Path) -> tuple[SourceShape, ...]:
    """List the shapes of a source, sorted by source id.

    A source is one of

    * a folder or .zip with a `catalogue.csv` (columns source_id, label, file), whose rows are the
      shapes;
    * a folder or .zip of mesh files; their folders say what they are (picpoint/render/layouts.py);
    * a .sh3f archive of furniture, whose catalogue says what they are, or a folder of such; the
      label is the class of object that the name tells of (picpoint/render/object_classes.py);
    * a .csv or .parquet list with those columns; a file is a path, taken from the list's own folder
      if it is relative, or a URL: s3://, gs://, az:// or file://.

    Raises:
        SourceError: there is no such source, it is empty, its catalogue is wrong, or it holds what
            would have to be passed over.
    """
    if not str(source).strip():
        raise SourceError(f"{str(source)!r}: names no folder or .zip; give one, or . for this one")
    source = Path(source)
    if not source.exists():
        raise SourceError(f"{source}: no such folder or .zip; set `source` to where the meshes lie")
    shapes = sorted(_found_shapes(source), key=lambda shape: shape.source_id)
    _check(shapes, source)
    return tuple(shapes)


def _found_shapes(source: Path) -> Iterator[SourceShape]:
    suffix = source.suffix.lower()
    if source.is_dir():
        yield from _folder_shapes(source)
    elif suffix in LIST_SUFFIXES:
        for row in _listed_rows(source, source.name):
            yield _listed_shape(*row, source)
    elif suffix == FURNITURE_SUFFIX:
        yield from _furniture_shapes(source)
    else:
        yield from _archive_shapes(source)


def _folder_shapes(source: Path) -> Iterator[SourceShape]:
    if (source / CATALOGUE).exists():
        for source_id, label, file in _listed_rows(source / CATALOGUE, CATALOGUE):
            is_there = ".." not in PurePosixPath(file).parts and (source / file).is_file()
            _check_is_there(is_there, file, source_id, source, CATALOGUE)
            yield SourceShape(source_id, label, source, file)
        return
    for file in _folder_files(source):
        suffix = PurePosixPath(file).suffix.lower()
        if suffix in SUFFIXES:
            yield _named_shape(name_file(file), source)
        elif suffix == FURNITURE_SUFFIX:
            yield from _furniture_shapes(source / file)


def _archive_shapes(source: Path) -> Iterator[SourceShape]:
    with _open_archive(source) as archive:
        files = {info.filename for info in archive.infolist() if not info.is_dir()}
        if CATALOGUE not in files:
            meshes = [name for name in files if PurePosixPath(name).suffix.lower() in SUFFIXES]
            yield from (_named_shape(name_file(file), source) for file in meshes)
            return
        try:
            catalogue = io.BytesIO(_unpack(archive, CATALOGUE, DEFAULT_LIMITS))
        except MeshError as error:
            raise _unreadable_list(source, CATALOGUE, error) from error
    for source_id, label, file in _parsed_list(catalogue, source, CATALOGUE):
        _check_is_there(file in files, file, source_id, source, CATALOGUE)
        yield SourceShape(source_id, label, source, file)


def _named_shape(named: NamedFile, source: Path) -> SourceShape:
    return SourceShape(named.source_id, named.label, source, named.file, named.to_upright)


def _listed_shape(source_id: str, label: str, file: str, table: Path) -> SourceShape:
    """Find the file of one row of a list."""
    scheme, separator, _ = file.partition("://")
    if separator and scheme != "file":
        url, _, name = file.rpartition("/")
        if scheme not in REMOTE_SCHEMES or not name:
            raise SourceError(
                f"{table}: {file!r} names no file in a store; give a path, file://, "
                + ", ".join(f"{known}://" for known in REMOTE_SCHEMES)
            )
        return SourceShape(source_id, intern(label), intern(url), name)  # of millions of rows
    path, folder = table.parent / file.removeprefix("file://"), table.parent
    if not path.is_file():
        raise SourceError(
            f"{table}: names {file!r} as {source_id!r}, which is not there; add the file or take "
            "out the row"
        )
    # What a mesh names may lie anywhere in the list's folder, or beside a mesh from elsewhere.
    real, real_folder = path.resolve(), folder.resolve()
    if real.is_relative_to(real_folder):
        return SourceShape(source_id, label, folder, real.relative_to(real_folder).as_posix())
    return SourceShape(source_id, label, path.parent, path.name)


def _furniture_shapes(source: Path) -> Iterator[SourceShape]:
    """Yield the shapes of a Sweet Home 3D archive; an id is the model's path without suffix."""
    with _open_archive(source) as archive:
        files = set(archive.namelist())
        try:
            entries = parse_furniture(_unpack(archive, FURNITURE_CATALOGUE, DEFAULT_LIMITS))
        except (MeshError, ValueError) as error:
            raise SourceError(
                f"{source}: {FURNITURE_CATALOGUE} cannot be read ({error}); give a sound .sh3f"
            ) from error
    for entry in entries:
        source_id = PurePosixPath(entry.file).with_suffix("").as_posix()
        _check_is_there(entry.file in files, entry.file, source_id, source, FURNITURE_CATALOGUE)
        yield SourceShape(source_id, object_class(entry.name), source, entry.file, entry.rotation)


def _folder_files(source: Path) -> Iterator[str]:
    """Yield the names of all files in a folder, with slashes; what cannot be read is refused."""
    for folder, folders, names in os.walk(source, onerror=_refuse_folder):
        for name in folders:
            if (path := Path(folder, name)).is_symlink():
                raise SourceError(
                    f"{str(path)!a}: a link to a folder, which may lead in circles, is not "
                    "followed; put the folder itself there"
                )
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path.relative_to(source).as_posix()
            elif path.suffix.lower() in SUFFIXES:
                raise SourceError(
                    f"{str(path)!a}: a broken link, or no plain file; mend it or remove it"
                )


def _refuse_folder(error: OSError) -> NoReturn:
    raise SourceError(
        f"{error.filename!a}: {error.strerror}; let this user read the folder, or move it out "
        "of the source"
    ) from error


def _open_archive(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except _ZIP_ERRORS as error:
        raise SourceError(f"{source}: {error}; give a folder or a sound .zip") from error


def _listed_rows(path: Path, name: str) -> Iterator[tuple[str, str, str]]:
    """Read a list of shapes on the disk; yield id, label and file of every row."""
    source = path if path.name != CATALOGUE else path.parent
    try:
        with path.open("rb") as table:
            yield from _parsed_list(table, source, name)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; let this user read it") from error


def _parsed_list(table: OpenTable, source: Path, name: str) -> Iterator[tuple[str, str, str]]:
    try:
        yield from parse_list(table, name)
    except ValueError as error:
        raise _unreadable_list(source, name, error) from error


def _unreadable_list(source: Path, name: str, error: Exception) -> SourceError:
    wanted = "CSV file in UTF-8" if name.lower().endswith(".csv") else "Parquet file"
    return SourceError(f"{source}: {name} cannot be read ({error}); give a sound {wanted}")


def _check_is_there(
    is_there: bool, file: str, source_id: str, source: Path, catalogue: str
) -> None:
    if not is_there:
        raise SourceError(
            f"{source}: {catalogue} names {file!r} as {source_id!r}, which is not there; add the "
            "file or take out the row"
        )


def _check(shapes: list[SourceShape], source: Path) -> None:
    if not shapes:
        raise SourceError(
            f"{source}: holds no shape; put files {' '.join(SUFFIXES)} or a {CATALOGUE} there"
        )
    for before, shape in pairwise(shapes):
        if before.source_id == shape.source_id:
            raise SourceError(
                f"{source}: {before.file} and {shape.file} share the id {shape.source_id!r}; "
                f"rename one, or tell them apart in a {CATALOGUE}"
            )
    for shape in shapes:
        if not shape.source_id:
            raise SourceError(f"{source}: {shape.file!r} has an empty source_id; give it a name")
        for text in (shape.file, shape.source_id, shape.label):
            if text.encode(errors="ignore").decode() != text:
                raise SourceError(f"{source}: {text!a} is not UTF-8; rename the file")


# Gives a file of a source whole, by its name there.
_Fetch = Callable[[str, MeshLimits], bytes]


def _read_from(fetch: _Fetch, file: str, limits: MeshLimits) -> Mesh:
    """Read a mesh; what it names is looked up beside it."""

    def find(name: str) -> bytes | None:
        try:
            return fetch(_join(PurePosixPath(file).parent, name), limits)
        except TransientStoreError:
            raise
        except (MeshError, StoreError):  # some stores refuse what is not there
            return None

    return read_mesh(fetch(file, limits), file, find, limits)


def _unpacker(archive: zipfile.ZipFile) -> _Fetch:
    return lambda member, limits: _unpack(archive, member, limits)


def _open_url(url: str) -> Store:
    try:
        return open_store(url)
    except StoreError as error:
        raise SourceError(f"{url}: {error}") from error


def _fetcher(store: Store) -> _Fetch:
    """Give what downloads files, if they are small enough."""

    def fetch(name: str, limits: MeshLimits) -> bytes:
        try:
            check_num_bytes(name, store.size(name), limits)
            return store.get(name)
        except NotFoundInStoreError as error:
            raise MeshError("unreadable", f"{name}: not there") from error

    return fetch


def _keep_open(source: Path) -> zipfile.ZipFile:
    """Open an archive, or give it as it is open already."""
    try:
        state = source.stat()
    except OSError as error:
        raise SourceError(f"{source}: {error.strerror}; give a folder or a sound .zip") from error
    return _kept_archive(source, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)
def _kept_archive(source: Path, num_bytes: int, changed_ns: int) -> zipfile.ZipFile:
    """Keep an archive open: reading the list of a million members takes seconds."""
    del num_bytes, changed_ns  # another archive of this name is opened anew
    return _open_archive(source)


def _unpack(archive: zipfile.ZipFile, member: str, limits: MeshLimits) -> bytes:
    """Read a file of an archive whole, if it is small enough.

    Raises:
        MeshError: `too_large`, or `unreadable`: it is damaged, encrypted or not there.
    """
    try:
        info = archive.getinfo(member)
        if info.compress_type == zipfile.ZIP_BZIP2:
            raise MeshError("unreadable", f"{member}: bzip2 keeps no limit of size; use deflate")
        check_num_bytes(member, info.file_size, limits)
        with archive.open(member) as file:
            # In small pieces: what is more than the size just checked is never unpacked far.
            return b"".join(iter(lambda: file.read(_PIECE_BYTES), b""))
    except MeshError:
        raise
    except _ZIP_ERRORS as error:
        raise MeshError("unreadable", f"{member}: {type(error).__name__}: {error}") from error


def _join(folder: PurePosixPath, name: str) -> str:
    """Join names within an archive, where `..` has no meaning of its own."""
    parts: list[str] = []
    for part in (folder / name.lstrip("/")).parts:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return "/".join(parts)
