"""How do the trials of a study run on Ray? By Tune, as many at once as the cluster holds."""

import contextlib
import math
import os
import signal
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.compose import ConfigError
from cluster.parameter import Settings
from cluster.study import StudyConfig, StudyFailedError, trial_id
from cluster.study_on_tune import (
    METRIC,
    Search,
    Tried,
    keeper_of_stopped,
    scheduler,
    settings_of,
)
from cluster.trial import RESULT_FILE, TrialResult, keep_result, load_result, run_trial

_TRIALS = "trials"


@dataclass(frozen=True, slots=True)
class TrialResources:
    """What one trial takes.

    Attributes:
        name: `local`: its commands run on the machine that Ray gives it. `ray`: they run their
            ranks on the same Ray cluster, each trial as a Ray Train run of its own.
        address: Ray cluster to join; `local` starts one that ends with the study.
        cpus: of a trial, whose commands use so many threads.
        gpus: of a trial.
        max_concurrent: most trials at once; 0 for as many as the cluster holds when the study
            begins. Where it grows with what waits, say how many may be at once; `local` ones that
            it does not hold yet then wait for machines.
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


@dataclass(frozen=True, slots=True)
class Trials:
    """The trials of a study, wherever they run.

    Attributes:
        study: whose.
        out: folder of the study, absolute; shared by all machines.
        resources: what one takes.
        retry_failed: run those again that failed before.
    """

    study: StudyConfig
    out: Path
    resources: TrialResources
    retry_failed: bool = False

    def folder(self, settings: Settings) -> Path:
        """Give the folder of a trial."""
        return self.folder_of(trial_id(self.study, settings))

    def folder_of(self, trial: str) -> Path:
        """Give the folder of a trial, by its name."""
        return self.out / _TRIALS / trial

    def result(self, settings: Settings) -> TrialResult | None:
        """Tell how a trial ended; None where it has not."""
        return load_result(self.folder(settings))

    def ended(self, settings: Settings) -> TrialResult:
        """Tell how a trial ended that was run."""
        lost = f"no {RESULT_FILE}: the trial was lost; run it again"
        return self.result(settings) or TrialResult("failed", None, 0.0, lost)

    def is_due(self, settings: Settings) -> bool:
        """Tell whether a trial is still to be run."""
        result = self.result(settings)
        return result is None or (result.state == "failed" and self.retry_failed)

    def keep_lost(self, tried: Tried) -> None:
        """Write of a trial that ended without a word that it failed."""
        if self.result(tried.settings) is None:
            reason = f"the trial was lost ({tried.error}); retry_failed=true runs it again"
            keep_result(self.folder(tried.settings), TrialResult("failed", None, 0.0, reason))


@contextlib.contextmanager
def on_ray(address: str) -> Generator[None]:
    """Join a Ray cluster, or start one."""
    import ray

    with ray.init(
        address=address,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    ):
        leave_secrets_where_they_are()
        yield


def run_on_tune(trials: Trials, asked: Search, name: str) -> list[Tried]:
    """Have Tune run trials on the cluster that was joined, as many at once as it holds.

    Args:
        trials: of the study.
        asked: which of them.
        name: of Tune's own record of them.

    Raises:
        ConfigError: it does not even hold one.
        KeyboardInterrupt: Tune was told to stop, by Ctrl-C.
    """
    import ray
    from ray import tune

    address = ray.get_runtime_context().gcs_address
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    concurrent = max_concurrent(trials.resources, machines)
    # A trial whose ranks are Ray workers of their own must leave them all of the room: with a
    # hundredth of a core for itself they would wait for ever where they need every core.
    is_local = trials.resources.name == "local"
    resources: dict[str, float] = (
        {"CPU": trials.resources.cpus, "GPU": trials.resources.gpus}
        if is_local
        else {"CPU": 0.0, "memory": 1.0}
    )
    trainable = tune.with_resources(
        tune.with_parameters(_trial, trials=trials, address=address, where=str(Path.cwd())),
        resources,
    )
    tuner = tune.Tuner(
        trainable,
        param_space=asked.space,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode=trials.study.figure.mode,
            search_alg=asked.searcher,
            scheduler=scheduler(trials.study),
            num_samples=asked.num_samples,
            max_concurrent_trials=concurrent,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(trials.out / "tune"),
            verbose=1,
            callbacks=[keeper_of_stopped(trials.study, trials.folder)],
        ),
    )
    with _interruptible():
        found = tuner.fit()
    tried = [
        Tried(settings_of(trials.study, each.config or {}), _last_line(each.error))
        for each in found
    ]
    if any(not each.error and trials.result(each.settings) is None for each in tried):
        raise KeyboardInterrupt
    return tried


@contextlib.contextmanager
def _interruptible() -> Generator[None]:
    """Raise a Ctrl-C that Tune takes for the end, and have later ones do what they did before.

    Tune answers it in its own way, tells of it in its log alone, and leaves its answer in place
    until it has heard of one: the next would be taken by a search that is over, and lost. Whether
    it has heard of one no trial tells, if it came between two, or after the last.

    Raises:
        KeyboardInterrupt: it has.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    is_heard = False
    try:
        yield
        is_answered = not int(os.environ.get("TUNE_DISABLE_SIGINT_HANDLER", "0"))
        is_heard = is_answered and signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if is_heard:
        raise KeyboardInterrupt


def _last_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines() if error else []
    return lines[-1] if lines else type(error).__name__ if error else ""


def leave_secrets_where_they_are() -> None:
    """Keep Tune from handing this process's AWS keys to its trials.

    It would put them into the trials' runtime environment, which Ray shows on its dashboard and
    writes into its logs. Trials have what their machine has.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE = {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
    }


def _trial(config: dict[str, Any], trials: Trials, address: str, where: str) -> None:
    """Be a trial; runs in a process of Tune's, whose folder is another than the study's."""
    from ray import tune

    settings = settings_of(trials.study, config)
    folder = trials.folder(settings)
    result = load_result(folder)
    if result is None or result.state != "failed" or trials.retry_failed:
        is_local = trials.resources.name == "local"
        ranks = ["runtime=local"] if is_local else ["runtime=ray", f"runtime.address={address}"]
        if Path(where).is_dir():
            os.chdir(where)
        cores = max(1, math.floor(trials.resources.cpus))
        result = run_trial(
            trials.study,
            settings,
            folder,
            ranks,
            lambda figure: tune.report({METRIC: figure}),
            cores,
        )
    if result.state == "failed":
        raise StudyFailedError(result.reason)  # Tune takes a trial that tells nothing for a fault


def max_concurrent(trial: TrialResources, machines: Sequence[Mapping[str, float]]) -> int:
    """Tell how many trials to begin at once: what the cluster holds, or what is asked for.

    A `local` trial is on one machine, whatever the others have, and waits for it whole. The ranks
    of a `ray` one may be spread, and what is begun beyond the cluster would wait for its ranks
    until it is given up. The study's own cluster, of address `local`, does not grow.

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
    may_grow = trial.address != "local"
    if trial.max_concurrent and may_grow and (trial.name == "local" or fit < 1):
        return trial.max_concurrent
    if fit < 1:
        told = _told(in_all)
        if trial.name == "local" and len(machines) > 1:
            told += f" on {len(machines)} machines, and none of them holds one trial ("
            told += "; ".join(sorted({_told(each) for each in machines})) + ")"
        raise ConfigError(
            f"trial.cpus={trial.cpus:g}, trial.gpus={trial.gpus:g}: the cluster has {told}; ask "
            f"for less{', or, where it grows, say trial.max_concurrent=N' if may_grow else ''}"
        )
    return min(fit, trial.max_concurrent) if trial.max_concurrent else fit


def _held_by(place: Mapping[str, float], needs: Mapping[str, float]) -> int:
    return min(
        math.floor(place.get(name, 0.0) / amount) for name, amount in needs.items() if amount > 0
    )


def _told(has: Mapping[str, float]) -> str:
    return ", ".join(f"{has.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
