"""The child that captures: the same sample as here, and no file can hurt the job through it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from broken_meshes import broken_files
from processes import is_running

from picpoint.geometry.rigs import RigConfig
from picpoint.render.capture import CaptureConfig, capture
from picpoint.render.capture_child import CaptureLimits
from picpoint.render.limited import ChildStartError, LimitedCapture
from picpoint.render.meshes import MeshError
from picpoint.render.readers import MeshLimits
from picpoint.render.sources import SourceError, SourceShape
from shards.codec import encode_sample

CONFIG = CaptureConfig(num_points=128, rig=RigConfig(size_px=48))
GOOD = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"
# Python and its libraries take about half of it.
MEMORY_BYTES = 512 * 2**20
READERS_REASONS = {"unreadable", "no_faces", "not_finite", "degenerate", "too_large"}
LIMITS = CaptureLimits(seconds=20.0, memory_bytes=MEMORY_BYTES, mesh=MeshLimits(max_faces=500_000))


def shape(tmp_path, content=GOOD, file="a.obj"):
    (tmp_path / file).write_bytes(content)
    return SourceShape(f"ids/{file}", "solid", tmp_path, file)


def cloth(side):
    """An OBJ of a wavy square of two triangles for each of side x side cells."""
    rows, columns = np.mgrid[: side + 1, : side + 1]
    heights = np.sin(rows / 7) * np.cos(columns / 5)
    lines = [
        f"v {x} {y:.3f} {z}"
        for x, y, z in zip(columns.ravel(), heights.ravel(), rows.ravel(), strict=True)
    ]
    first = (rows[:-1, :-1] * (side + 1) + columns[:-1, :-1] + 1).ravel().tolist()
    lines += [f"f {a} {a + 1} {a + side + 2} {a + side + 1}" for a in first]
    return "\n".join(lines).encode()


@pytest.fixture(scope="module")
def child():
    with LimitedCapture(CONFIG, LIMITS) as running:
        yield running


def pid_of(child):
    return child._child.process.pid


def refusal(child, source_shape):
    with pytest.raises(MeshError) as caught:
        child.capture(source_shape)
    return caught.value


def test_a_child_gives_the_sample_that_is_captured_here(child, tmp_path):
    one = shape(tmp_path)
    turned = SourceShape("b", "", tmp_path, "a.obj", (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0))
    for wanted in (one, turned):
        here = capture(wanted.read_mesh(), wanted.source_id, wanted.label, CONFIG)
        assert encode_sample(child.capture(wanted)) == encode_sample(here)


def test_a_refused_mesh_keeps_its_reason_and_its_child(child, tmp_path):
    pid = pid_of(child)
    for content, reason in (
        (b"v 0 0 0\n", "no_faces"),
        (b"v 0 0 zero\n", "unreadable"),
        (b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not_finite"),
        (b"v 0 0 0\n" * 1_500_001, "too_large"),
    ):
        error = refusal(child, shape(tmp_path, content))
        assert error.reason == reason
        assert str(error).count(f"{reason}: ") == 1
    assert pid_of(child) == pid


def test_broken_files_of_every_format_give_a_sample_or_a_reason(child, tmp_path):
    ends = how_they_end(child, tmp_path, broken_files(seed=1), 150)
    assert set(ends) <= {"captured", *READERS_REASONS}
    assert ends["captured"] > 30  # else little was tested but the refusals


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_broken_files_give_a_sample_or_a_reason(child, tmp_path):
    ends = how_they_end(child, tmp_path, broken_files(seed=0), 10_000)
    print(ends)
    assert set(ends) <= {"captured", *READERS_REASONS}


def how_they_end(child, tmp_path, files, count):
    ends = Counter()
    for number, (suffix, content) in zip(range(count), files, strict=False):
        try:
            child.capture(shape(tmp_path, content, f"{number}{suffix}"))
            ends["captured"] += 1
        except MeshError as error:
            ends[error.reason] += 1
        (tmp_path / f"{number}{suffix}").unlink()
    return ends


def test_a_source_that_is_gone_ends_the_job_and_not_the_mesh(child, tmp_path):
    with pytest.raises(SourceError, match="give a folder"):
        child.capture(SourceShape("a", "", tmp_path / "gone", "a.obj"))


@pytest.mark.slow
def test_a_mesh_that_wants_more_memory_than_allowed_is_refused_and_the_next_one_read(
    child, tmp_path
):
    pid = pid_of(child)
    error = refusal(child, shape(tmp_path, cloth(500)))
    assert error.reason == "out_of_memory"
    assert child.capture(shape(tmp_path)).num_points == 128
    assert pid_of(child) != pid
    assert not is_running(pid)


def send_within_a_shape(pid, sent):
    """Have a signal reach a child while it is at a shape."""
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (pid, sent)).start()
    if sent != signal.SIGKILL:
        threading.Timer(0.4, os.kill, (pid, signal.SIGCONT)).start()


def test_a_child_that_crashes_costs_one_mesh(child, tmp_path):
    child.capture(shape(tmp_path))
    send_within_a_shape(pid_of(child), signal.SIGSEGV)
    error = refusal(child, shape(tmp_path))
    assert error.reason == "crashed"
    assert "SIGSEGV" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_somebody_kills_costs_no_mesh(child, tmp_path, sent):
    before = child.capture(shape(tmp_path))
    pid = pid_of(child)
    send_within_a_shape(pid, sent)
    after = child.capture(shape(tmp_path))
    assert pid_of(child) != pid
    assert after.pictures == before.pictures


def test_a_mesh_that_every_child_is_killed_over_is_rejected(child, tmp_path, monkeypatch):
    monkeypatch.setattr("picpoint.render.limited._MAX_KILLED", 1)
    child.capture(shape(tmp_path))
    send_within_a_shape(pid_of(child), signal.SIGKILL)
    assert refusal(child, shape(tmp_path)).reason == "out_of_memory"


def test_a_hang_is_ended_in_time_and_no_process_and_no_pipe_is_left(tmp_path):
    before = set(Path("/proc/self/fd").iterdir())
    limits = CaptureLimits(seconds=0.5, memory_bytes=MEMORY_BYTES)
    with LimitedCapture(CONFIG, limits) as child:
        pid = pid_of(child)
        os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        assert refusal(child, shape(tmp_path)).reason == "timeout"
        assert 0.5 <= time.monotonic() - start < 5
    assert not is_running(pid)
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_child_that_cannot_start_says_what_to_do(tmp_path):
    limits = CaptureLimits(start_seconds=0.01)
    with pytest.raises(ChildStartError, match=r"not done in time.*start_seconds"):
        LimitedCapture(CONFIG, limits).__enter__()


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"seconds": 0.0}, "seconds 0.0, .* must be above 0 and at most 86400; usual are 60"),
        ({"start_seconds": -1.0}, "start_seconds -1.0: must be above 0"),
        ({"memory_bytes": 2**20}, "memory_bytes 1048576: must be at least 536870912"),
    ],
)
def test_limits_out_of_range_are_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        CaptureLimits(**settings)


def test_what_scenes_need_is_loaded_before_the_clock_of_the_first_one_starts():
    code = (
        "import sys; from picpoint.render import capture, capture_child; "
        "before = 'trimesh' in sys.modules; "
        "capture_child._warm_up(capture.CaptureConfig(num_points=128)); "
        "print(before, 'trimesh' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
