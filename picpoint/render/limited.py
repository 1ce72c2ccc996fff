"""How is a mesh kept from hanging, crashing or swallowing the job? A child captures it, in limits.

    with LimitedCapture(config, limits) as child:
        sample = child.capture(shape)  # a Sample, or MeshError with a reason for the rejects table

The child is a fresh Python, started once, that takes one shape after the other. It may allocate so
many bytes and no more; past its time it is killed and the next shape gets a new one. It is told
what to do in JSON and answers in the members of a sample, checked as a shard's are: whatever a file
makes of the child, its parent runs nothing that the child says.
"""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from pydantic import TypeAdapter

from picpoint.render.capture import CaptureConfig
from picpoint.render.capture_child import (
    LENGTH,
    MAX_DETAIL,
    READY,
    SOURCE_BUSY,
    SOURCE_GONE,
    CaptureLimits,
    encode_settings,
    encode_shape,
    write_frame,
)
from picpoint.render.meshes import MeshError
from picpoint.render.sources import SourceError, SourceShape
from shards.codec import decode_sample
from shards.errors import ShardError, TransientStoreError
from shards.schema import Sample

_STOP_S = 5.0
# Who kills a child may mean the shape in it, which was too large for the machine, or not.
_MAX_KILLED = 5
_KILLING = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Object storage may be tried again for so long; that time is not the mesh's.
_FETCHING_S = 600.0
_LAST_WORDS_BYTES = 4096
_PIECE_BYTES, _MAX_HEAD_BYTES = 2**20, 2**20


class _KilledError(Exception):
    """A child was killed by somebody else: by hand, or by the system where memory is short."""


class ChildStartError(RuntimeError):
    """The child that reads meshes cannot start; the message has its last words."""


class LimitedCapture:
    """Captures shapes in a child process, one at a time; a context manager."""

    def __init__(self, config: CaptureConfig, limits: CaptureLimits) -> None:
        self.config = config
        self.limits = limits
        self._child: _Child | None = None

    def __enter__(self) -> "LimitedCapture":
        self._living_child()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def capture(self, shape: SourceShape) -> Sample:
        """Read, sample and render a shape.

        Raises:
            MeshError: it cannot be rendered; `reason` is one of the readers' or of capture's, or
                `timeout`, `out_of_memory` or `crashed`.
            SourceError: the source itself is gone.
            TransientStoreError: the source failed in passing.
            ChildStartError: a new child was needed and did not start.
        """
        for _ in range(_MAX_KILLED):
            try:
                return self._living_child().capture(shape)
            except _KilledError:
                self.close()
            except MeshError as error:
                if error.reason in ("timeout", "out_of_memory", "crashed"):
                    self.close()  # What is left of it is not to be trusted with another shape.
                raise
        raise MeshError(
            "out_of_memory", f"{_MAX_KILLED} children were killed while they were at it"
        )

    def _living_child(self) -> "_Child":
        """Give a child that runs.

        Raises:
            ChildStartError: none can be started.
        """
        if self._child is not None and self._child.is_alive():
            return self._child
        self.close()
        for _ in range(_MAX_KILLED):
            with suppress(_KilledError):
                self._child = _Child(self.config, self.limits)
                return self._child
        raise ChildStartError(
            f"the process that reads meshes was killed {_MAX_KILLED} times while it started, "
            "probably for want of memory; run the same command again with fewer workers"
        )

    def close(self) -> None:
        """End the child, if there is one; the next shape gets a new one."""
        if self._child is not None:
            self._child.stop()
            self._child = None


@dataclass(frozen=True, slots=True)
class _Head:
    """What a child says first of a shape: why not, or which members follow."""

    reason: str = ""
    detail: str = ""
    members: tuple[str, ...] = ()


_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_HEAD = TypeAdapter(_Head)


class _Child:
    """One child process and the pipes to it."""

    def __init__(self, config: CaptureConfig, limits: CaptureLimits) -> None:
        self.limits = limits
        self._killed_here = False
        self.last_words = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `stop`)
        # A group of its own, so that Ctrl-C reaches the parent alone. -P: the path is the parent's.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "picpoint.render.capture_child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.last_words,
            env=os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(sys.path)},
            process_group=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        self._start(config)

    def _start(self, config: CaptureConfig) -> None:
        deadline = time.monotonic() + self.limits.start_seconds
        try:
            write_frame(self.requests, encode_settings(config, self.limits))
            answer = self._receive(deadline, len(READY))
        except (EOFError, OSError) as error:
            why, is_killed = self._end(error), self._was_killed()
            self.stop()
            if is_killed:
                raise _KilledError from error
            raise ChildStartError(
                f"the process that reads meshes does not start ({why}); see that memory_bytes and "
                "start_seconds are enough and that `picpoint doctor` finds everything"
            ) from error
        except BaseException:  # Ctrl-C
            self.stop()
            raise
        assert answer == READY

    def is_alive(self) -> bool:
        """Tell whether the process runs."""
        return self.process.poll() is None

    def capture(self, shape: SourceShape) -> Sample:
        """Have a shape captured; see LimitedCapture."""
        fetching_s = _FETCHING_S if isinstance(shape.source, str) else 0.0
        deadline = time.monotonic() + self.limits.seconds + fetching_s
        try:
            write_frame(self.requests, encode_shape(shape))
            head = _HEAD.validate_json(self._receive(deadline, _MAX_HEAD_BYTES))
            room_bytes, members = self.limits.memory_bytes, dict[str, bytes]()
            for name in head.members:
                members[name] = self._receive(deadline, room_bytes)
                room_bytes -= len(members[name])
            sample = None if head.reason else decode_sample(members)
        except TimeoutError as error:
            raise MeshError("timeout", self._end(error)) from error
        except (EOFError, OSError) as error:
            how = self._end(error)
            if self._was_killed():
                raise _KilledError from error
            raise MeshError("crashed", how) from error
        except (ShardError, ValueError) as error:
            raise MeshError("crashed", f"the child's answer is no sample: {error}") from error
        if head.reason == SOURCE_GONE:
            raise SourceError(head.detail)
        if head.reason == SOURCE_BUSY:
            raise TransientStoreError(head.detail)
        if sample is None:
            raise MeshError(head.reason, head.detail)
        return sample

    def stop(self) -> None:
        """End the process, if it has not ended, and close every pipe."""
        self._kill()
        self.answers.close()
        self.last_words.close()
        with suppress(BrokenPipeError):  # the rest of a request that it did not live to read
            self.requests.close()

    def _kill(self) -> None:
        if self.is_alive():
            self._killed_here = True
            self.process.kill()
        self.process.wait()

    def _receive(self, deadline: float, most_bytes: int) -> bytes:
        """Read a frame.

        Raises:
            TimeoutError: the deadline is over.
            EOFError: the child is gone.
            ValueError: the frame is longer than allowed.
        """
        (num_bytes,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
        if num_bytes > most_bytes:
            raise ValueError(f"a frame of {num_bytes} bytes, at most {most_bytes} are due")
        return self._read(num_bytes, deadline)

    def _read(self, num_bytes: int, deadline: float) -> bytes:
        pieces: list[bytes] = []
        with selectors.DefaultSelector() as selector:
            selector.register(self.answers, selectors.EVENT_READ)
            while num_bytes > 0:
                # What is there already counts, however late it is looked at.
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                # Not through the pipe's own buffer, of which the selector knows nothing.
                piece = os.read(self.answers.fileno(), min(num_bytes, _PIECE_BYTES))
                if not piece:
                    raise EOFError
                pieces.append(piece)
                num_bytes -= len(piece)
        return b"".join(pieces)

    def _was_killed(self) -> bool:
        """Tell whether somebody else killed it."""
        return not self._killed_here and -(self.process.poll() or 0) in _KILLING

    def _end(self, error: Exception) -> str:
        """Say how it ended, with its last words."""
        if isinstance(error, TimeoutError):
            return "not done in time"
        code = self._exit_code()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        size = self.last_words.seek(0, os.SEEK_END)
        self.last_words.seek(max(0, size - _LAST_WORDS_BYTES))
        lines = self.last_words.read().decode(errors="replace").splitlines()
        words = [line.strip() for line in lines if line.strip()]
        return f"{how}: {words[-1][:MAX_DETAIL]}" if words else how

    def _exit_code(self) -> int:
        """Wait for a process that has closed its pipe; one that does not end is killed."""
        try:
            return self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return self.process.returncode
