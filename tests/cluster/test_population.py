"""Who of a population goes on, with which settings, and what a study says of it."""

import contextlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.app import main
from cluster.compose import ConfigError
from cluster.fleet import WorkerDiedError
from cluster.generations import (
    Breeding,
    Member,
    breeding_of,
    first_generation,
    next_generation,
)
from cluster.jobs import tune
from cluster.parameter import Parameter, Settings
from cluster.population import PopulationConfig, choose_parents, perturb
from cluster.population_table import format_population, lineage
from cluster.report_sources import read_study_shown
from cluster.study import Figure, Step, StudyConfig, StudyFailedError, Variant, commands_of
from cluster.study_on_tune import Search, Tried
from cluster.study_table import read_study, write_study
from cluster.trial import TrialResult, keep_result
from cluster.trial_row import TrialRow
from cluster.trials_on_ray import Trials
from picpoint.report.studies import study_sections

LR = Parameter("pretrain.optim.lr", low=1e-4, high=1e-2, log=True)
TEMPERATURE = Parameter("pretrain.loss.temperature", (0.05, 0.1, 0.2))


def dice(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, place]) for place in range(count)]


def parents(
    figures: Sequence[float | None], quantile: float = 0.25, mode: str = "max", seed: int = 0
) -> list[int]:
    return choose_parents(figures, mode, quantile, dice(len(figures), seed))  # pyright: ignore


def study(**changes: object) -> StudyConfig:
    settings: dict[str, object] = {
        "name": "s",
        "question": "Q?",
        "parameters": (LR, TEMPERATURE),
        "steps": (Step("pretrain", ("data.shards=s", "out={trial}/run", "epochs=6")),),
        "figure": Figure("{trial}/run/probes.jsonl", "accuracy", "max", "accuracy"),
        "search": "random",
        "scheduler": "population",
        "population": PopulationConfig(size=4, generations=3),
    }
    return StudyConfig(**(settings | changes))  # pyright: ignore


def test_the_worst_go_on_from_the_best_and_the_others_from_themselves() -> None:
    assert parents([0.4, 0.1, 0.9, 0.5]) == [0, 2, 2, 3]
    assert parents([0.4, 0.1, 0.9, 0.5], mode="min") == [0, 1, 1, 3]
    # Two of eight, by the two best; which of these is drawn, the same each time.
    figures = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    drawn = {tuple(parents(figures, seed=seed)) for seed in range(20)}
    assert {each[2:] for each in drawn} == {(2, 3, 4, 5, 6, 7)}
    assert {each[0] for each in drawn} == {each[1] for each in drawn} == {6, 7}
    assert parents(figures, seed=3) == parents(figures, seed=3)


def test_nobody_gives_way_to_one_that_is_not_better() -> None:
    assert parents([0.5, 0.5, 0.5, 0.5]) == [0, 1, 2, 3]
    # The best two are alike: the lower place is first.
    assert parents([0.1, 0.9, 0.9, 0.5]) == [1, 1, 2, 3]
    # As bad as each other: the higher place counts as worse.
    assert parents([0.1, 0.1, 0.9, 0.5]) == [0, 2, 2, 3]


@pytest.mark.parametrize("lost", [None, math.nan, math.inf, -math.inf])
def test_who_failed_or_has_no_number_is_replaced_however_many_they_are(lost: float | None) -> None:
    assert parents([lost, 0.1, 0.9, 0.5]) == [2, 1, 2, 3]
    assert parents([lost, 0.1, 0.9, lost]) == [2, 1, 2, 2]
    assert parents([lost, lost, 0.3, lost], mode="min") == [2, 2, 2, 2]
    assert parents([lost, lost, lost, lost]) == []


@given(
    st.lists(st.none() | st.floats(width=16), min_size=2, max_size=12),
    st.floats(0.01, 0.5),
    st.sampled_from(["max", "min"]),
)
def test_every_parent_is_alive_and_the_best_goes_on(
    figures: list[float | None], quantile: float, mode: str
) -> None:
    chosen = parents(figures, quantile, mode)
    alive = [p for p, each in enumerate(figures) if each is not None and math.isfinite(each)]
    assert len(chosen) == (len(figures) if alive else 0)
    assert set(chosen) <= set(alive)
    for place, parent in enumerate(chosen):
        if parent != place and place in alive:
            assert (figures[parent] > figures[place]) == (mode == "max")  # pyright: ignore
            assert figures[parent] != figures[place]
    if alive:
        best = (max if mode == "max" else min)(alive, key=lambda p: figures[p] or 0.0)
        assert chosen[best] == best
        at_most = min(math.ceil(len(figures) * quantile), len(figures) // 2)
        assert sum(chosen[p] != p for p in alive) <= at_most


def test_settings_move_by_a_factor_within_their_range() -> None:
    config = PopulationConfig(factors=(0.5, 2.0), resample=0.0)
    whole = Parameter("pretrain.data.augment.shift", low=1, high=8)
    at = {"pretrain.optim.lr": 1e-3, "pretrain.loss.temperature": 0.1, whole.key: 3}
    moved = [perturb(at, [LR, TEMPERATURE, whole], config, each) for each in dice(60)]
    assert {each["pretrain.optim.lr"] for each in moved} == {5e-4, 2e-3}
    assert {each["pretrain.loss.temperature"] for each in moved} == {0.05, 0.2}
    assert {each[whole.key] for each in moved} == {2, 6}
    at = {"pretrain.optim.lr": 8e-3, "pretrain.loss.temperature": 0.05}
    moved = [perturb(at, [LR, TEMPERATURE], config, each) for each in dice(60)]
    assert {each["pretrain.optim.lr"] for each in moved} == {4e-3, 1e-2}
    assert {each["pretrain.loss.temperature"] for each in moved} == {0.05, 0.1}


def test_settings_are_drawn_anew_as_often_as_is_said() -> None:
    at = {"pretrain.optim.lr": 1e-3}
    anew = [
        perturb(at, [LR], PopulationConfig(resample=0.3), each)["pretrain.optim.lr"]
        not in (8e-4, 1.25e-3)
        for each in dice(1000)
    ]
    assert np.mean(anew) == pytest.approx(0.3, abs=0.06)  # four deviations of 1,000 draws


def test_keys_of_one_value_move_together() -> None:
    both = Parameter("pretrain.optim.lr, pretrain.optim.min_lr", low=1e-4, high=1e-2)
    at = {"pretrain.optim.lr": 1e-3, "pretrain.optim.min_lr": 1e-3}
    moved = perturb(at, [both], PopulationConfig(), dice(1)[0])
    assert len(set(moved.values())) == 1
    assert moved.keys() == at.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": "grid"}, "values are needed|search=random"),
        ({"search": "optuna"}, "no search=optuna does; set study.search=random"),
        (
            {"parameters": (LR, Parameter("pretrain.seed, pretrain.data.views", (1, 2)))},
            r"pretrain\.seed, pretrain\.data\.views cannot change.*pretrain\.optim\.lr",
        ),
        (
            {"parameters": (Parameter("pretrain.loss.local_weight", low=0, high=2),)},
            r"local_weight has low: 0 and high: 2, whole.*write 0\.0 and 2\.0",
        ),
        ({"repeats": (LR.key,)}, "neither variants nor repeats"),
        ({"variants": (Variant("a", ("pretrain.optim.lr=1",)),)}, "neither variants nor repeats"),
        ({"steps": (Step("probe"), Step("pretrain"))}, "first command must be pretrain"),
    ],
)
def test_a_population_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 1}, "at least 2"),
        ({"generations": 1}, "at least 2"),
        ({"quantile": 0.6}, "at most 0.5"),
        ({"factors": ()}, "other than 1"),
        ({"factors": (1.0,)}, "other than 1"),
        ({"factors": (0.8, -1.0)}, "other than 1"),
        ({"resample": 1.5}, "a probability"),
    ],
)
def test_a_population_of_wrong_numbers_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PopulationConfig(**changes)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("pretrain.epochs=2",), r"epochs=2: fewer than study\.population\.generations=3"),
        (("pretrain.resume=elsewhere",), "says itself where its members begin"),
        (("pretrain.pause_after=2",), "says itself where its members begin"),
        (("pretrain.resume_changes=[optim.lr]",), r"says itself what .* \(optim\.lr, loss\.temp"),
        (("pretrain.out=elsewhere",), "looked for in its trial's folder"),
        (("pretrain.checkpoints=elsewhere",), "looked for in its trial's folder"),
        (("pretrain.loss.learn_temperature=true",), "not looked at again"),
        (("pretrain.optm.lr=1",), r"optim\.lr"),
        (("pretrain.optim.min_lr=1",), "not above optim.lr"),
    ],
)
def test_what_would_fail_in_every_member_is_told_before_any_is_trained(
    more: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        breeding_of(study(more=more))


def test_what_only_a_later_member_could_come_to_have_is_refused_before_any_is_trained() -> None:
    """The first four draw rates above 2e-4; one of their children could not be trained."""
    told = study(more=("pretrain.optim.min_lr=2e-4",))
    drawn = [float(each.settings["pretrain.optim.lr"]) for each in first_generation(told)]
    assert min(drawn) > 2e-4
    with pytest.raises(
        ConfigError, match=r"may come .*optim\.min_lr=0\.0002.*optim\.lr=0\.0001.*nar"
    ):
        breeding_of(told)
    assert breeding_of(study(more=("pretrain.optim.min_lr=1e-4",))).epochs == 6
    # Two that vary are each well with the other as it is first drawn, and not at their ends.
    lowest = Parameter("pretrain.optim.min_lr", (1e-6, 2e-4))
    weight = Parameter("pretrain.loss.local_weight", (0.5, 1.0))
    both = study(parameters=(weight, LR, lowest), seed=1)
    first = first_generation(both)[0].settings
    assert float(first["pretrain.optim.lr"]) > 2e-4 > float(first["pretrain.optim.min_lr"])
    with pytest.raises(ConfigError, match=r"optim\.min_lr=0\.0002.*optim\.lr=0\.0001"):
        breeding_of(both)
    scale = Parameter("pretrain.data.augment.scale_min", (0.5, 0.9, 1.3))
    with pytest.raises(ConfigError, match=r"scale_min=1\.3, data\.augment\.scale_max=1\.2"):
        breeding_of(study(parameters=(LR, scale)))


def figures_of(members: Sequence[Member]) -> list[float]:
    """Made up: the higher the rate the better."""
    return [float(member.settings["pretrain.optim.lr"]) for member in members]


def grown(breeding: Breeding) -> list[list[Member]]:
    generations = [first_generation(breeding.study)]
    for _ in range(breeding.study.population.generations - 1):
        generations.append(next_generation(breeding, generations[-1], figures_of(generations[-1])))
    return generations


def test_generations_follow_from_the_study_and_the_figures_alone() -> None:
    breeding = breeding_of(study())
    generations = grown(breeding)
    assert generations == grown(breeding_of(study()))
    assert generations != grown(breeding_of(study(seed=1)))
    names = [breeding.trial_of(member) for members in generations for member in members]
    assert len(set(names)) == len(names) == 12
    for before, members in itertools.pairwise(generations):
        assert {each.parent for each in members} <= {breeding.trial_of(each) for each in before}
    # Other figures, other parents, other names.
    (first, *_) = generations
    other = next_generation(breeding, first, [-figure for figure in figures_of(first)])
    assert {breeding.trial_of(each) for each in other}.isdisjoint(
        breeding.trial_of(each) for each in generations[1] if each not in other
    )


def test_no_member_of_a_generation_is_there_twice_while_there_are_others() -> None:
    few = study(
        parameters=(Parameter("pretrain.loss.temperature", (0.05, 0.1, 0.2, 0.3)),),
        population=PopulationConfig(size=4, generations=2, quantile=0.5, resample=0.0),
    )
    first = first_generation(few)
    assert sorted(float(each.settings["pretrain.loss.temperature"]) for each in first) == [
        *(0.05, 0.1, 0.2, 0.3),
    ]
    breeding = breeding_of(few)
    following = next_generation(breeding, first, [None, None, 0.5, None])
    # Three children of one parent, of which only two neighbours are to be had.
    assert len({breeding.trial_of(each) for each in following}) == 3


def test_members_pause_at_their_generation_s_end_and_begin_at_their_parent_s() -> None:
    breeding = breeding_of(study(more=("pretrain.epochs=8",)))
    first, second, third = grown(breeding)
    ends = [
        breeding.settings_of(each[0])["pretrain.pause_after"] for each in (first, second, third)
    ]
    assert ends == [2, 5, 8]
    (command,) = commands_of(breeding.study, breeding.settings_of(second[0]), "/out/trials/mine")
    assert f"resume=/out/trials/mine/../{second[0].parent}/run" in command
    assert "resume_changes=[optim.lr,loss.temperature]" in command
    (command,) = commands_of(breeding.study, breeding.settings_of(first[0]), "/out/trials/mine")
    assert not any(word.startswith("resume=") for word in command)


def recorded() -> list[TrialRow]:
    """Three generations of four, of which one member failed."""
    breeding, rows = breeding_of(study()), []
    members = first_generation(breeding.study)
    for generation in (1, 2, 3):
        figures: list[float | None] = list(figures_of(members))
        if generation == 2:
            figures[3] = None
        for member, figure in zip(members, figures, strict=True):
            state, reason = ("failed", "why") if figure is None else ("done", "")
            result = TrialResult(state, figure, 1.0, reason)  # pyright: ignore
            name = breeding.trial_of(member)
            rows.append(TrialRow(name, member.settings, result, generation, member.parent))
        members = next_generation(breeding, members, figures)
    return rows


def test_the_record_tells_of_the_best_and_its_line(tmp_path: Path) -> None:
    rows = recorded()
    line = lineage(study(), rows)
    assert [row.generation for row in line] == [1, 2, 3]
    assert [row.parent for row in line] == ["", line[0].trial, line[1].trial]
    assert line[-1].result.figure == max(row.result.figure or 0 for row in rows[8:])
    table = format_population(study(), rows)
    assert "3 of 3 generations of 4: 12 trainings, 1 of them failed." in table
    assert f"Best of generation 3: {line[-1].trial}" in table
    assert len([text for text in table.splitlines() if text.startswith("| ")]) == 2 + 3 + 12
    assert "| failed |" in table
    write_study(study(), rows, tmp_path, {"commit": "c"})
    assert read_study(tmp_path).trials == tuple(rows)
    assert [row.done for row in read_study(tmp_path).table] == [1, 1, 1, 1]
    assert (tmp_path / "study.svg").read_text().startswith("<?xml")
    whole = [row for row in rows if row.generation < 3]
    nobody = [TrialRow("x", {}, TrialResult("failed", None, 1.0, "why"), 3, rows[0].trial)]
    assert lineage(study(), [*whole, *nobody]) == []
    lost = [TrialRow("x", rows[0].settings, nobody[0].result, 3, rows[0].trial)]
    assert "All members of generation 3 failed." in format_population(study(), [*whole, *lost])


def test_the_report_shows_generations_lines_and_failures(tmp_path: Path) -> None:
    write_study(study(), recorded(), tmp_path, {"commit": "c"})
    (section,) = study_sections([read_study_shown(tmp_path)])
    chart, line, everyone, failures = section.blocks
    assert "12 trials" in section.lead
    assert "in 3 generations" in section.lead
    assert [len(drawn.dots) for drawn in chart.series] == [11, 0]  # pyright: ignore
    assert len(chart.series[1].means) == 3  # pyright: ignore
    assert [row.cells[0].text for row in line.rows] == ["1", "2", "3"]  # pyright: ignore
    assert len(everyone.rows) == 12  # pyright: ignore
    assert len(failures.rows) == 1  # pyright: ignore
    # One that is not finished is shown as far as it came; one that failed whole, too.
    rows = [row for row in recorded() if row.generation == 1]
    write_study(study(), rows, tmp_path, {"commit": "c"})
    assert "in 1 generations" in study_sections([read_study_shown(tmp_path)])[0].lead
    failed = TrialResult("failed", None, 1.0, "why")
    rows = [TrialRow(row.trial, row.settings, failed, 1) for row in rows]
    write_study(study(), rows, tmp_path, {"commit": "c"})
    (section,) = study_sections([read_study_shown(tmp_path)])
    assert len(section.blocks) == 2


def test_a_dry_run_tells_how_far_a_population_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", "study=learning_rate_population", "shards=s", f"out={tmp_path}", "--dry-run"]
    command += ["study.population.size=3", "study.population.generations=4"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "a population of 3 in 4 generations, 0 of them finished" in told
    assert "after 25, 50, 75, 100 epochs, and of each the worst 1 give way to the best 1" in told
    assert "resume_changes=[optim.lr,loss.temperature]" in told


def test_a_study_whose_members_all_failed_says_how_they_are_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was wrong is mended outside; the study keeps who failed."""
    job = tune.TuneJob(study=study(), out=str(tmp_path))
    monkeypatch.setattr(tune, "on_ray", lambda address: contextlib.nullcontext())
    monkeypatch.setattr(tune, "run_on_tune", lambda trials, asked, name: [])
    for member in first_generation(breeding_of(job.study).study):
        settings = breeding_of(job.study).settings_of(member)
        folder = Trials(breeding_of(job.study).study, tmp_path, job.trial).folder(settings)
        folder.mkdir(parents=True)
        keep_result(folder, TrialResult("failed", None, 1.0, "s: no such folder"))
    with pytest.raises(StudyFailedError, match=r"generation 1.*no such folder.*retry_failed=true"):
        tune.run(job)


@pytest.mark.parametrize(
    ("losses", "begun", "state"), [(1, 2, "done"), (3, 4, "done"), (9, 4, "failed")]
)
def test_a_member_that_is_lost_is_run_again_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: int, begun: int, state: str
) -> None:
    job = tune.TuneJob(study=study(), out=str(tmp_path))
    (first, *_) = first_generation(job.study)
    runs: list[list[Settings]] = []

    def run(trials: Trials, asked: Search, name: str) -> list[Tried]:
        """Train all but the first member, which is lost so many times."""
        waiting = asked.space["point"]["grid_search"]
        for settings in waiting:
            is_first = (
                settings["pretrain.pause_after"] == 2 and settings.items() >= first.settings.items()
            )
            if not (is_first and len(runs) < losses):
                trials.folder(settings).mkdir(parents=True)
                keep_result(trials.folder(settings), TrialResult("done", 0.5, 1.0))
        runs.append(waiting)
        return [Tried(settings, "its node died") for settings in waiting]

    monkeypatch.setattr(tune, "on_ray", lambda address: contextlib.nullcontext())
    monkeypatch.setattr(tune, "run_on_tune", run)
    tune.run(job)
    row = read_study(tmp_path).trials[0]
    assert row.settings == first.settings
    assert row.result.state == state
    assert "its node died" in row.result.reason or state == "done"
    # Those that were not lost are run once.
    assert [len(waiting) for waiting in runs[:begun]] == [4] + [1] * (begun - 1)


def test_a_cluster_without_room_is_a_wrong_setting_at_first_and_a_loss_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tune.TuneJob(study=study(), out=str(tmp_path))
    had_room = True

    def run(trials: Trials, asked: Search, name: str) -> list[Tried]:
        nonlocal had_room
        if not had_room:
            raise ConfigError("ask for less")
        had_room = False
        return [
            Tried(settings, "its node died") for settings in asked.space["point"]["grid_search"]
        ]

    monkeypatch.setattr(tune, "on_ray", lambda address: contextlib.nullcontext())
    monkeypatch.setattr(tune, "run_on_tune", run)
    with pytest.raises(WorkerDiedError, match=r"lost with their machine.*ask for less"):
        tune.run(job)
    with pytest.raises(ConfigError, match=r"^ask for less"):
        tune.run(job)
