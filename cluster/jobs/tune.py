"""`picpoint tune`: the trials of a study on Ray Tune, as many at once as the cluster holds."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.compose import ConfigError
from cluster.fleet import WorkerDiedError
from cluster.generations import Breeding, breeding_of, first_generation, next_generation
from cluster.parameter import Settings, spread
from cluster.record import commit, keep_or_start, versions
from cluster.study import (
    StudyConfig,
    StudyFailedError,
    choices_of,
    commands_of,
    points,
    trial_id,
)
from cluster.study_check import check_study
from cluster.study_on_tune import given, search
from cluster.study_table import TABLE_FILE, write_study
from cluster.trial import ENDED
from cluster.trial_row import TrialRow
from cluster.trials_on_ray import TrialResources, Trials, on_ray, run_on_tune

# How often a member of a population is run again that was lost with its machine.
_MOST_LOSSES = 3


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

    @property
    def trials(self) -> Trials:
        """Its trials, in its folder as it is named from any other."""
        return Trials(self.study, Path(self.out).resolve(), self.trial, self.retry_failed)


def describe(job: TuneJob) -> list[str]:
    """Say which trials there would be, and what each would run."""
    study, trials = job.study, job.trials
    check_study(study)
    if study.scheduler == "population":
        return _describe_population(trials)
    if study.search == "optuna":
        count = f"{study.num_trials} trials by Optuna"
        choices = choices_of(study)
        first = spread(choices, [(each.values or each.bounds)[0] for each in choices])
    else:
        all_points = list(points(study))
        ids = {trial_id(study, settings) for settings in all_points}
        results = map(trials.result, all_points)
        finished = sum(result is not None and result.state in ENDED for result in results)
        count = f"{len(ids)} trials ({study.search}), {finished} of them finished"
        first = all_points[0]
    return _described(trials, count, first)


def _describe_population(trials: Trials) -> list[str]:
    breeding, config = breeding_of(trials.study), trials.study.population
    trials = dataclasses.replace(trials, study=breeding.study)
    members, finished = first_generation(breeding.study), 0
    first = breeding.settings_of(members[0])
    while members and finished < config.generations:
        results = [trials.result(breeding.settings_of(each)) for each in members]
        if not all(results):
            break
        finished += 1
        members = next_generation(breeding, members, [each and each.figure for each in results])
    replaced = min(math.ceil(config.size * config.quantile), config.size // 2)
    count = (
        f"a population of {config.size} in {config.generations} generations, {finished} of them "
        f"finished; they end after {_listed(breeding, config.generations)} epochs, and of each the "
        f"worst {replaced} give way to the best {replaced}"
    )
    return _described(trials, count, first)


def _listed(breeding: Breeding, generations: int) -> str:
    ends = [str(breeding.last_epoch(number)) for number in range(1, generations + 1)]
    return ", ".join(ends if len(ends) <= 4 else [*ends[:2], "...", ends[-1]])


def _described(trials: Trials, count: str, first: Settings) -> list[str]:
    study = trials.study
    return [
        f"ask    {study.question}",
        f"run    {count}; by {study.figure.title} ({study.figure.mode})",
        *(
            f"first  picpoint {' '.join(line)}"
            for line in commands_of(study, first, str(trials.folder(first)))
        ),
        f"write  {trials.out / TABLE_FILE}",
    ]


def run(job: TuneJob) -> None:
    """Run the trials that are not finished, and write the study's table and plot.

    Raises:
        ConfigError: a trial needs more than the cluster has, a command of the study has a wrong key
            or value, or no population can be bred.
        KeyboardInterrupt: the study was stopped; the same command goes on.
        StudyFailedError: every trial failed, or every one of a generation.
    """
    study, trials = job.study, job.trials
    check_study(study)
    breeding = breeding_of(study) if study.scheduler == "population" else None
    out = str(trials.out)
    keep_or_start(out, "tune", job, "", moot=("out", "trial", "retry_failed"))
    with on_ray(job.trial.address):
        rows = _run_search(trials) if breeding is None else _run_generations(trials, breeding)
    write_study(study, rows, trials.out, _facts())
    print((trials.out / TABLE_FILE).read_text())
    for row in rows:
        if row.result.state == "failed":
            print(f"failed: {row.trial} {row.settings}: {row.result.reason}")
    last = [row for row in rows if row.generation == rows[-1].generation]
    if all(row.result.state == "failed" for row in last):
        whose = f"generation {last[0].generation} of {study.name}" if breeding else study.name
        raise StudyFailedError(
            f"all {len(last)} trials of {whose} failed, the first: {last[0].result.reason}; see "
            f"{trials.folder_of(last[0].trial)}/log.txt, and when it is mended add "
            "retry_failed=true"
        )


def _facts() -> dict[str, object]:
    return {"commit": commit(), "versions": versions()}


def _run_search(trials: Trials) -> list[TrialRow]:
    """Run the trials of a search; gives every one once, in its order."""
    rows: dict[str, TrialRow] = {}
    for tried in run_on_tune(trials, search(trials.study), trials.study.name):
        name = trial_id(trials.study, tried.settings)
        rows[name] = TrialRow(name, tried.settings, trials.ended(tried.settings))
    return list(rows.values())


def _run_generations(trials: Trials, breeding: Breeding) -> list[TrialRow]:
    """Run a population, generation by generation; gives every member once, the first ones first.

    Which members a generation has follows from the results that lie in the folders of the one
    before; so whoever begins again comes to the same ones.
    """
    rows: dict[str, TrialRow] = {}
    study, trials = trials.study, dataclasses.replace(trials, study=breeding.study)
    members = first_generation(breeding.study)
    for generation in range(1, study.population.generations + 1):
        asked = [breeding.settings_of(member) for member in members]
        _train_all(trials, asked, f"{study.name}-{generation}")
        results = [trials.ended(settings) for settings in asked]
        for member, result in zip(members, results, strict=True):
            name = breeding.trial_of(member)
            rows[name] = TrialRow(name, member.settings, result, generation, member.parent)
        write_study(study, list(rows.values()), trials.out, _facts())
        figures = [result.figure for result in results]
        print(f"generation {generation} of {study.population.generations}: {_told(study, figures)}")
        members = next_generation(breeding, members, figures)
        if not members:
            break
    return list(rows.values())


def _train_all(trials: Trials, asked: Sequence[Settings], name: str) -> None:
    """Train the members of a generation that are due; one lost with its machine goes on elsewhere.

    Args:
        trials: of the study.
        asked: settings of each member.
        name: of Tune's own record of them.

    Raises:
        ConfigError: the cluster does not hold even one.
        WorkerDiedError: it did, and lost the machine.
        KeyboardInterrupt: Tune was told to stop.
    """
    waiting = [settings for settings in asked if trials.is_due(settings)]
    for losses_left in reversed(range(_MOST_LOSSES + 1)):
        if not waiting:
            return
        try:
            tried = run_on_tune(trials, given(trials.study, waiting), name)
        except ConfigError as error:
            if losses_left == _MOST_LOSSES:
                raise
            raise WorkerDiedError(
                f"members were lost with their machine, and what is left has no room for one "
                f"({error}); the same command goes on once there is"
            ) from error
        lost = [each for each in tried if trials.result(each.settings) is None]
        for each in lost:
            if losses_left:
                print(f"lost: {trial_id(trials.study, each.settings)} ({each.error}); runs again")
            else:
                # Who comes again shall find the same: it has failed for good.
                trials.keep_lost(each)
        waiting = [each.settings for each in lost]


def _told(study: StudyConfig, figures: Sequence[float | None]) -> str:
    told = [figure for figure in figures if figure is not None]
    if not told:
        return f"all {len(figures)} members failed"
    best = max(told) if study.figure.mode == "max" else min(told)
    return f"{len(told)} of {len(figures)} members trained, the best {best:.4f}"
