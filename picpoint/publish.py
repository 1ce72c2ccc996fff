"""How does a file get its name only when it is whole? Written aside, synced, then moved."""

import os
from pathlib import Path


def publish_bytes(content: bytes, path: Path) -> None:
    """Write a file so that a reader sees all of it or none; folders are made as needed.

    Raises:
        OSError: the disk is full or the folder cannot be written; an older file is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def publish_text(text: str, path: Path) -> None:
    """Write a text file in UTF-8 so that a reader sees all of it or none.

    Raises:
        OSError: as `publish_bytes`.
    """
    publish_bytes(text.encode(), path)
