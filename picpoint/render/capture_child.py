"""What does the child do that captures meshes? It answers its parent's requests, within limits.

    frame    length, 8 bytes, little-endian; then so many bytes
    request  one frame: JSON of a shape; the first one is JSON of the settings
    answer   one frame: JSON, either {"reason", "detail"} or {"members": names}; then one frame each

Its parent is picpoint/render/limited.py.
"""

import importlib
import json
import os
import resource
import struct
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from picpoint.render.capture import CaptureConfig, capture
from picpoint.render.children import end_with_parent
from picpoint.render.meshes import MeshError
from picpoint.render.readers import MeshLimits, read_mesh
from picpoint.render.sources import SourceError, SourceShape
from shards.codec import encode_sample
from shards.errors import TransientStoreError

# A source that is gone is no fault of the mesh: the job ends. No mesh has this for its reason.
SOURCE_GONE = "source_gone"
SOURCE_BUSY = "source_busy"
READY = b"ready"
LENGTH = struct.Struct("<Q")
MAX_DETAIL = 500
# Python, NumPy, numba and what they load take this much before the first mesh.
_LEAST_MEMORY_BYTES = 512 * 2**20
# Longer waits than this are no limit, and more than the system's own calls take.
_LONGEST_S = 86400.0
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


_CONFIG = TypeAdapter(CaptureConfig)
_LIMITS = TypeAdapter(CaptureLimits)


def encode_settings(config: CaptureConfig, limits: CaptureLimits) -> bytes:
    """Write the first request."""
    capture_settings = _CONFIG.dump_python(config, mode="json")
    return json.dumps({"capture": capture_settings, "limits": asdict(limits)}).encode()


def encode_shape(shape: SourceShape) -> bytes:
    """Write a request for a shape."""
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


def write_frame(pipe: IO[bytes], content: bytes) -> None:
    """Send a frame."""
    pipe.write(LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _read_frame(pipe: IO[bytes]) -> bytes | None:
    """Read a frame; None at the end of the pipe."""
    head = pipe.read(LENGTH.size)
    return pipe.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


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
    _warm_up(config)
    write_frame(answers, READY)
    while (request := _read_frame(requests)) is not None:
        for part in _answer(_decode_shape(request), config, limits):
            write_frame(answers, part)


def _warm_up(config: CaptureConfig) -> None:
    """Load or compile what shapes need, before the clock of the first one starts."""
    capture(read_mesh(_WARM_UP_OBJ, "warm_up.obj"), "warm_up", "", config)
    # Readers load it, and trimesh, for the first scene alone: that shape would pay for them.
    importlib.import_module("picpoint.render.scenes")


def _answer(shape: SourceShape, config: CaptureConfig, limits: CaptureLimits) -> list[bytes]:
    """Capture a shape; give the frames of the answer."""
    try:
        mesh = shape.read_mesh(limits.mesh)
        members = encode_sample(capture(mesh, shape.source_id, shape.label, config))
        return [json.dumps({"members": list(members)}).encode(), *members.values()]
    except MeshError as error:
        return _refusal(error.reason, error.args[1])
    except SourceError as error:
        return _refusal(SOURCE_GONE, str(error))
    except TransientStoreError as error:
        return _refusal(SOURCE_BUSY, str(error))
    except MemoryError as error:
        allowed = f"at most {limits.memory_bytes} bytes"
        return _refusal("out_of_memory", f"{error or 'no memory left'}, {allowed}")
    except Exception as error:  # A fault of ours: one mesh is lost, not the job.
        return _refusal("crashed", f"{type(error).__name__}: {error}")


def _refusal(reason: str, detail: str) -> list[bytes]:
    return [json.dumps({"reason": reason, "detail": detail[:MAX_DETAIL]}).encode()]


if __name__ == "__main__":
    main()
