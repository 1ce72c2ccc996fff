"""How are a cluster's jobs reached? By Ray's job API; logs are followed, errors are one line."""

import asyncio
import datetime
import os
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cluster_address import ADDRESS_VARIABLES, ClusterAddress

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

    from cluster.submission import Submission

_CONNECT_S = 10.0
_POLL_S = 1.0
# Proxies and forwarded ports close a log that says nothing for a minute; it is opened again.
_MAX_REOPENED = 10
# What a job that is asked to end is waited for, beyond what it is given itself.
_STOP_MARGIN_S = 30.0

# As in cluster/exit_codes.py, which needs this file.
_FAULT, _INTERRUPTED = 1, 130


class ClusterError(RuntimeError):
    """A cluster's job API cannot be reached, or refuses."""


@dataclass(frozen=True, slots=True)
class JobLine:
    """One submitted job, as `picpoint jobs list` shows it."""

    submission_id: str
    status: str
    job: str
    commit: str
    started: str
    overrides: str


class Jobs:
    """The jobs of one cluster.

    Attributes:
        address: of its job API.
        is_open: it asks for no token.

    Raises:
        ClusterError: nothing answers there, it does not accept the token, or it accepts anyone.
    """

    def __init__(self, address: ClusterAddress) -> None:
        self.address = address
        with self._in_one_line():
            self.is_open = _answers_anyone(address.url)
            if self.is_open and not (address.is_encrypted or address.insecure):
                raise ClusterError(
                    f"{address.url}: asks for no token, so whoever reaches it runs code there; "
                    "start it with RAY_AUTH_MODE=token (--insecure sends all the same)"
                )
            self._client = _connect(address)

    def submit(self, submission: "Submission") -> None:
        """Send a job, and its working directory if it has one."""
        with self._in_one_line():
            self._client.submit_job(
                entrypoint=submission.shell_line,
                submission_id=submission.submission_id,
                runtime_env=dict(submission.runtime_env),
                metadata=dict(submission.metadata),
                entrypoint_num_cpus=submission.num_cpus,
                entrypoint_num_gpus=submission.num_gpus,
                entrypoint_memory=submission.memory_bytes,
                entrypoint_label_selector=dict(submission.label_selector),
            )

    def ask(self, shell_line: str, folder: Path, wait_s: float) -> str:
        """Run a short command on the head, with the files of a folder, and give what it printed.

        Raises:
            ClusterError: it is not done in time, or ended with an error.
        """
        with self._in_one_line():
            env = {"working_dir": str(folder)}
            job = self._client.submit_job(entrypoint=shell_line, runtime_env=env)
            deadline = time.monotonic() + wait_s
            while not (info := self._client.get_job_info(job)).status.is_terminal():
                if time.monotonic() > deadline:
                    self._client.stop_job(job)
                    raise ClusterError(
                        f"{self.address.url}: {job} is {info.status} after {wait_s} s"
                    )
                time.sleep(_POLL_S)
            if str(info.status) != "SUCCEEDED":
                raise ClusterError(f"{self.address.url}: {job} {info.status}: {info.message}")
            return self._client.get_job_logs(job)

    def follow(self, submission_id: str) -> int:
        """Print a job's log until it ends; give its exit code.

        Raises:
            KeyboardInterrupt: stopped by Ctrl-C; the job goes on.
            ClusterError: the cluster cannot be reached any more; the job may go on.
        """
        try:
            with self._in_one_line(f"{submission_id} may go on; "):
                return self._follow(submission_id)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(
                f"{submission_id} goes on; picpoint jobs logs --follow {submission_id} shows it "
                f"again, picpoint jobs stop {submission_id} ends it"
            ) from interrupt

    def print_log(self, submission_id: str) -> None:
        """Print what a job has said so far."""
        with self._in_one_line():
            print(self._client.get_job_logs(submission_id), end="", flush=True)

    def stop(self, submission_id: str, wait_s: float) -> str:
        """Ask a job to end, wait until it has, and tell its status.

        Args:
            submission_id: which job.
            wait_s: what it is given to save its work.
        """
        with self._in_one_line():
            self._client.stop_job(submission_id)
            deadline = time.monotonic() + wait_s + _STOP_MARGIN_S
            while not (info := self._client.get_job_info(submission_id)).status.is_terminal():
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{submission_id}: asked to end, and still {info.status}; see picpoint "
                        "jobs list"
                    )
                time.sleep(_POLL_S)
            return str(info.status)

    def list(self) -> "list[JobLine]":
        """List what was submitted, oldest first."""
        with self._in_one_line():
            details = self._client.list_jobs()
        submitted = [each for each in details if each.submission_id]
        submitted.sort(key=lambda each: each.start_time or 0)
        return [_line(each) for each in submitted]

    def _follow(self, submission_id: str) -> int:
        shown, reopened = 0, 0
        while True:
            before = shown
            try:
                shown = asyncio.run(_print_log(self._client, submission_id, shown))
            except _BrokenOffError as broken:
                shown = broken.shown
                reopened = 1 if shown > before else reopened + 1
                if reopened > _MAX_REOPENED:
                    raise ClusterError(f"{self.address.url}: the log breaks off") from broken
            info = self._client.get_job_info(submission_id)
            if info.status.is_terminal():
                return _exit_code(info)
            time.sleep(_POLL_S)

    @contextmanager
    def _in_one_line(self, before: str = "") -> Generator[None]:
        """Turn what Ray's client raises into one line."""
        from ray.exceptions import AuthenticationError

        url = self.address.url
        try:
            yield
        except ClusterError:
            raise
        except AuthenticationError as error:
            says = "refuses this token" if self.address.has_token else "asks for a token"
            raise ClusterError(
                f"{before}{url}: {says}; give the cluster's in RAY_AUTH_TOKEN_PATH "
                "(docs/operations.md says where it is)"
            ) from error
        except OSError as error:
            raise ClusterError(
                f"{before}{url}: cannot be reached ({_last_line(error)}); is the cluster up, and "
                "the port forwarded?"
            ) from error
        except RuntimeError as error:
            raise ClusterError(f"{before}{url}: {_last_line(error)}") from error


class _BrokenOffError(Exception):
    """A log's connection was lost; `shown` characters of it were printed."""

    def __init__(self, shown: int) -> None:
        super().__init__(shown)
        self.shown = shown


def _connect(address: ClusterAddress) -> "JobSubmissionClient":
    from ray.job_submission import JobSubmissionClient

    # Otherwise Ray would let one of them win over the address that was checked.
    before = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        return JobSubmissionClient(address.url, headers=dict(address.headers))
    finally:
        os.environ.update(before)


def _answers_anyone(url: str) -> bool:
    """Tell whether a cluster shows its jobs to one who shows no token.

    Raises:
        OSError: nothing answers in time, for which Ray's own client would wait for ever.
    """
    try:
        with urllib.request.urlopen(f"{url}/api/jobs/", timeout=_CONNECT_S):
            return True
    except urllib.error.HTTPError:
        return False


async def _print_log(client: "JobSubmissionClient", submission_id: str, skip: int) -> int:
    """Print a log as it grows, but for its first characters; tell how many there are now."""
    seen = 0
    try:
        async for piece in client.tail_job_logs(submission_id):
            seen += len(piece)
            if seen > skip:
                print(piece[max(0, len(piece) - (seen - skip)) :], end="", flush=True)
    except (RuntimeError, OSError) as error:
        raise _BrokenOffError(max(seen, skip)) from error
    return max(seen, skip)


def _exit_code(info: "JobDetails") -> int:
    """Give the exit code of what ran, where it ran at all."""
    if str(info.status) == "SUCCEEDED":
        return 0
    if str(info.status) == "STOPPED":
        return _INTERRUPTED
    code = info.driver_exit_code
    if code is None:
        print(f"{info.submission_id}: {info.message}", flush=True)
        return _FAULT
    return code if 0 < code < 256 else _FAULT


def _line(info: "JobDetails") -> JobLine:
    known: Mapping[str, str] = info.metadata or {}
    start = (info.start_time or 0) / 1000
    return JobLine(
        submission_id=info.submission_id or "",
        status=str(info.status),
        job=known.get("job", "-"),
        commit=known.get("commit", "-"),
        started=datetime.datetime.fromtimestamp(start, datetime.UTC).strftime("%Y-%m-%d %H:%MZ"),
        overrides=known.get("overrides_sha256", "-")[:12],
    )


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
