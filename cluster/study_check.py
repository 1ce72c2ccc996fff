"""Is a study well-formed? Found out before its first trial, and not in every one."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from cluster.app import load_command
from cluster.compose import ConfigError, compose_config
from cluster.parameter import Settings, draw, spread
from cluster.study import VARIANT, StudyConfig, choices_of, commands_of

# Of a search whose trials are not known: draws, of which one must be such as can be run.
_MOST_DRAWS = 8


def check_study(study: StudyConfig) -> None:
    """Make sure that no setting of a study is lost to another, and that its commands can be read.

    A finished study of an earlier version, which was not checked, can still be shown.

    Raises:
        ConfigError: something stands twice, or a command has a wrong key or value.
    """
    _check_once("study.variants: the name", [each.name for each in study.variants])
    keys = [key for parameter in study.parameters for key in parameter.keys]
    _check_once("study.parameters:", keys)
    for parameter in study.parameters:
        values = [repr(value) for value in parameter.values]
        _check_once(f"study.parameters: {parameter.key} has values, of which", values)
    fixed = [("study.more", override) for override in study.more]
    fixed += [
        (f"variant {each.name!r}", override)
        for each in study.variants
        for override in each.overrides
    ]
    for where, override in fixed:
        if (key := override.partition("=")[0]) in keys:
            raise ConfigError(
                f"{where}: {override} would be lost, because {key} is one of study.parameters; "
                "set its values there"
            )
    for likely in _some_trials(study):
        _check_any(study, likely)


def _check_any(study: StudyConfig, trials: Sequence[Settings]) -> None:
    """Make sure that the commands of one of some trials can be read.

    Raises:
        ConfigError: those of none of them can; it tells of the first.
    """
    refused: ConfigError | None = None
    for settings in trials:
        try:
            _check_commands(study, settings)
        except ConfigError as error:
            refused = refused or error
        else:
            return
    if refused is not None:
        raise refused


def _check_commands(study: StudyConfig, settings: Settings) -> None:
    for command, *overrides in commands_of(study, settings, "/trial"):
        try:
            load_command(command, compose_config(command.replace("-", "_"), overrides))
        except ConfigError as error:
            raise ConfigError(f"study {study.name}, picpoint {command}: {error}") from error


def _check_once(what: str, names: list[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{what} {twice[0]} stands there twice; leave one out")


def _some_trials(study: StudyConfig) -> Iterator[list[Settings]]:
    """Give trials of which one at least must be such as its commands take.

    Of a grid they are known, so each is alone: the first, and each value in its place. Of another
    search it is not known which values come together: some draws, of each variant.
    """
    choices = choices_of(study)
    if study.search == "grid":
        first = [each.values[0] for each in choices]
        yield [spread(choices, first)]
        for place, each in enumerate(choices):
            for value in each.values[1:]:
                yield [spread(choices, [*first[:place], value, *first[place + 1 :]])]
        return
    variants: list[Settings] = [{VARIANT: each.name} for each in study.variants]
    for variant in variants or [{}]:
        dice = np.random.default_rng(study.seed)
        draws = ([draw(each, dice) for each in study.parameters] for _ in range(_MOST_DRAWS))
        yield [{**variant, **spread(study.parameters, values)} for values in draws]
