"""Bad input: one line, a remedy, an exit code of its own kind, and nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import TINY_RUN

from cluster.app import main
from picpoint.data.views import stored_views
from picpoint.geometry.rigs import RigConfig, build_cameras
from picpoint.train.checkpoint import newest_checkpoint
from shards.reader import ShardReader

TINY = [*TINY_RUN, "global_batch=4", "ghost_batch=2"]


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command that fails; give its exit code and the one line that it printed."""
    code = main(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("picpoint: ")
    assert not any("Traceback" in line for line in lines)
    return code, lines[-1]


def test_a_missing_mesh_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["render", f"source={tmp_path / 'none'}", f"out={tmp_path / 'out'}"]
    code, line = complaint(arguments, capsys)
    assert code == 3
    assert "none" in line
    assert not (tmp_path / "out").exists()


def test_an_empty_mesh_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint(["render", f"source={tmp_path}", f"out={tmp_path / 'out'}"], capsys)
    assert code == 3
    assert "holds no shape" in line


def test_a_folder_of_broken_meshes_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.off").write_text("OFF\n3 1 0\n0 0 0\n")
    code, line = complaint(
        ["render", f"source={tmp_path / 'in'}", f"out={tmp_path / 'out'}", "fleet.max_workers=1"],
        capsys,
    )
    assert code == 4
    assert "none of the 1 meshes" in line
    assert "a" in line
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_missing_shard_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pretrain", f"data.shards={tmp_path / 'none'}", f"out={tmp_path / 'run'}"]
    code, line = complaint(arguments, capsys)
    assert code == 3
    assert "none" in line
    assert not (tmp_path / "run").exists()


def test_a_missing_weight_file(
    shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = complaint(
        [
            "pretrain",
            f"data.shards={shard_set}",
            f"out={tmp_path / 'run'}",
            *TINY,
            "image_encoder=resnet18",
            f"image_encoder.weights={tmp_path / 'absent.pth'}",
        ],
        capsys,
    )
    assert code == 3
    assert "absent.pth" in line
    assert "image_encoder=lite0" in line


def test_a_broken_shard_stops_pre_training(
    shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(shard_set, damaged)
    for shard in damaged.glob("*.tar"):
        shard.chmod(0o644)
        shard.write_bytes(shard.read_bytes()[:5000])
    code, line = complaint(
        ["pretrain", f"data.shards={damaged}", f"out={tmp_path / 'run'}", *TINY], capsys
    )
    assert code == 4
    assert "verify" in line


def test_a_missing_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint(["report", str(tmp_path)], capsys)
    assert code == 3
    assert "picpoint evaluate" in line
    code, line = complaint(["report", str(tmp_path / "a=b")], capsys)
    assert code == 2  # it is not there, so it is taken for a setting
    code, line = complaint(["report", "nowhere", f"sources=[{tmp_path}]"], capsys)
    assert code == 2
    assert "once" in line


def test_words_of_a_report_are_its_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / 'lr=0.1, "quoted"'
    odd.mkdir()
    (odd / "frozen.json").touch()
    (odd / "results.json").touch()
    assert main(["report", str(odd), "out=there", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"read   evaluation: {odd}",
        f"read   probe: {odd}",
        "write  there/report.html, report.md, report.json",
    ]


def test_an_evaluation_of_a_folder_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = complaint(["evaluate", f"runs=[{tmp_path}]", f"out={tmp_path}"], capsys)
    assert code == 6


def test_checkpoints_of_another_run_are_refused_before_anything_is_written(
    shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"data.shards={shard_set}", f"checkpoints={tmp_path / 'shared'}", "epochs=1"]
    assert main(["pretrain", *where, f"out={tmp_path / 'one'}", *TINY]) == 0
    code, line = complaint(["pretrain", *where, f"out={tmp_path / 'two'}", *TINY], capsys)
    assert code == 2
    assert "another run, out=" in line
    assert not (tmp_path / "two").exists()
    # With a place of its own it is a run as any other.
    other = [f"data.shards={shard_set}", f"checkpoints={tmp_path / 'other'}", "epochs=1"]
    assert main(["pretrain", *other, f"out={tmp_path / 'two'}", *TINY]) == 0


def test_a_beginning_of_other_settings_leaves_no_record_in_the_way_of_the_right_one(
    shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"data.shards={shard_set}", "epochs=1", *TINY]
    assert main(["pretrain", *where, f"out={tmp_path / 'one'}", "seed=5"]) == 0
    second = ["pretrain", *where, f"out={tmp_path / 'two'}", f"resume={tmp_path / 'one'}"]
    code, line = complaint(second, capsys)
    assert code == 6
    assert "seed was 5, is 0" in line
    assert not (tmp_path / "two").exists()
    assert main([*second, "seed=5"]) == 0


def test_more_shapes_in_a_batch_than_there_are(
    shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = complaint(
        ["pretrain", f"data.shards={shard_set}", f"out={tmp_path / 'run'}", "global_batch=4096"],
        capsys,
    )
    assert code == 2
    assert "holds only" in line


def test_dry_run_says_what_and_writes_nothing(
    shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pretrain", f"data.shards={shard_set}", f"out={tmp_path / 'run'}", *TINY]
    assert main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "14 of 18 shapes" in told or "15 of 18 shapes" in told
    assert str(tmp_path / "run") in told
    assert not (tmp_path / "run").exists()


def test_shards_commands_reach_the_shards_package(
    shard_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "verify", str(shard_set)]) == 0
    assert main(["shards", "stats", str(shard_set)]) == 0
    assert "18" in capsys.readouterr().out


def test_doctor_finds_what_every_run_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for what in ("torch", "ray", "lite0 weights", "CUDA", "Kaolin", "object storage"):
        assert what in told


def interrupt_after_a_log_line(command: list[str], log: Path) -> tuple[int, str]:
    """Start a run, send it what Ctrl-C sends once it has made a step, and wait for its end."""
    lines_before = len(log.read_text().splitlines()) if log.exists() else 0
    training = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) <= lines_before:
        assert training.poll() is None, training.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(training.pid, signal.SIGINT)
    _, told = training.communicate(timeout=60)
    return training.returncode, told


@pytest.mark.slow
def test_control_c_leaves_a_checkpoint_that_resume_continues(
    shard_set: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "cluster.app", "pretrain", f"data.shards={shard_set}"),
        *(f"out={out}", *TINY, "epochs=2000", "log_every=1"),
    ]
    code, told = interrupt_after_a_log_line(command, out / "metrics.jsonl")
    assert code == 130
    assert "the same command goes on" in told
    assert "Traceback" not in told
    stopped, _ = newest_checkpoint(out / "checkpoints")
    assert stopped is not None
    code, _ = interrupt_after_a_log_line(command, out / "metrics.jsonl")
    assert code == 130
    continued, _ = newest_checkpoint(out / "checkpoints")
    assert continued is not None
    assert continued.state["samples_seen"] > stopped.state["samples_seen"] > 0
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))


def write_cubes(folder: Path, count: int) -> Path:
    folder.mkdir()
    corners = "\n".join(f"{x} {y} {z}" for x in (0, 1) for y in (0, 1) for z in (0, 1))
    sides = "0 1 3 2\n4 6 7 5\n0 4 5 1\n2 3 7 6\n0 2 6 4\n1 5 7 3"
    for number in range(count):
        text = "OFF\n8 6 0\n" + corners + "\n" + sides.replace("\n", "\n4 ").join(["4 ", "\n"])
        (folder / f"cube{number}.off").write_text(text)
    return folder


SMALL_RENDER = [
    "fleet.max_workers=1",
    "shapes_per_shard=1",
    "capture.num_points=64",
    "capture.rig.size_px=32",
]


def test_a_rendered_set_is_kept_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cubes(tmp_path / "in", 2)
    arguments = ["render", f"source={source}", f"out={tmp_path / 'out'}", *SMALL_RENDER]
    assert main(arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.tar")}
    assert main(arguments) == 0
    assert "kept: render" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_lost_shard_is_rendered_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_cubes(tmp_path / "in", 2)
    arguments = ["render", f"source={source}", f"out={tmp_path / 'out'}", *SMALL_RENDER]
    assert main(arguments) == 0
    lost = tmp_path / "out" / "shard-000001.tar"
    content = lost.read_bytes()
    lost.unlink()
    assert main(arguments) == 0
    assert lost.read_bytes() == content
    assert "rendering again" in capsys.readouterr().out


def test_a_source_that_gained_a_shape_is_not_taken_for_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cubes(tmp_path / "in", 2)
    arguments = ["render", f"source={source}", f"out={tmp_path / 'out'}", *SMALL_RENDER]
    assert main(arguments) == 0
    (source / "more.off").write_bytes((source / "cube0.off").read_bytes())
    code, line = complaint(arguments, capsys)
    assert code == 2
    assert "other inputs" in line


@pytest.mark.slow
def test_a_rig_s_file_that_changed_is_not_taken_for_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, file = write_cubes(tmp_path / "in", 1), tmp_path / "mine.json"
    cameras = build_cameras(RigConfig(("ring_2_0deg",)))
    matrices = {
        "view_matrices": cameras.view_matrices.tolist(),
        "projection_matrices": cameras.projection_matrices.tolist(),
    }
    file.write_text(json.dumps(matrices))
    out = tmp_path / "out"
    arguments = ["render", f"source={source}", f"out={out}", *SMALL_RENDER]
    arguments.append(f"capture.rig.names=[octahedron,file:{file}]")
    assert main(arguments) == 0
    rigs = stored_views(ShardReader(out)).rigs
    assert [rig.num_views for rig in rigs] == [6, 2]
    assert main(arguments) == 0
    assert "kept: render" in capsys.readouterr().out
    file.write_text(json.dumps(matrices) + "\n")
    code, line = complaint(arguments, capsys)
    assert code == 2
    assert "other settings" in line


def process_group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_control_c_in_a_render_ends_it_soon_and_leaves_no_process(tmp_path: Path) -> None:
    source = write_cubes(tmp_path / "in", 600)
    rendering = subprocess.Popen(
        [
            *(sys.executable, "-m", "cluster.app", "render", f"source={source}"),
            *(f"out={tmp_path / 'out'}", *SMALL_RENDER, "capture.num_points=4096"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.tar")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(rendering.pid, signal.SIGINT)
    _, told = rendering.communicate(timeout=30)
    assert rendering.returncode == 130
    assert "the same command goes on" in told
    assert "Traceback" not in told
    assert len(list((tmp_path / "out").glob("*.tar"))) < 600
    assert not (tmp_path / "out" / "manifest.json").exists()
    while process_group_exists(rendering.pid):
        assert time.monotonic() < deadline, "a worker outlived its job"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "wrong",
    ["fleet.max_workers=-1", "shapes_per_shard=0", "capture.num_points=0", "out=", "source="],
)
def test_a_setting_out_of_range_is_refused_before_anything_is_written(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cubes(tmp_path / "in", 1)
    code, _ = complaint(["render", f"source={source}", f"out={tmp_path / 'out'}", wrong], capsys)
    assert code == 2
    assert not (tmp_path / "out").exists()
