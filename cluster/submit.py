"""`picpoint submit` and `picpoint jobs`: any job of picpoint, run on a Ray cluster from here."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from cluster.cluster_address import ClusterAddress, find_address
from cluster.compose import ConfigError, compose_config, flatten
from cluster.submission import STOP_WAIT_S, SubmitOptions, prepare, ray_command

if TYPE_CHECKING:
    from cluster.jobs_client import Jobs

# Settings that name files or folders; a list names several.
_PLACES = {
    "render": ("source", "out"),
    "cache-features": ("shards", "out", "image_encoder.weights"),
    "pretrain": (
        *("data.shards", "out", "checkpoints", "resume"),
        *("data.features", "data.cache_dir", "image_encoder.weights"),
    ),
    "finetune": ("data.shards", "out", "checkpoints", "resume", "weights", "data.cache_dir"),
    "probe": ("data.shards", "out", "weights", "data.cache_dir"),
    "tune": ("shards", "clouds", "out"),
    "evaluate": ("runs", "out"),
    "report": ("sources", "out"),
    "export": ("run", "evaluation", "out"),
}
SUBMITTED = tuple(_PLACES)
# What stands in their stead.
_NO_PLACES = ("", "demo", "default", "auto", "never", "True", "False", "None")


def overrides_for_cluster(job_name: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """Say where a job's workers run, unless the overrides do: on the cluster that it is sent to.

    Raises:
        ConfigError: an override is wrong.
    """
    config = compose_config(job_name.replace("-", "_"), overrides)
    keys = {override.partition("=")[0].lstrip("+") for override in overrides}
    if "fleet" in config and keys.isdisjoint({"fleet", "fleet.name"}):
        return (*overrides, "fleet=ray")
    if "runtime" in config and config.runtime.name == "ray" and "runtime.address" not in keys:
        return (*overrides, "runtime.address=auto")
    if "trial" in config and "trial.address" not in keys:
        return (*overrides, "trial.address=auto")
    return tuple(overrides)


def relative_places(job_name: str, config: DictConfig) -> Iterator[str]:
    """Name the settings that mean another folder on the cluster than here, as KEY=VALUE."""
    settings = dict(flatten(OmegaConf.to_container(config, resolve=True)))
    for key in _PLACES[job_name]:
        value = settings.get(key)
        for place in map(str, value if isinstance(value, list) else [value]):
            is_place = place not in _NO_PLACES and "://" not in place
            if is_place and not PurePosixPath(place).is_absolute():
                yield f"{key}={place}"


def submit(
    job_name: str, overrides: Sequence[str], config: DictConfig, options: argparse.Namespace
) -> int:
    """Send a job whose settings have been checked, and follow it to its end.

    Args:
        job_name: of the command line.
        overrides: as checked, with those for the cluster.
        config: what they compose to.
        options: of the parser below.

    Returns:
        The job's own exit code; 0 where it is not waited for.
    """
    address = find_address(options.address, options.insecure)
    submission = prepare(job_name, overrides, _submit_options(options))
    for place in relative_places(job_name, config):
        _warn(
            f"{place}: relative, so it lies in a folder of the job's own on the cluster, which "
            "goes with it; give a URL, or the full path of a volume that all machines share"
        )
    if config.get("runtime") is not None and config.runtime.use_gpu == "auto":
        _warn(
            "runtime.use_gpu=auto: decided where the entry point runs, which may have no GPU where "
            "others do; say true or false"
        )
    _warn_of_clear_token(address)
    if options.dry_run:
        print(ray_command(submission, address))
        return 0
    from cluster.jobs_client import Jobs

    jobs = Jobs(address)
    jobs.submit(submission)
    print(f"submitted: {submission.submission_id} to {address.url}", flush=True)
    print(f"runs: {submission.shell_line}", flush=True)
    return 0 if options.no_wait else jobs.follow(submission.submission_id)


def manage(options: argparse.Namespace) -> int:
    """List, show or stop jobs that were submitted."""
    address = find_address(options.address, options.insecure)
    if options.action == "list" and options.id:
        raise ConfigError(f"{options.id}: list takes no id; try picpoint jobs logs {options.id}")
    if options.action != "list" and not options.id:
        raise ConfigError(f"{options.action}: of which job? picpoint jobs list names them")
    _warn_of_clear_token(address)
    from cluster.jobs_client import Jobs

    jobs = Jobs(address)
    match options.action:
        case "list":
            _print_table(jobs)
        case "logs" if options.follow:
            return jobs.follow(options.id)
        case "logs":
            jobs.print_log(options.id)
        case _:
            print(f"asked to end, which may take {STOP_WAIT_S} s: {options.id}", flush=True)
            print(f"{options.id}: {jobs.stop(options.id, STOP_WAIT_S)}", flush=True)
    return 0


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands to the command line."""
    summary = "run a job on a Ray cluster and follow it"
    example = "picpoint submit pretrain data.shards=s3://b/shards out=/data/run --working-dir ."
    job = commands.add_parser("submit", help=summary, description=f"{summary}. Try: {example}")
    job.add_argument("job", metavar="JOB", choices=SUBMITTED, help=", ".join(SUBMITTED))
    job.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see picpoint JOB --cfg")
    _add_address(job)
    code = job.add_mutually_exclusive_group()
    code.add_argument("--working-dir", default="", metavar="DIR", help="code to send, or a .zip")
    code.add_argument("--image", default="", metavar="IMAGE", help="container image to run in")
    job.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="environment; no secrets"
    )
    job.add_argument("--entrypoint-num-cpus", type=float, default=1.0, metavar="N")
    job.add_argument("--entrypoint-num-gpus", type=float, default=0.0, metavar="N")
    job.add_argument("--entrypoint-memory", type=int, default=0, metavar="BYTES")
    job.add_argument("--submission-id", default="", metavar="ID", help="the job's name there")
    job.add_argument("--no-wait", action="store_true", help="do not follow the log")
    job.add_argument("--dry-run", action="store_true", help="print the call of ray job submit")
    job.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS)
    jobs = commands.add_parser("jobs", help="list, show or stop what was submitted")
    jobs.add_argument("action", choices=["list", "logs", "stop"])
    jobs.add_argument("id", nargs="?", default="", metavar="ID")
    jobs.add_argument("--follow", action="store_true", help="logs: until the job ends")
    _add_address(jobs)
    jobs.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS)


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        default="",
        metavar="URL",
        help="the cluster's dashboard; else RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine's",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="send over plain http without a token, and to a cluster that asks for none",
    )


def _submit_options(options: argparse.Namespace) -> SubmitOptions:
    return SubmitOptions(
        working_dir=options.working_dir,
        image=options.image,
        env_vars=tuple(options.env),
        num_cpus=options.entrypoint_num_cpus,
        num_gpus=options.entrypoint_num_gpus,
        memory_bytes=options.entrypoint_memory,
        submission_id=options.submission_id,
    )


def _print_table(jobs: "Jobs") -> None:
    rows = [("ID", "STATUS", "JOB", "COMMIT", "STARTED", "OVERRIDES")]
    rows += [
        (each.submission_id, each.status, each.job, each.commit, each.started, each.overrides)
        for each in jobs.list()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _warn_of_clear_token(address: ClusterAddress) -> None:
    if address.has_token and not address.is_encrypted:
        _warn(f"{address.url}: plain http, so the token can be read on the way; use https")


def _warn(line: str) -> None:
    print(f"picpoint: {line}", file=sys.stderr, flush=True)
