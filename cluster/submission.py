"""What exactly is sent when a job is submitted? One value; call and text are made of it."""

import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.clear_text import refuse_secrets
from cluster.cluster_address import ADDRESS_VARIABLES, ClusterAddress
from cluster.compose import ConfigError
from cluster.record import SOURCE_TREE, commit

# What a stopped job is given to write its checkpoint; Ray's own 3 s are too few.
STOP_WAIT_S = 120
# A driver that goes takes its job with it, so it does not live on a machine that may be taken away.
# The spot groups of cluster/manifests carry the label; machines without it match.
NOT_ON_SPOT = {"market-type": "!spot"}
# Left out of an uploaded folder besides what its .gitignore names; the cluster keeps uploads.
_NOT_UPLOADED = [
    *(".git", ".venv", "venv", "__pycache__", ".ruff_cache", ".pytest_cache", ".hypothesis"),
    *(".env", ".env.*", ".netrc", ".aws", ".ssh", "*.pem", "*.key", "/runs", "/data"),
]
_ARCHIVE_SCHEMES = ("https", "s3", "gs")


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How a job is to be sent.

    Attributes:
        working_dir: folder or URL of a .zip with the code; "" for what the cluster has installed.
        image: container image that the job and its workers run in; "" for the cluster's own.
        env_vars: environment of the job, NAME=VALUE.
        num_cpus: for the entry point alone, apart from its workers.
        num_gpus: likewise.
        memory_bytes: likewise.
        submission_id: names the job on the cluster; "" makes one up.
    """

    working_dir: str = ""
    image: str = ""
    env_vars: tuple[str, ...] = ()
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 0
    submission_id: str = ""

    def __post_init__(self) -> None:
        if min(self.num_cpus, self.num_gpus, self.memory_bytes) < 0:
            raise ConfigError(
                f"--entrypoint-num-cpus {self.num_cpus}, --entrypoint-num-gpus {self.num_gpus}, "
                f"--entrypoint-memory {self.memory_bytes}: must be 0 or more"
            )


@dataclass(frozen=True, slots=True)
class Submission:
    """One job, ready to be sent.

    Attributes:
        submission_id: its name on the cluster.
        arguments: words of the entry point.
        runtime_env: Ray's runtime environment.
        metadata: what is told of the job beside its log.
        num_cpus: reserved for the entry point.
        num_gpus: likewise.
        memory_bytes: likewise; 0 for none.
        label_selector: machines that the entry point may run on.
    """

    submission_id: str
    arguments: tuple[str, ...]
    runtime_env: Mapping[str, object]
    metadata: Mapping[str, str]
    num_cpus: float
    num_gpus: float
    memory_bytes: int
    label_selector: Mapping[str, str] = field(default_factory=lambda: dict(NOT_ON_SPOT))

    @property
    def shell_line(self) -> str:
        """The entry point, as a shell reads it."""
        return shlex.join(self.arguments)


def prepare(job_name: str, overrides: Sequence[str], options: SubmitOptions) -> Submission:
    """Put together what is sent for a job whose overrides have been checked.

    Raises:
        ConfigError: an option cannot be used, or something looks like a secret.
    """
    arguments = entry_point(job_name, overrides)
    given = dict(_split(text) for text in options.env_vars)
    refuse_secrets(given, arguments)
    code = _commit_of(options)
    return Submission(
        submission_id=options.submission_id or f"picpoint-{job_name}-{secrets.token_hex(4)}",
        arguments=arguments,
        runtime_env=_runtime_env(options, given, code),
        metadata={
            "job": job_name,
            "commit": code,
            "code": options.image or options.working_dir or "installed on the cluster",
            "overrides_sha256": digest(overrides),
        },
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        memory_bytes=options.memory_bytes,
    )


def entry_point(job_name: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """Give the command of a job; `-m` takes the code of the working directory, if there is one."""
    return ("python", "-m", "cluster.app", job_name, *overrides)


def digest(overrides: Sequence[str]) -> str:
    """Digest overrides; their order does not matter."""
    return hashlib.sha256("\n".join(sorted(overrides)).encode()).hexdigest()


def ray_command(submission: Submission, address: ClusterAddress) -> str:
    """Spell a submission as the call of Ray's own command that does the same."""
    rest = {key: value for key, value in submission.runtime_env.items() if key != "working_dir"}
    words = ["ray", "job", "submit", "--address", address.url]
    if any(os.environ.get(name) for name in ADDRESS_VARIABLES):
        # Ray would let these win over --address.
        words = ["env", *(f"--unset={name}" for name in ADDRESS_VARIABLES), *words]
    words += ["--submission-id", submission.submission_id]
    if "working_dir" in submission.runtime_env:
        words += ["--working-dir", str(submission.runtime_env["working_dir"])]
    words += ["--runtime-env-json", _json(rest), "--metadata-json", _json(submission.metadata)]
    words += ["--entrypoint-num-cpus", f"{submission.num_cpus:g}"]
    if submission.num_gpus:
        words += ["--entrypoint-num-gpus", f"{submission.num_gpus:g}"]
    if submission.memory_bytes:
        words += ["--entrypoint-memory", str(submission.memory_bytes)]
    words += ["--entrypoint-label-selector", _json(submission.label_selector)]
    return shlex.join([*words, "--", *submission.arguments])


def _runtime_env(
    options: SubmitOptions, given: Mapping[str, str], code: str
) -> Mapping[str, object]:
    env_vars = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
    if options.working_dir and code != "unknown":
        env_vars["PICPOINT_COMMIT"] = code  # the folder's history does not go along
    runtime_env: dict[str, object] = {"env_vars": env_vars | dict(given)}
    if options.image:
        _check_image(options.image)
        return runtime_env | {"image_uri": options.image}
    if options.working_dir:
        _check_working_dir(options.working_dir)
        return runtime_env | {"working_dir": options.working_dir, "excludes": _NOT_UPLOADED}
    return runtime_env


def _check_image(image: str) -> None:
    name = image.rpartition("/")[2]
    if "@sha256:" not in image and (":" not in name or name.endswith(":latest")):
        raise ConfigError(
            f"--image {image}: may be another image tomorrow; name its digest (@sha256:...) or a "
            "version's tag"
        )


def _check_working_dir(place: str) -> None:
    scheme, separator, _ = place.partition("://")
    if separator:
        if scheme not in _ARCHIVE_SCHEMES or not place.endswith(".zip"):
            raise ConfigError(
                f"--working-dir {place}: must be a folder, or a .zip at https://, s3:// or gs://"
            )
    elif not Path(place).is_dir():
        raise ConfigError(f"--working-dir {place}: is not a folder here")


def _commit_of(options: SubmitOptions) -> str:
    """Tell the commit of the code that will run, where that is the code that is here."""
    is_here = options.working_dir and "://" not in options.working_dir
    if is_here and Path(options.working_dir).resolve() == SOURCE_TREE:
        return commit()
    return "unknown"


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ConfigError("--env: must be NAME=VALUE")
    return name, value


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(dict(value), sort_keys=True)
