"""What was run, with which settings and versions? Written beside the results of every job."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.compose import flatten
from picpoint.train.differences import name_differences
from shards.errors import AlreadyInStoreError, NotFoundInStoreError
from shards.store import open_store, put_once

# Where picpoint's packages lie; the repository where there is one.
SOURCE_TREE = Path(__file__).resolve().parent.parent

_PACKAGES = ("picpoint", "torch", "torchvision", "ray", "numpy", "numba", "webdataset", "pyarrow")


class RunExistsError(RuntimeError):
    """A folder holds the results of other settings."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One job's record in a folder: `NAME.yaml` when it starts, `NAME.done.json` when it is done.

    Attributes:
        out: folder or URL of the job's results.
        job_name: names the record.
        started: time.perf_counter() then.
        kept: the job was done here before, with the same settings, from the same inputs.
    """

    out: str
    job_name: str
    started: float
    kept: bool

    def finish(self) -> None:
        """Note that the job is done, and how long it took; who did it before is left standing."""
        done = {
            "seconds": time.perf_counter() - self.started,
            "commit": commit(),
            "versions": versions(),
        }
        with suppress(AlreadyInStoreError):
            name = _done_file(self.job_name)
            open_store(self.out).put_new(name, json.dumps(done, indent=1).encode())


@dataclass(frozen=True, slots=True)
class DoneStage:
    """What is known of a finished job."""

    seconds: float
    commit: str


def keep_or_start(
    out: str, job_name: str, job: object, inputs: str, moot: Collection[str] = ()
) -> Stage:
    """Write the settings of a job into its folder, or find that it was done there before.

    Args:
        out: folder or URL of the job's results.
        job_name: names the record.
        job: the job's dataclass.
        inputs: digest of what the job reads.
        moot: top-level settings that may differ without making it another job.

    Raises:
        RunExistsError: the folder holds the same job with other settings, which are named, or from
            other inputs.
        StoreError: the folder cannot be read or written.
    """
    store = open_store(out)
    settings = {key: value for key, value in plain(job).items() if key not in moot}
    first_line = f"# inputs {inputs}\n"
    config = first_line + yaml.safe_dump(settings, sort_keys=False)
    record = f"{job_name}.yaml"
    try:
        put_once(store, record, config.encode())
    except AlreadyInStoreError as error:
        recorded = store.get(record)
        then, now = (
            dict(flatten(_read_settings(each, f"{out}/{record}")))
            for each in (recorded, config.encode())
        )
        reasons: list[str] = []
        if changed := name_differences(then, now):
            reasons.append(f"with other settings ({changed})")
        if not recorded.startswith(first_line.encode()):
            reasons.append("from other inputs than now")
        # As where a setting is new and null.
        other = " and ".join(reasons) or "by a version that wrote the same settings otherwise"
        raise RunExistsError(
            f"{out}/{record} was made {other}; set them back, choose another `out`, or remove {out}"
        ) from error
    before = done_stage(out, job_name)
    if before is not None:
        print(f"kept: {job_name} in {out}, done at commit {before.commit}", flush=True)
    return Stage(out, job_name, started=time.perf_counter(), kept=before is not None)


def recorded_settings(out: str, job_name: str) -> dict[str, object]:
    """Read the settings that a job began with in a folder; none where it did not.

    Raises:
        RunExistsError: there is a record that holds none.
    """
    record = f"{job_name}.yaml"
    try:
        return _read_settings(open_store(out).get(record), f"{out}/{record}")
    except NotFoundInStoreError:
        return {}


def _read_settings(record: bytes, place: str) -> dict[str, object]:
    try:
        found = yaml.safe_load(record)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise RunExistsError(
            f"{place} holds no settings, so whose results these are cannot be told; put back what "
            "stood there, or choose another `out`"
        )
    return found


def done_stage(out: str, job_name: str) -> DoneStage | None:
    """Give what is known of a finished job; None where it did not finish in this folder."""
    try:
        done = json.loads(open_store(out).get(_done_file(job_name)))
    except NotFoundInStoreError:
        return None
    return DoneStage(seconds=done["seconds"], commit=done["commit"])


def _done_file(job_name: str) -> str:
    return f"{job_name}.done.json"


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
    """Give the commit of picpoint's source tree, marked when it has changes.

    A repository that it is merely installed inside is not its own. Without one, as on a cluster and
    in an image, what PICPOINT_COMMIT says, or `unknown`.
    """
    elsewhere = os.environ.get("PICPOINT_COMMIT") or "unknown"
    try:
        if Path(_git(SOURCE_TREE, "rev-parse", "--show-toplevel")).resolve() != SOURCE_TREE:
            return elsewhere
        return _git(SOURCE_TREE, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return elsewhere


def _git(folder: Path, *arguments: str) -> str:
    told = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return told.stdout.strip()
