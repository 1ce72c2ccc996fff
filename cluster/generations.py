"""Which trials is a generation of a population? Each a member, told by its settings and its parent.

A member is a trial as others are: its settings are those that vary, and two more, where it begins
(the run of its parent) and where it pauses. So it is named by the hash of its settings, of its
parent's name and of the commands: who begins the study again finds it, and the same member is
trained once.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from cluster.compose import ConfigError, compose_config, load_job
from cluster.jobs.pretrain import PretrainJob
from cluster.parameter import Settings, Value, draw, spread
from cluster.population import choose_parents, perturb
from cluster.study import TRIAL, StudyConfig, commands_of, trial_id

# Draws of a member that shall not be one that is there already; then it is, and is trained once.
_MOST_DRAWS = 100


@dataclass(frozen=True, slots=True)
class Member:
    """One of a generation.

    Attributes:
        generation: from 1.
        settings: what varies.
        parent: name of the trial whose checkpoint it begins from; "" in the first generation.
    """

    generation: int
    settings: dict[str, Value]
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Breeding:
    """What the generations of a study have in common.

    Attributes:
        study: with what all members are told besides.
        epochs: of all generations together.
        run: folder of the pre-training run, in the folder of a trial.
    """

    study: StudyConfig
    epochs: int
    run: str

    def last_epoch(self, generation: int) -> int:
        """Tell how many epochs are over at the end of a generation."""
        return self.epochs * generation // self.study.population.generations

    def settings_of(self, member: Member) -> Settings:
        """Give the settings of a member's trial."""
        settings = member.settings | {"pretrain.pause_after": self.last_epoch(member.generation)}
        if member.parent:
            settings["pretrain.resume"] = f"{TRIAL}/../{member.parent}/{self.run}"
        return settings

    def trial_of(self, member: Member) -> str:
        """Name a member's trial."""
        return trial_id(self.study, self.settings_of(member))


def breeding_of(study: StudyConfig) -> Breeding:
    """Find out how a study's members are trained; all that they can come to have is checked.

    Raises:
        ConfigError: their settings are wrong, or may come to be, or are such that no member can go
            on from another.
    """
    changes = [key.removeprefix("pretrain.") for each in study.parameters for key in each.keys]
    trial = Path("/trial")
    (_, *overrides), *_ = commands_of(study, first_generation(study)[0].settings, str(trial))
    config = compose_config("pretrain", overrides)
    if config.resume_changes:
        raise ConfigError(
            f"pretrain.resume_changes=[{','.join(config.resume_changes)}]: a population says "
            f"itself what changes where a member goes on ({', '.join(changes)}); leave it out"
        )
    config.resume_changes = changes
    job = load_job(PretrainJob, config)
    if job.resume_from != "auto" or job.pause_after:
        raise ConfigError(
            f"pretrain.resume={job.resume}, pretrain.pause_after={job.pause_after}: a population "
            "says itself where its members begin and pause; leave them out"
        )
    if job.checkpoints or not Path(job.out).is_relative_to(trial) or Path(job.out) == trial:
        raise ConfigError(
            f"pretrain.out={job.out}, pretrain.checkpoints={job.checkpoints!r}: a member of a "
            f"population is looked for in its trial's folder; set out={TRIAL}/pretrain alone"
        )
    if job.epochs < study.population.generations:
        raise ConfigError(
            f"pretrain.epochs={job.epochs}: fewer than study.population.generations="
            f"{study.population.generations}, of which each trains for one epoch at least"
        )
    _check_reachable(study, config)
    told = f"pretrain.resume_changes=[{','.join(changes)}]"
    told_study = dataclasses.replace(study, more=(*study.more, told))
    return Breeding(told_study, job.epochs, str(Path(job.out).relative_to(trial)))


def _check_reachable(study: StudyConfig, config: DictConfig) -> None:
    """Make sure that pre-training takes whatever a member may come to have.

    Its rules for what can change bind two settings at most, as a rate and where its cosine ends;
    so they are kept everywhere if they are at the ends of every two ranges.

    Args:
        study: what varies, and in which ranges.
        config: of one member's pre-training.

    Raises:
        ConfigError: it does not take all of it.
    """
    parameters = study.parameters
    for some in itertools.combinations(parameters, min(2, len(parameters))):
        for values in itertools.product(*(each.values or each.bounds for each in some)):
            reached = config.copy()
            for key, value in spread(some, values).items():
                OmegaConf.update(reached, key.removeprefix("pretrain."), value)
            try:
                load_job(PretrainJob, reached)
            except ConfigError as error:
                raise ConfigError(
                    "study.parameters: a member of the population may come to have what pretrain "
                    f"refuses, and would fail: {error}; narrow its range, or set the other one"
                ) from error


def first_generation(study: StudyConfig) -> list[Member]:
    """Draw a population; the same study draws the same one."""
    members: list[Member] = []
    for place in range(study.population.size):
        dice = _dice(study, 1, place)
        member = _drawn(study, dice)
        for _ in range(_MOST_DRAWS):
            if member not in members:
                break
            member = _drawn(study, dice)
        members.append(member)
    return members


def _drawn(study: StudyConfig, dice: np.random.Generator) -> Member:
    values = [draw(parameter, dice) for parameter in study.parameters]
    return Member(1, spread(study.parameters, values))


def next_generation(
    breeding: Breeding, members: Sequence[Member], figures: Sequence[float | None]
) -> list[Member]:
    """Tell who follows on a generation, place by place; nobody where all have failed.

    Args:
        breeding: of the study.
        members: of the generation.
        figures: of each; None where it failed.
    """
    study, generation = breeding.study, members[0].generation + 1
    dice = [_dice(study, generation, place) for place in range(len(members))]
    parents = choose_parents(figures, study.figure.mode, study.population.quantile, dice)
    names = [breeding.trial_of(member) for member in members]
    following = [
        Member(generation, members[parent].settings, names[parent])
        if parent == place
        else _child(breeding, members[parent], dice[place])
        for place, parent in enumerate(parents)
    ]
    for place, parent in enumerate(parents):
        others = following[:place] + following[place + 1 :]
        for _ in range(_MOST_DRAWS):
            if parent == place or following[place] not in others:
                break
            following[place] = _child(breeding, members[parent], dice[place])
    return following


def _child(breeding: Breeding, parent: Member, dice: np.random.Generator) -> Member:
    study = breeding.study
    settings = perturb(parent.settings, study.parameters, study.population, dice)
    return Member(parent.generation + 1, settings, breeding.trial_of(parent))


def _dice(study: StudyConfig, generation: int, place: int) -> np.random.Generator:
    return np.random.default_rng([study.seed, generation, place])
