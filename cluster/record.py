"""What was run, with which settings and versions? Written beside the results of every job."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

_PACKAGES = ("picpoint", "torch", "torchvision", "ray", "numpy", "numba", "webdataset", "pyarrow")


class RunExistsError(RuntimeError):
    """A folder holds the results of other settings."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One job's record in a folder.

    Attributes:
        kept: the job was finished here before, with the same settings.
    """

    record: Path
    started: float
    kept: bool

    def finish(self) -> float:
        """Note that the job is done, and give the seconds it took."""
        seconds = time.perf_counter() - self.started
        done = {"seconds": seconds, "versions": versions(), "commit": commit()}
        write_atomically(self.record.with_suffix(".done.json"), json.dumps(done, indent=1))
        return seconds


def keep_or_start(out: str | Path, job_name: str, job: object, moot: Collection[str] = ()) -> Stage:
    """Write the settings of a job into its folder, or find that it was done there before.

    Args:
        out: folder of the job's results.
        job_name: names the record.
        job: the job's dataclass.
        moot: top-level settings that may differ without making it another job.

    Raises:
        RunExistsError: the folder holds the record of the same job with other settings.
    """
    settings = {key: value for key, value in plain(job).items() if key not in moot}
    config = yaml.safe_dump(settings, sort_keys=False)
    record = Path(out) / f"{job_name}.yaml"
    if record.exists():
        if record.read_text() != config:
            raise RunExistsError(
                f"{record} was made with other settings; set them back, choose another `out`, or "
                f"remove {out}"
            )
    else:
        write_atomically(record, config)
    done = record.with_suffix(".done.json").exists()
    return Stage(record=record, started=time.perf_counter(), kept=done)


def stage_seconds(out: str | Path, job_name: str) -> float | None:
    """Give the seconds that a finished job took; None where it did not finish in this folder."""
    done = Path(out) / f"{job_name}.done.json"
    return json.loads(done.read_text())["seconds"] if done.exists() else None


def plain(job: object) -> dict[str, object]:
    """Give a job's settings as plain values, for YAML and JSON."""
    assert dataclasses.is_dataclass(job)
    assert not isinstance(job, type)
    return json.loads(json.dumps(dataclasses.asdict(job)))


def versions() -> dict[str, str]:
    """Give the versions of what a result depends on."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "machine": platform.machine()} | packages


def commit() -> str:
    """Give the commit of the source tree, marked when it has changes; `unknown` outside git."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
