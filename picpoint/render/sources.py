"""Where are the shapes? Folders and zip archives of mesh files, listed in a fixed order."""

import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from picpoint.render.meshes import Mesh, MeshError
from picpoint.render.readers import (
    DEFAULT_LIMITS,
    SUFFIXES,
    MeshLimits,
    check_num_bytes,
    read_mesh,
    read_mesh_file,
)

CATALOGUE = "catalogue.csv"
_COLUMNS = ("source_id", "label", "file")


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
            OSError: the source is gone.
        """
        if self.source.is_dir():
            return read_mesh_file(self.source / self.file, limits)
        with zipfile.ZipFile(self.source) as archive:
            return _read_member(archive, self.file, limits)


def list_shapes(source: str | Path) -> tuple[SourceShape, ...]:
    """List the shapes of a folder or zip archive, sorted by source id.

    With a `catalogue.csv` (columns source_id, label, file) its rows are the shapes. Without one,
    every mesh file is: its first folder is its label ("" for a file at the top), its path without
    the suffix is its id.

    Raises:
        SourceError: there is no such source, it is empty, or its catalogue is wrong.
    """
    source = Path(source)
    if not source.exists():
        raise SourceError(f"{source}: no such folder or .zip; set `source` to where the meshes lie")
    try:
        files = set(_file_names(source))
        text = _read_text(source, CATALOGUE) if CATALOGUE in files else None
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise SourceError(f"{source}: {error}; give a folder or a sound .zip") from error
    rows = _found_rows(files) if text is None else _catalogue_rows(text, source)
    shapes = sorted(
        (SourceShape(source_id, label, source, file) for source_id, label, file in rows),
        key=lambda shape: shape.source_id,
    )
    _check(shapes, files, source)
    return tuple(shapes)


def _file_names(source: Path) -> Iterator[str]:
    """Yield the names of all files in a source, with slashes."""
    if source.is_dir():
        paths = (path for path in source.rglob("*") if path.is_file())
        yield from (path.relative_to(source).as_posix() for path in paths)
        return
    with zipfile.ZipFile(source) as archive:
        yield from (info.filename for info in archive.infolist() if not info.is_dir())


def _read_text(source: Path, name: str) -> str:
    if source.is_dir():
        return (source / name).read_text(encoding="utf-8-sig")
    with zipfile.ZipFile(source) as archive:
        return archive.read(name).decode("utf-8-sig")


def _found_rows(files: set[str]) -> Iterator[tuple[str, str, str]]:
    """Yield id, label and file of every mesh file."""
    for file in files:
        path = PurePosixPath(file)
        if path.suffix.lower() in SUFFIXES:
            label = path.parts[0] if len(path.parts) > 1 else ""
            yield path.with_suffix("").as_posix(), label, file


def _catalogue_rows(text: str, source: Path) -> Iterator[tuple[str, str, str]]:
    """Yield id, label and file of every row of a catalogue."""
    reader = csv.DictReader(io.StringIO(text))
    missing = set(_COLUMNS) - set(reader.fieldnames or ())
    if missing:
        raise SourceError(
            f"{source}: {CATALOGUE} has no column {', '.join(sorted(missing))}; "
            f"it needs {', '.join(_COLUMNS)}"
        )
    for row in reader:
        yield row["source_id"], row["label"] or "", row["file"] or ""


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


def _read_member(archive: zipfile.ZipFile, file: str, limits: MeshLimits) -> Mesh:
    """Read a mesh from an archive; what it names is looked up beside it in the archive."""

    def find(name: str) -> bytes | None:
        member = _join(PurePosixPath(file).parent, name)
        try:
            if archive.getinfo(member).file_size > limits.max_file_bytes:
                return None
            return archive.read(member)
        except (KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
            return None

    check_num_bytes(file, archive.getinfo(file).file_size, limits)
    try:
        # zipfile unpacks no more than the size that was just checked.
        content = archive.read(file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise MeshError("unreadable", f"{file}: {error}") from error
    return read_mesh(content, file, find, limits)


def _join(folder: PurePosixPath, name: str) -> str:
    """Join names within an archive, where `..` has no meaning of its own."""
    parts: list[str] = []
    for part in (folder / name).parts:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return "/".join(parts)
