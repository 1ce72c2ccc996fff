"""`picpoint tune`: the trials of a study on Ray Tune, as many at once as the cluster holds."""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.compose import ConfigError
from cluster.record import commit, keep_or_start, versions
from cluster.study import (
    Settings,
    StudyConfig,
    StudyFailedError,
    choices_of,
    commands_of,
    points,
    spread,
    trial_id,
)
from cluster.study_on_tune import METRIC, keeper_of_stopped, scheduler, search, settings_of
from cluster.study_table import TABLE_FILE, TrialRow, write_study
from cluster.trial import ENDED, RESULT_FILE, TrialResult, load_result, run_trial

TRIALS = "trials"


@dataclass(frozen=True, slots=True)
class TrialResources:
    """What one trial takes.

    Attributes:
        name: `local`: its commands run on the machine that Ray gives it. `ray`: they run their
            ranks on the same Ray cluster, each trial as a Ray Train run of its own.
        address: Ray cluster to join; `local` starts one that ends with the study.
        cpus: of a trial, whose commands use so many threads.
        gpus: of a trial.
        max_concurrent: most trials at once; 0 for as many as the cluster holds.
    """

    name: Literal["local", "ray"] = "local"
    address: str = "local"
    cpus: float = 1.0
    gpus: float = 0.0
    max_concurrent: int = 0

    def __post_init__(self) -> None:
        if self.cpus <= 0 or self.gpus < 0 or self.max_concurrent < 0:
            raise ValueError(
                f"trial.cpus={self.cpus}, trial.gpus={self.gpus}, trial.max_concurrent="
                f"{self.max_concurrent}: must be above 0, 0 or more and 0 or more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneJob:
    """A study and where it runs.

    Attributes:
        study: what is asked.
        out: folder of the study; shared by all machines.
        shards: rendered shard set, for studies of pre-training.
        clouds: labelled data set, for studies of tasks.
        trial: what a trial takes.
        retry_failed: run trials again that failed before.
    """

    study: StudyConfig
    out: str
    shards: str = ""
    clouds: str = ""
    trial: TrialResources = field(default_factory=TrialResources)
    retry_failed: bool = False


def describe(job: TuneJob) -> list[str]:
    """Say which trials there would be, and what each would run."""
    study = job.study
    if study.search == "optuna":
        count = f"{study.num_trials} trials by Optuna"
        choices = choices_of(study)
        first = spread(choices, [(each.values or each.bounds)[0] for each in choices])
    else:
        all_points = list(points(study))
        ids = {trial_id(study, settings) for settings in all_points}
        finished = sum(_is_done(job, settings) for settings in all_points)
        count = f"{len(ids)} trials ({study.search}), {finished} of them finished"
        first = all_points[0]
    return [
        f"ask    {study.question}",
        f"run    {count}; by {study.figure.title} ({study.figure.mode})",
        *(
            f"first  picpoint {' '.join(line)}"
            for line in commands_of(study, first, str(_folder(job, first)))
        ),
        f"write  {Path(job.out) / TABLE_FILE}",
    ]


def run(job: TuneJob) -> None:
    """Run the trials that are not finished, and write the study's table and plot.

    Raises:
        ConfigError: a trial needs more than the cluster has.
        StudyFailedError: every trial failed.
    """
    out = Path(job.out).resolve()
    keep_or_start(str(out), "tune", job, "", moot=("out", "trial", "retry_failed"))
    job = dataclasses.replace(job, out=str(out))  # trials run in folders of Tune's
    rows = _run_on_tune(job, out)
    facts = {"commit": commit(), "versions": versions()}
    write_study(job.study, rows, out, facts)
    print((out / TABLE_FILE).read_text())
    failed = [row for row in rows if row.result.state == "failed"]
    for row in failed:
        print(f"failed: {row.trial} {row.settings}: {row.result.reason}")
    if len(failed) == len(rows):
        raise StudyFailedError(
            f"all {len(rows)} trials of {job.study.name} failed, the first: "
            f"{failed[0].result.reason}; see {_folder(job, failed[0].settings)}/log.txt"
        )


def _folder(job: TuneJob, settings: Settings) -> Path:
    return Path(job.out).resolve() / TRIALS / trial_id(job.study, settings)


def _is_done(job: TuneJob, settings: Settings) -> bool:
    result = load_result(_folder(job, settings))
    return result is not None and result.state in ENDED


def _run_on_tune(job: TuneJob, out: Path) -> list[TrialRow]:
    """Have Tune run the trials; gives every trial once, in the order of the search."""
    import ray
    from ray import tune

    with ray.init(
        address=job.trial.address,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    ):
        leave_secrets_where_they_are()
        address = ray.get_runtime_context().gcs_address
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        concurrent = max_concurrent(job.trial, machines)
        # A trial whose ranks are Ray workers of their own must leave them the room.
        is_local = job.trial.name == "local"
        resources: dict[str, float] = {
            "CPU": job.trial.cpus if is_local else _HARDLY,
            "GPU": job.trial.gpus if is_local else 0.0,
        }
        trainable = tune.with_resources(
            tune.with_parameters(_trial, job=job, address=address, where=str(Path.cwd())), resources
        )
        space, searcher, num_samples = search(job.study)
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode=job.study.figure.mode,
                search_alg=searcher,
                scheduler=scheduler(job.study),
                num_samples=num_samples,
                max_concurrent_trials=concurrent,
            ),
            run_config=tune.RunConfig(
                name=job.study.name,
                storage_path=str(out / "tune"),
                verbose=1,
                callbacks=[keeper_of_stopped(job.study, functools.partial(_folder, job))],
            ),
        )
        results = tuner.fit()
    asked = [settings_of(job.study, result.config or {}) for result in results]
    rows: dict[str, TrialRow] = {}
    for settings in asked:
        name = trial_id(job.study, settings)
        rows[name] = TrialRow(name, dict(settings), _ended(job, settings))
    return list(rows.values())


# Of a CPU, for a trial that only waits for its ranks.
_HARDLY = 0.01


def leave_secrets_where_they_are() -> None:
    """Keep Tune from handing this process's AWS keys to its trials.

    It would put them into the trials' runtime environment, which Ray shows on its dashboard and
    writes into its logs. Trials have what their machine has.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE = {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
    }


def _trial(config: dict[str, Any], job: TuneJob, address: str, where: str) -> None:
    """Be a trial; runs in a process of Tune's, whose folder is another than the study's."""
    from ray import tune

    settings = settings_of(job.study, config)
    folder = _folder(job, settings)
    result = load_result(folder)
    if result is None or result.state != "failed" or job.retry_failed:
        is_local = job.trial.name == "local"
        ranks = ["runtime=local"] if is_local else ["runtime=ray", f"runtime.address={address}"]
        if Path(where).is_dir():
            os.chdir(where)
        cores = max(1, math.floor(job.trial.cpus))
        result = run_trial(
            job.study, settings, folder, ranks, lambda figure: tune.report({METRIC: figure}), cores
        )
    if result.state == "failed":
        raise StudyFailedError(result.reason)  # Tune takes a trial that tells nothing for a fault


def _ended(job: TuneJob, settings: Settings) -> TrialResult:
    """Tell how a trial ended."""
    found = load_result(_folder(job, settings))
    if found is not None:
        return found
    return TrialResult("failed", None, 0.0, f"no {RESULT_FILE}: the trial was lost; run it again")


def max_concurrent(trial: TrialResources, machines: Sequence[Mapping[str, float]]) -> int:
    """Tell how many trials the cluster holds at once.

    More would wait for each other's machines for ever. A `local` trial is on one machine, whatever
    the others have; the ranks of a `ray` one may be spread.

    Args:
        trial: what it takes.
        machines: what each has, by Ray's names.

    Raises:
        ConfigError: not even one.
    """
    needs = {"CPU": trial.cpus, "GPU": trial.gpus}
    in_all = {name: sum(each.get(name, 0.0) for each in machines) for name in needs}
    places = machines if trial.name == "local" else [in_all]
    fit = sum(_held_by(place, needs) for place in places)
    if fit < 1 and not trial.max_concurrent:
        told = _told(in_all)
        if trial.name == "local" and len(machines) > 1:
            told += f" on {len(machines)} machines, and none of them holds one trial ("
            told += "; ".join(sorted({_told(each) for each in machines})) + ")"
        raise ConfigError(
            f"trial.cpus={trial.cpus:g}, trial.gpus={trial.gpus:g}: the cluster has {told}; ask "
            "for less, or, where it grows, say trial.max_concurrent=N"
        )
    if fit < 1:
        return trial.max_concurrent
    return min(fit, trial.max_concurrent) if trial.max_concurrent else fit


def _held_by(place: Mapping[str, float], needs: Mapping[str, float]) -> int:
    return min(
        math.floor(place.get(name, 0.0) / amount) for name, amount in needs.items() if amount > 0
    )


def _told(has: Mapping[str, float]) -> str:
    return ", ".join(f"{has.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
