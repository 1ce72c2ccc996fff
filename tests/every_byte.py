"""Is a text anywhere in what was written, also inside archives, tables and encodings?"""

import base64
import binascii
import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}")


def places_of(text: str, folder: Path) -> list[str]:
    """Name all files of a folder that hold a text."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and holds(path.read_bytes(), text)
    ]


def holds(content: bytes, text: str) -> bool:
    """Tell whether a text is in a file: as it is, wide, in hexadecimal, base64, or packed."""
    needles = (text.encode(), text.encode("utf-16-le"), text.encode().hex().encode())
    return any(
        needle in layer.replace(b"\\/", b"/") for layer in _layers(content) for needle in needles
    )


def _layers(content: bytes, depth: int = 0) -> Iterator[bytes]:
    yield content
    if depth == 4:
        return
    for inner in (*_members(content), *_decoded(content)):
        yield from _layers(inner, depth + 1)


def _members(content: bytes) -> Iterator[bytes]:
    """Unpack what a file holds: gzip, zip (also of checkpoints and npz), tar, Parquet."""
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    elif content[:4] == b"PAR1":
        table = pyarrow.parquet.ParquetFile(io.BytesIO(content)).read(use_threads=False)
        yield repr(table.to_pydict()).encode()
        yield repr(table.schema.metadata).encode()
    elif zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield archive.read(name)
    elif content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                yield member.name.encode()
                if file := archive.extractfile(member):
                    yield file.read()
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        yield from _png_texts(content)


def _png_texts(content: bytes) -> Iterator[bytes]:
    for match in re.finditer(rb"(zTXt|iTXt)", content):
        for start in range(match.end(), min(match.end() + 90, len(content))):
            try:
                yield zlib.decompressobj().decompress(content[start:])
                break
            except zlib.error:
                continue


def _decoded(content: bytes) -> Iterator[bytes]:
    """Read runs of base64 in text files."""
    if b"\0" in content[:1024]:
        return
    for match in _BASE64.finditer(content):
        run = match.group().translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4):
            usable = run[start : start + (len(run) - start) // 4 * 4]
            try:
                yield base64.b64decode(usable)
            except binascii.Error:
                continue
