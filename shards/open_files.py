"""Which files are open? Those read last, up to so many; opening costs more than reading."""

import os
import threading
from collections import OrderedDict
from pathlib import Path

MAX_OPEN_FILES = 128


class _OpenFile:
    """A descriptor that is closed when the last thread that reads from it has let go of it."""

    __slots__ = ("descriptor",)

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class OpenFiles:
    """Files of a folder, opened when first asked for; threads may share it."""

    def __init__(self, root: Path) -> None:
        """Know the folder; nothing is opened yet."""
        self._root = root
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()

    def get(self, name: str) -> _OpenFile:
        """Give an open file; hold on to it while reading.

        Raises:
            OSError: it cannot be opened.
        """
        try:  # without the lock; one that another thread pushes out meanwhile is a KeyError too
            self._files.move_to_end(name)
            return self._files[name]
        except KeyError:
            pass
        with self._lock:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = _OpenFile(self._root / name)
                if len(self._files) > MAX_OPEN_FILES:
                    self._files.popitem(last=False)
        return file

    def forget(self, name: str) -> None:
        """Open a file anew next time; it may have been put in the place of another."""
        with self._lock:
            self._files.pop(name, None)
