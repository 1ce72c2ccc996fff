"""Is a study well-formed? Found out before its first trial, and not in every one."""

from collections import Counter
from collections.abc import Iterator

from cluster.app import load_command
from cluster.compose import ConfigError, compose_config
from cluster.parameter import Settings, spread
from cluster.study import VARIANT, StudyConfig, choices_of, commands_of


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
    for settings in _some_trials(study):
        for command, *overrides in commands_of(study, settings, "/trial"):
            try:
                load_command(command, compose_config(command.replace("-", "_"), overrides))
            except ConfigError as error:
                raise ConfigError(f"study {study.name}, picpoint {command}: {error}") from error


def _check_once(what: str, names: list[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{what} {twice[0]} stands there twice; leave one out")


def _some_trials(study: StudyConfig) -> Iterator[Settings]:
    """Give settings of trials: the first, and of a grid and of variants each value in its place.

    Of another search it is not known which values come together.
    """
    choices = choices_of(study)
    first = [(each.values or each.bounds)[0] for each in choices]
    yield spread(choices, first)
    for place, each in enumerate(choices):
        if study.search == "grid" or each.key == VARIANT:
            for value in each.values[1:]:
                yield spread(choices, [*first[:place], value, *first[place + 1 :]])
