"""`picpoint tune`: the trials of a study on Ray Tune, as many at once as the cluster holds."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.compose import ConfigError
from cluster.record import commit, keep_or_start, versions
from cluster.study import (
    Parameter,
    Settings,
    StudyConfig,
    StudyFailedError,
    choices_of,
    commands_of,
    points,
    read_figure,
    spread,
    trial_id,
)
from cluster.study_table import TABLE_FILE, TrialRow, write_study
from cluster.trial import RESULT_FILE, TrialResult, load_result, run_trial

TRIALS = "trials"


@dataclass(frozen=True, slots=True)
class TrialResources:
    """What one trial takes.

    Attributes:
        name: `local`: its commands run on the machine that Ray gives it. `ray`: they run their
            ranks on the same Ray cluster, each trial as a Ray Train run of its own.
        address: Ray cluster to join; `local` starts one that ends with the study.
        cpus: of a trial.
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
    return result is not None and result.state == "done"


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
        concurrent = max_concurrent(job.trial, ray.cluster_resources())
        # A trial whose ranks are Ray workers of their own must leave them the room.
        is_local = job.trial.name == "local"
        resources: dict[str, float] = {
            "CPU": job.trial.cpus if is_local else _HARDLY,
            "GPU": job.trial.gpus if is_local else 0.0,
        }
        trainable = tune.with_resources(
            tune.with_parameters(_trial, job=job, address=address, where=str(Path.cwd())), resources
        )
        space, searcher, num_samples = _search(job.study)
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=_METRIC,
                mode=job.study.figure.mode,
                search_alg=searcher,
                scheduler=_scheduler(job.study),
                num_samples=num_samples,
                max_concurrent_trials=concurrent,
            ),
            run_config=tune.RunConfig(
                name=job.study.name, storage_path=str(out / "tune"), verbose=1
            ),
        )
        results = tuner.fit()
    asked = [_settings_of(job.study, result.config or {}) for result in results]
    rows: dict[str, TrialRow] = {}
    for settings in asked:
        name = trial_id(job.study, settings)
        rows[name] = TrialRow(name, dict(settings), _ended(job, settings))
    return list(rows.values())


# Of a CPU, for a trial that only waits for its ranks.
_HARDLY = 0.01
_METRIC = "figure"
_POINT = "point"


def _search(study: StudyConfig) -> tuple[dict[str, Any], Any, int]:
    """Give Tune's space, its searcher and how many samples to take of it."""
    from ray import tune

    if study.search != "optuna":
        unique = {trial_id(study, settings): dict(settings) for settings in points(study)}
        return {_POINT: tune.grid_search(list(unique.values()))}, None, 1
    try:
        from optuna.samplers import TPESampler
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise ConfigError(
            "study.search=optuna: optuna is not installed; pip install 'picpoint[tune]'"
        ) from error
    space = {parameter.key: _domain(parameter) for parameter in choices_of(study)}
    return space, OptunaSearch(sampler=TPESampler(seed=study.seed)), study.num_trials


def _domain(parameter: Parameter) -> Any:  # noqa: ANN401 - of Ray
    from ray import tune

    if parameter.values:
        return tune.choice(parameter.values)
    low, high = parameter.bounds
    if isinstance(low, int) and isinstance(high, int):
        draw = tune.lograndint if parameter.log else tune.randint
        return draw(low, high + 1)
    return (tune.loguniform if parameter.log else tune.uniform)(low, high)


def _scheduler(study: StudyConfig) -> Any:  # noqa: ANN401 - of Ray
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(max_t=1_000_000) if study.scheduler == "asha" else None


def leave_secrets_where_they_are() -> None:
    """Keep Tune from handing this process's AWS keys to its trials.

    It would put them into the trials' runtime environment, which Ray shows on its dashboard and
    writes into its logs. Trials have what their machine has.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE = {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
    }


def _settings_of(study: StudyConfig, config: dict[str, Any]) -> dict[str, Any]:
    """Give the settings of a trial as Tune has them."""
    if _POINT in config:
        return dict(config[_POINT])
    choices = choices_of(study)
    return spread(choices, [config[each.key] for each in choices])


def _trial(config: dict[str, Any], job: TuneJob, address: str, where: str) -> None:
    """Be a trial; runs in a process of Tune's, whose folder is another than the study's."""
    from ray import tune

    settings = _settings_of(job.study, config)
    folder = _folder(job, settings)
    result = load_result(folder)
    if result is None or result.state != "failed" or job.retry_failed:
        is_local = job.trial.name == "local"
        ranks = ["runtime=local"] if is_local else ["runtime=ray", f"runtime.address={address}"]
        if Path(where).is_dir():
            os.chdir(where)
        result = run_trial(
            job.study, settings, folder, ranks, lambda figure: tune.report({_METRIC: figure})
        )
    if result.state == "failed":
        raise StudyFailedError(result.reason)  # Tune takes a trial that tells nothing for a fault


def _ended(job: TuneJob, settings: Settings) -> TrialResult:
    """Tell how a trial ended; one that the scheduler ended has only what it had told."""
    folder = _folder(job, settings)
    found = load_result(folder)
    if found is not None:
        return found
    figures = read_figure(job.study.figure, str(folder))
    if job.study.scheduler != "none" and figures:
        return TrialResult("stopped", figures[-1], 0.0)
    return TrialResult("failed", None, 0.0, f"no {RESULT_FILE}: the trial was lost; run it again")


def max_concurrent(trial: TrialResources, has: Mapping[str, float]) -> int:
    """Tell how many trials the cluster holds at once.

    More would wait for each other's machines for ever.

    Raises:
        ConfigError: not even one.
    """
    needs = {"CPU": trial.cpus, "GPU": trial.gpus}
    fit = min(
        math.floor(has.get(name, 0.0) / amount) for name, amount in needs.items() if amount > 0
    )
    if fit < 1 and not trial.max_concurrent:
        told = ", ".join(f"{has.get(name, 0):g} {name}" for name in needs)
        raise ConfigError(
            f"trial.cpus={trial.cpus:g}, trial.gpus={trial.gpus:g}: the cluster has {told}; ask "
            "for less, or, where it grows, say trial.max_concurrent=N"
        )
    if fit < 1:
        return trial.max_concurrent
    return min(fit, trial.max_concurrent) if trial.max_concurrent else fit
