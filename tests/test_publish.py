import errno
import os
from pathlib import Path

import pytest

from picpoint.publish import publish_bytes, publish_text


def test_what_is_published_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    publish_bytes(b"\x00\xff", path)
    publish_bytes(b"again", path)
    assert path.read_bytes() == b"again"
    assert list(path.parent.iterdir()) == [path]


def test_text_is_utf8_with_its_line_ends(tmp_path: Path) -> None:
    publish_text("ä\r\n", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa4\r\n"


def test_a_failed_write_leaves_the_old_content_and_no_scraps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    publish_text("old", path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish_text("new", path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
