"""Where are the shapes? Folders and zip archives of mesh files, listed in a fixed order."""

import csv
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NoReturn

from picpoint.render.meshes import Mesh, MeshError
from picpoint.render.readers import (
    DEFAULT_LIMITS,
    SUFFIXES,
    MeshLimits,
    check_num_bytes,
    read_bytes,
    read_mesh,
    read_mesh_file,
)

CATALOGUE = "catalogue.csv"
_COLUMNS = ("source_id", "label", "file")
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
        source: the folder or zip archive.
        file: the mesh's name in it, with slashes.
    """

    source_id: str
    label: str
    source: Path
    file: str

    def read_mesh(self, limits: MeshLimits = DEFAULT_LIMITS) -> Mesh:
        """Read the shape.

        Raises:
            MeshError: it cannot be rendered; `reason` says why.
            SourceError: the source itself is gone.
        """
        if self.source.is_dir():
            return read_mesh_file(self.source / self.file, limits, root=self.source)
        with _open_archive(self.source) as archive:
            return _read_member(archive, self.file, limits)


def list_shapes(source: str | Path) -> tuple[SourceShape, ...]:
    """List the shapes of a folder or zip archive, sorted by source id.

    With a `catalogue.csv` (columns source_id, label, file) its rows are the shapes. Without one,
    every mesh file is: its first folder is its label ("" for a file at the top), its path without
    the suffix is its id.

    Raises:
        SourceError: there is no such source, it is empty, its catalogue is wrong, or it holds what
            would have to be passed over.
    """
    if not str(source).strip():
        raise SourceError(f"{str(source)!r}: names no folder or .zip; give one, or . for this one")
    source = Path(source)
    if not source.exists():
        raise SourceError(f"{source}: no such folder or .zip; set `source` to where the meshes lie")
    files = set(_folder_files(source) if source.is_dir() else _archive_files(source))
    rows = _catalogue_rows(source) if CATALOGUE in files else _found_rows(files)
    shapes = sorted(
        (SourceShape(source_id, label, source, file) for source_id, label, file in rows),
        key=lambda shape: shape.source_id,
    )
    _check(shapes, files, source)
    return tuple(shapes)


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


def _archive_files(source: Path) -> Iterator[str]:
    """Yield the names of all files in an archive."""
    with _open_archive(source) as archive:
        yield from (info.filename for info in archive.infolist() if not info.is_dir())


def _open_archive(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except _ZIP_ERRORS as error:
        raise SourceError(f"{source}: {error}; give a folder or a sound .zip") from error


def _catalogue_rows(source: Path) -> list[tuple[str, str, str]]:
    """Read the catalogue of a source; give id, label and file of every row."""
    try:
        if source.is_dir():
            content = read_bytes(source / CATALOGUE, DEFAULT_LIMITS)
        else:
            with _open_archive(source) as archive:
                content = _unpack(archive, CATALOGUE, DEFAULT_LIMITS)
        return list(_parse_catalogue(content.decode("utf-8-sig"), source))
    except (MeshError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{source}: {CATALOGUE} cannot be read ({error}); give a sound CSV file in UTF-8"
        ) from error


def _found_rows(files: set[str]) -> Iterator[tuple[str, str, str]]:
    """Yield id, label and file of every mesh file."""
    for file in files:
        path = PurePosixPath(file)
        if path.suffix.lower() in SUFFIXES:
            label = path.parts[0] if len(path.parts) > 1 else ""
            yield path.with_suffix("").as_posix(), label, file


def _parse_catalogue(text: str, source: Path) -> Iterator[tuple[str, str, str]]:
    reader = csv.DictReader(io.StringIO(text))
    missing = set(_COLUMNS) - set(reader.fieldnames or ())
    if missing:
        raise SourceError(
            f"{source}: {CATALOGUE} has no column {', '.join(sorted(missing))}; "
            f"it needs {', '.join(_COLUMNS)}"
        )
    for row in reader:
        if None in row or None in (row[column] for column in _COLUMNS):
            raise SourceError(
                f"{source}: {CATALOGUE}, line {reader.line_num}: more or fewer cells than the "
                "header has columns; mend the line"
            )
        yield row["source_id"], row["label"], row["file"]


def _check(shapes: list[SourceShape], files: set[str], source: Path) -> None:
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
        if not shape.source_id or shape.file not in files:
            raise SourceError(
                f"{source}: {CATALOGUE} names {shape.file!r} as {shape.source_id!r}, which is not "
                "there; add the file or take out the row"
            )
        if shape.file.encode(errors="ignore").decode() != shape.file:
            raise SourceError(f"{source}: {shape.file!a} is not UTF-8; rename the file")


def _read_member(archive: zipfile.ZipFile, file: str, limits: MeshLimits) -> Mesh:
    """Read a mesh from an archive; what it names is looked up beside it in the archive."""

    def find(name: str) -> bytes | None:
        try:
            return _unpack(archive, _join(PurePosixPath(file).parent, name), limits)
        except MeshError:
            return None

    return read_mesh(_unpack(archive, file, limits), file, find, limits)


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
    for part in (folder / name).parts:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return "/".join(parts)
