"""How is a mesh kept from hanging, crashing or swallowing the job? A child captures it, in limits.

    with LimitedCapture(config, limits) as child:
        sample = child.capture(shape)  # a Sample, or MeshError with a reason for the rejects table

The child is a fresh Python, started once, that takes one shape after the other. It may allocate so
many bytes and no more; past its time it is killed and the next shape gets a new one. It is told
what to do in JSON and answers in the members of a sample, checked as a shard's are: whatever a file
makes of the child, its parent runs nothing that the child says.

    frame    length, 8 bytes, little-endian; then so many bytes
    request  one frame: JSON of a shape
    answer   one frame: JSON, either {"reason", "detail"} or {"members": names}; then one frame each
"""

import json
import os
import resource
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from picpoint.render.capture import CaptureConfig, capture
from picpoint.render.children import end_with_parent
from picpoint.render.meshes import MeshError
from picpoint.render.readers import MeshLimits, read_mesh
from picpoint.render.sources import SourceError, SourceShape
from shards.codec import decode_sample, encode_sample
from shards.errors import ShardError, TransientStoreError
from shards.schema import Sample

# A source that is gone is no fault of the mesh: the job ends. No mesh has this for its reason.
_SOURCE_GONE = "source_gone"
_SOURCE_BUSY = "source_busy"
_READY = b"ready"
_LENGTH = struct.Struct("<Q")
# Python, NumPy, numba and what they load take this much before the first mesh.
_LEAST_MEMORY_BYTES = 512 * 2**20
_STOP_S = 5.0
# Who kills a child may mean the shape in it, which was too large for the machine, or not.
_MAX_KILLED = 5
_KILLING = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Object storage may be tried again for so long; that time is not the mesh's.
_FETCHING_S = 600.0
_LAST_WORDS_BYTES = 4096
# Longer waits than this are no limit, and more than the system's own calls take.
_LONGEST_S = 86400.0
_PIECE_BYTES, _MAX_HEAD_BYTES, _MAX_DETAIL = 2**20, 2**20, 500
# A child that writes more into files than compiled kernels need is stopped.
_MAX_WRITTEN_BYTES = 256 * 2**20
_WARM_UP_OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"


@dataclass(frozen=True, slots=True)
class CaptureLimits:
    """What one shape may cost, from opening its file to the finished sample.

    Attributes:
        seconds: of wall time.
        memory_bytes: that the child may allocate, some 0.3 GB for Python and its libraries
            included. Held by Linux only.
        start_seconds: for a new child to load and, the first time, to compile its kernels.
        mesh: what a file may hold.
    """

    seconds: float = 60.0
    memory_bytes: int = 4 * 2**30
    start_seconds: float = 300.0
    mesh: MeshLimits = field(default_factory=MeshLimits)

    def __post_init__(self) -> None:
        if not all(0 < seconds <= _LONGEST_S for seconds in (self.seconds, self.start_seconds)):
            raise ValueError(
                f"seconds {self.seconds}, start_seconds {self.start_seconds}: must be above 0 and "
                f"at most {_LONGEST_S:.0f}; usual are 60 and 300"
            )
        if self.memory_bytes < _LEAST_MEMORY_BYTES:
            raise ValueError(
                f"memory_bytes {self.memory_bytes}: must be at least {_LEAST_MEMORY_BYTES}, which "
                "Python and its libraries need; usual is 4294967296"
            )


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


class _Child:
    """One child process and the pipes to it."""

    def __init__(self, config: CaptureConfig, limits: CaptureLimits) -> None:
        self.limits = limits
        self._killed_here = False
        self.last_words = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `stop`)
        # A group of its own, so that Ctrl-C reaches the parent alone. -P: the path is the parent's.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "picpoint.render.limited", str(os.getpid())],
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
        settings = {
            "capture": _CONFIG.dump_python(config, mode="json"),
            "limits": asdict(self.limits),
        }
        deadline = time.monotonic() + self.limits.start_seconds
        try:
            _write_frame(self.requests, json.dumps(settings).encode())
            answer = self._receive(deadline, len(_READY))
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
        assert answer == _READY

    def is_alive(self) -> bool:
        """Tell whether the process runs."""
        return self.process.poll() is None

    def capture(self, shape: SourceShape) -> Sample:
        """Have a shape captured; see LimitedCapture."""
        fetching_s = _FETCHING_S if isinstance(shape.source, str) else 0.0
        deadline = time.monotonic() + self.limits.seconds + fetching_s
        try:
            _write_frame(self.requests, _encode_shape(shape))
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
        if head.reason == _SOURCE_GONE:
            raise SourceError(head.detail)
        if head.reason == _SOURCE_BUSY:
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
        (num_bytes,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
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
        return f"{how}: {words[-1][:_MAX_DETAIL]}" if words else how

    def _exit_code(self) -> int:
        """Wait for a process that has closed its pipe; one that does not end is killed."""
        try:
            return self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return self.process.returncode


_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_CONFIG = TypeAdapter(CaptureConfig)
_LIMITS = TypeAdapter(CaptureLimits)
_HEAD = TypeAdapter(_Head)


def _write_frame(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(_LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _read_frame(pipe: IO[bytes]) -> bytes | None:
    """Read a frame; None at the end of the pipe."""
    head = pipe.read(_LENGTH.size)
    return pipe.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else None


def _encode_shape(shape: SourceShape) -> bytes:
    return json.dumps(
        {
            "source_id": shape.source_id,
            "label": shape.label,
            "source": str(shape.source),
            "is_url": isinstance(shape.source, str),
            "file": shape.file,
            "to_upright": shape.to_upright,
        }
    ).encode()


def _decode_shape(content: bytes) -> SourceShape:
    found: dict[str, Any] = json.loads(content)
    return SourceShape(
        source_id=found["source_id"],
        label=found["label"],
        source=found["source"] if found["is_url"] else Path(found["source"]),
        file=found["file"],
        to_upright=None if found["to_upright"] is None else tuple(found["to_upright"]),
    )


def main() -> None:
    """Be the child: answer requests until the parent closes the pipe."""
    end_with_parent(int(sys.argv[1]))
    # What a library prints must not get among the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = sys.stdin.buffer
    settings = json.loads(_read_frame(requests) or b"{}")
    try:
        config = _CONFIG.validate_python(settings["capture"])
        limits = _LIMITS.validate_python(settings["limits"])
    except ValidationError as error:  # whose own last line is an address
        sys.exit("; ".join(fault["msg"] for fault in error.errors()))
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_WRITTEN_BYTES, _MAX_WRITTEN_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Kernels are loaded, or compiled, before the clock of the first shape starts.
    capture(read_mesh(_WARM_UP_OBJ, "warm_up.obj"), "warm_up", "", config)
    _write_frame(answers, _READY)
    while (request := _read_frame(requests)) is not None:
        for part in _answer(_decode_shape(request), config, limits):
            _write_frame(answers, part)


def _answer(shape: SourceShape, config: CaptureConfig, limits: CaptureLimits) -> list[bytes]:
    """Capture a shape; give the frames of the answer."""
    try:
        mesh = shape.read_mesh(limits.mesh)
        members = encode_sample(capture(mesh, shape.source_id, shape.label, config))
        return [json.dumps({"members": list(members)}).encode(), *members.values()]
    except MeshError as error:
        return _refusal(error.reason, error.args[1])
    except SourceError as error:
        return _refusal(_SOURCE_GONE, str(error))
    except TransientStoreError as error:
        return _refusal(_SOURCE_BUSY, str(error))
    except MemoryError as error:
        allowed = f"at most {limits.memory_bytes} bytes"
        return _refusal("out_of_memory", f"{error or 'no memory left'}, {allowed}")
    except Exception as error:  # A fault of ours: one mesh is lost, not the job.
        return _refusal("crashed", f"{type(error).__name__}: {error}")


def _refusal(reason: str, detail: str) -> list[bytes]:
    return [json.dumps({"reason": reason, "detail": detail[:_MAX_DETAIL]}).encode()]


if __name__ == "__main__":
    main()
