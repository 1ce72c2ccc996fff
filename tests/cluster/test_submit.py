"""What is sent to a cluster, what is refused before, and how a job is followed."""

import io
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_api import LOG, JobApi, serve
from omegaconf import OmegaConf

from cluster.app import main
from cluster.submission import digest
from cluster.submit import SUBMITTED

# Ray's client calls aiohttp as it was called before.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")

ROOT = Path(__file__).parents[2]
REQUIRED = {
    "render": ["out=s3://b/shards"],
    "cache-features": ["shards=s3://b/shards", "out=s3://b/features"],
    "pretrain": ["data.shards=s3://b/shards", "out=/data/run", "runtime.use_gpu=true"],
    "finetune": ["data.shards=s3://b/clouds", "out=/data/tuned", "runtime.use_gpu=true"],
    "probe": ["data.shards=s3://b/clouds", "out=/data/probe", "weights=/data/encoder"],
    "tune": ["shards=s3://b/shards", "clouds=s3://b/clouds", "out=/data/study"],
    "evaluate": ["runs=[/data/run]", "out=/data/evaluation"],
    "report": ["sources=[/data/evaluation]", "out=/data/report"],
    "export": ["run=/data/run", "out=/data/encoder", "license=other"],
}
REPORT = ["submit", "report", "/data/evaluation", "out=/data/report"]


@pytest.fixture(autouse=True)
def no_cluster_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("RAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def api() -> Iterator[JobApi]:
    with serve(JobApi()) as api:
        yield api


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("picpoint: ")
    return code, lines[-1]


def entry_of(printed: str) -> list[str]:
    """The job's own command line, from a call of `ray job submit`."""
    words = shlex.split(printed)
    command = words[words.index("--") + 1 :]
    assert command[:3] == ["python", "-m", "cluster.app"]
    return command[3:]


@pytest.mark.parametrize("job", SUBMITTED)
def test_every_job_can_be_submitted_and_composes_there_as_here(
    job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", job, *REQUIRED[job], "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    entry = entry_of(captured.out)
    assert main([*entry, "--cfg"]) == 0
    there = OmegaConf.create(capsys.readouterr().out)
    assert main([job, *REQUIRED[job], "--cfg"]) == 0
    here = OmegaConf.create(capsys.readouterr().out)
    # Where the workers run is all that may differ.
    for group in ("fleet", "runtime"):
        if group in there:
            assert there[group].name == "ray"
            assert there.pop(group).address == "auto"
            here.pop(group)
    if "trial" in there:
        assert there.trial.pop("address") == "auto"
        here.trial.pop("address")
    assert there == here


@pytest.mark.parametrize("own", ["fleet=local", "fleet.name=local"])
def test_where_workers_run_can_be_said(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "render", "out=/data/o", own, "--dry-run"]) == 0
    assert entry_of(capsys.readouterr().out) == ["render", "out=/data/o", own]


def test_the_printed_call_sends_what_submit_sends(
    api: JobApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text("")
    words = ["submit", "pretrain", *REQUIRED["pretrain"], "--address", api.at_loopback]
    words += ["out='/data/a b'", "--working-dir", str(tmp_path / "code"), "--submission-id", "x"]
    words += ["--env", "OMP_NUM_THREADS=2", "--entrypoint-num-cpus", "2.5", "--no-wait"]
    words += ["--entrypoint-num-gpus", "1", "--entrypoint-memory", "1000000"]
    assert main([*words, "--dry-run"]) == 0
    printed = shlex.split(capsys.readouterr().out)
    assert main(words) == 0
    printed[0] = str(Path(sys.executable).parent / "ray")
    printed.insert(printed.index("--"), "--no-wait")
    subprocess.run(printed, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ours, theirs = api.sent
    assert ours == theirs
    assert ours["entrypoint_num_cpus"] == 2.5
    assert ours["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "2"


def test_the_address_that_was_checked_is_the_one_that_is_sent_to(
    api: JobApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Ray's client by itself would go where the environment says.
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://192.0.2.1:8265")
    arguments = [*REPORT, "--address", api.at_loopback, "--no-wait"]
    assert main(arguments) == 0
    assert len(api.sent) == 1
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://192.0.2.1:8265"
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    assert "--unset=RAY_API_SERVER_ADDRESS" in capsys.readouterr().out


def test_metadata_tell_job_and_overrides(api: JobApi) -> None:
    assert main([*REPORT, "--address", api.at_loopback, "--no-wait"]) == 0
    (sent,) = api.sent
    assert sent["metadata"] == {
        "job": "report",
        "commit": "unknown",  # of what the cluster has installed
        "code": "installed on the cluster",
        "overrides_sha256": digest(['sources=["/data/evaluation"]', "out=/data/report"]),
    }
    assert digest(["a=1", "b=2"]) == digest(["b=2", "a=1"]) != digest(["a=1", "b=3"])


def test_a_checkout_is_sent_whole_and_without_what_is_private(
    api: JobApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Of what git tracks, the code and configs; beside it what must stay here.
    checkout = tmp_path / "checkout"
    tracked = subprocess.run(
        ["git", "ls-files", "picpoint", "shards", "cluster", "configs", "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")[:-1]
    for name in [*tracked, ".env", ".git/config", "server.key", "runs/run/log", "data/big.obj"]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    monkeypatch.chdir(checkout)
    assert main([*REPORT, "--address", api.at_loopback, "--working-dir", ".", "--no-wait"]) == 0
    (package,) = api.packages
    names = {name for name in zipfile.ZipFile(io.BytesIO(package)).namelist() if name[-1] != "/"}
    assert {name for name in names if (checkout / name).exists()} == set(tracked)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["pretrain", "data.shards=s3://b/s", "out=/o", "data.viws=3"], "'data.views'"),
        (["pretrain", "data.shards=s3://b/s"], "out"),
        (["pretrain", "data.shards=s3://b/s", "out=/o", "precision=fp8"], "precision"),
        (["render", "out=/o", "shapes_per_shard=0"], "shapes_per_shard=0"),
        ([*REPORT[1:], "--env", "HF_TOKEN=x"], "secret store"),
        ([*REPORT[1:], "--env", "broken"], "NAME=VALUE"),
        ([*REPORT[1:], "--image", "registry/picpoint"], "digest"),
        ([*REPORT[1:], "--image", "registry:5000/picpoint:latest"], "digest"),
        ([*REPORT[1:], "--working-dir", "/no/such/folder"], "/no/such/folder"),
        ([*REPORT[1:], "--working-dir", "http://host/code.zip"], "https://"),
        ([*REPORT[1:], "--entrypoint-num-cpus", "-1"], "0 or more"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(
    arguments: list[str], named: str, api: JobApi, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = complaint(["submit", *arguments, "--address", api.at_loopback], capsys)
    assert code == 2
    assert named in line
    assert api.asked == []


def test_plain_http_to_another_machine_needs_a_token(
    api: JobApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*REPORT, "--address", api.elsewhere, "--no-wait"]
    code, line = complaint(arguments, capsys)
    assert (code, api.asked) == (2, [])
    assert "--insecure" in line
    assert "RAY_AUTH_TOKEN_PATH" in line
    assert main([*arguments, "--insecure"]) == 0
    assert len(api.sent) == 1
    # A token here is worth nothing where none is asked for.
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t0ken")
    code, line = complaint(arguments, capsys)
    assert code == 5
    assert "asks for no token" in line
    assert len(api.sent) == 1
    api.token = "t0ken"
    assert main(arguments) == 0
    assert len(api.sent) == 2
    captured = capsys.readouterr()
    assert "the token can be read on the way" in captured.err
    assert "t0ken" not in captured.err + captured.out


def test_jobs_are_listed_only_where_they_could_be_submitted(
    api: JobApi, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = complaint(["jobs", "list", "--address", api.elsewhere], capsys)
    assert (code, api.asked) == (2, [])


@pytest.mark.parametrize(
    ("job", "overrides", "named"),
    [
        ("render", ["source=meshes", "out=shards"], ["source=meshes", "out=shards"]),
        ("render", ["source=demo", "out=gs://b/shards"], []),
        ("pretrain", ["data.shards=shards", "out=/data/run"], ["data.shards=shards"]),
        (
            "pretrain",
            ["data.shards=/s", "out=/o", "checkpoints=c", "resume=old", "data.cache_dir=k"],
            ["checkpoints=c", "resume=old", "data.cache_dir=k"],
        ),
        ("evaluate", ["runs=[/a,b]", "out=/o"], ["runs=b"]),
        ("report", ["sources=[e,/f]"], ["sources=e", "out=report"]),
    ],
)
def test_relative_places_are_pointed_out(
    job: str, overrides: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", job, *overrides, "--address", "https://far", "--dry-run"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "relative" in line]
    assert [line.split(": ")[1] for line in lines] == named


def test_gpus_that_the_entry_point_may_not_see_are_pointed_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["submit", "pretrain", "data.shards=s3://b/s", "out=/o", "--dry-run"]
    assert main(arguments) == 0
    assert "runtime.use_gpu=auto" in capsys.readouterr().err
    assert main([*arguments, "runtime.use_gpu=false"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("breaks_at", [[], [5], [9, 4, 13], [0, 14]])
def test_a_log_that_breaks_off_is_shown_once_and_whole(
    breaks_at: list[int], api: JobApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.breaks_at = breaks_at
    assert main([*REPORT, "--address", api.at_loopback, "--submission-id", "x"]) == 0
    _, _, log = capsys.readouterr().out.partition("""'sources=["/data/evaluation"]'\n""")
    assert log == LOG


@pytest.mark.parametrize(
    ("status", "of_the_driver", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 4, 4),
        ("FAILED", 6, 6),
        ("FAILED", -9, 1),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
    ],
)
def test_the_exit_code_is_the_jobs(
    status: str, of_the_driver: int | None, expected: int, api: JobApi
) -> None:
    api.status, api.exit_code = status, of_the_driver
    assert main([*REPORT, "--address", api.at_loopback]) == expected


def test_nobody_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint([*REPORT, "--address", "http://127.0.0.1:9"], capsys)
    assert code == 5
    assert "port forwarded" in line


@pytest.mark.parametrize("arguments", [["logs"], ["stop"], ["list", "x"]])
def test_jobs_wants_an_id_where_there_is_one_job(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = complaint(["jobs", *arguments], capsys)
    assert code == 2
    assert "picpoint jobs" in line


def test_overrides_may_stand_behind_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--dry-run", "report", "--image", "a:1", "/e"]) == 0
    captured = capsys.readouterr().out
    assert entry_of(captured) == ["report", 'sources=["/e"]']
    assert '"image_uri": "a:1"' in captured
    with pytest.raises(SystemExit):
        main(["submit", "report", "/e", "--imgae", "a:1"])
    with pytest.raises(SystemExit):
        main(["flops", "more"])
