"""What does Ray Tune know of a study? Space, searcher, scheduler; and what it ended early."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.compose import ConfigError
from cluster.parameter import Parameter, Settings, spread
from cluster.study import StudyConfig, choices_of, points, trial_id
from cluster.trial import TrialResult, keep_result, load_result

# The name of a trial's figure, as Tune has it.
METRIC = "figure"
_POINT = "point"


@dataclass(frozen=True, slots=True)
class Search:
    """What Tune is asked to run.

    Attributes:
        space: Tune's.
        searcher: Tune's; None for its own.
        num_samples: how many to take of the space.
    """

    space: dict[str, Any]
    searcher: Any
    num_samples: int


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial that Tune has run.

    Attributes:
        settings: its own.
        error: what ended it, as Tune has it; "" for nothing.
    """

    settings: dict[str, Any]
    error: str


def search(study: StudyConfig) -> Search:
    """Give what Tune is to search.

    Raises:
        ConfigError: the searcher is not installed.
    """
    if study.search != "optuna":
        return given(study, list(points(study)))
    try:
        from optuna.samplers import TPESampler
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise ConfigError(
            "study.search=optuna: optuna is not installed; pip install 'picpoint[tune]'"
        ) from error
    space = {parameter.key: _domain(parameter) for parameter in choices_of(study)}
    return Search(space, OptunaSearch(sampler=TPESampler(seed=study.seed)), study.num_trials)


def given(study: StudyConfig, settings: Sequence[Settings]) -> Search:
    """Have Tune run trials that are known beforehand, each once."""
    from ray import tune

    unique = {trial_id(study, each): dict(each) for each in settings}
    return Search({_POINT: tune.grid_search(list(unique.values()))}, None, 1)


def _domain(parameter: Parameter) -> Any:  # noqa: ANN401 - of Ray
    from ray import tune

    if parameter.values:
        return tune.choice(parameter.values)
    low, high = parameter.bounds
    if isinstance(low, int) and isinstance(high, int):
        draw = tune.lograndint if parameter.log else tune.randint
        return draw(low, high + 1)
    return (tune.loguniform if parameter.log else tune.uniform)(low, high)


def scheduler(study: StudyConfig) -> Any:  # noqa: ANN401 - of Ray
    """Give what ends trials early, if the study has it."""
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(max_t=1_000_000) if study.scheduler == "asha" else None


def settings_of(study: StudyConfig, config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings of a trial as Tune has them."""
    if _POINT in config:
        return dict(config[_POINT])
    choices = choices_of(study)
    return spread(choices, [config[each.key] for each in choices])


def keeper_of_stopped(study: StudyConfig, folder_of: Callable[[Settings], Path]) -> Any:  # noqa: ANN401 - of Ray
    """Give what writes, the moment a scheduler ends a trial, that it did.

    The trial cannot do it: its process is killed, and may be before it knows. Without a result it
    would be trained further by the next call of the study.

    Args:
        study: whose trials they are.
        folder_of: the folder of a trial, by its settings.
    """
    from ray import tune

    class Keeper(tune.Callback):
        def on_trial_complete(  # pyright: ignore[reportIncompatibleMethodOverride]
            self,
            iteration: int,
            trials: list[Any],
            trial: Any,  # noqa: ANN401 - of Ray
            **info: object,
        ) -> None:
            folder = folder_of(settings_of(study, trial.config))
            told = trial.last_result
            if METRIC in told and load_result(folder) is None:
                seconds = float(told["time_total_s"])
                keep_result(folder, TrialResult("stopped", float(told[METRIC]), seconds))

    return Keeper()
