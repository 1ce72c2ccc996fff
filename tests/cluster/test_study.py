"""Which trials a study has, what each runs, and what its table says."""

import json
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.app import main
from cluster.compose import ConfigError, compose_config, load_job
from cluster.jobs import tune
from cluster.jobs.tune import TuneJob
from cluster.parameter import Parameter
from cluster.study import (
    Figure,
    Step,
    StudyConfig,
    Variant,
    commands_of,
    points,
    read_figure,
    trial_id,
)
from cluster.study_check import check_study
from cluster.study_table import format_table, tabulate, write_study
from cluster.trial import TrialResult
from cluster.trial_row import TrialRow
from cluster.trials_on_ray import TrialResources, max_concurrent

SHIPPED = sorted(path.stem for path in Path("configs/study").glob("*.yaml"))
FIGURE = Figure("{trial}/figures.jsonl", "a.b", "max", "accuracy")


def study(**changes: object) -> StudyConfig:
    settings: dict[str, object] = {
        "name": "s",
        "question": "Q?",
        "parameters": (
            Parameter("pretrain.data.views", (5, 10)),
            Parameter("pretrain.seed", (0, 1, 2)),
        ),
        "steps": (Step("pretrain", ("out={trial}/run", "epochs=1")), Step("probe", ("out=x",))),
        "figure": FIGURE,
        "repeats": ("pretrain.seed",),
    }
    return StudyConfig(**(settings | changes))  # pyright: ignore


def test_a_grid_has_every_combination_once() -> None:
    found = [(p["pretrain.data.views"], p["pretrain.seed"]) for p in points(study())]
    assert found == [(v, s) for v in (5, 10) for s in (0, 1, 2)]


def test_several_keys_may_take_one_value() -> None:
    both = study(parameters=(Parameter("pretrain.seed, probe.seed", (3, 4)),), repeats=())
    assert list(points(both)) == [
        {"pretrain.seed": 3, "probe.seed": 3},
        {"pretrain.seed": 4, "probe.seed": 4},
    ]


def test_variants_are_whole_changes_by_name() -> None:
    varied = study(
        variants=(
            Variant("full"),
            Variant("bare", ("pretrain.loss.local_weight=0", "probe.seed=7")),
        ),
        parameters=(Parameter("pretrain.seed", (0,)),),
    )
    full, bare = points(varied)
    assert commands_of(varied, full, "t") == [
        ["pretrain", "out=t/run", "epochs=1", "seed=0"],
        ["probe", "out=x"],
    ]
    assert commands_of(varied, bare, "t") == [
        ["pretrain", "out=t/run", "epochs=1", "loss.local_weight=0", "seed=0"],
        ["probe", "out=x", "seed=7"],
    ]
    assert trial_id(varied, full) != trial_id(varied, bare)


def test_what_varies_wins_over_what_is_fixed_and_odd_texts_are_quoted() -> None:
    given_values = (Parameter("pretrain.epochs", (9,)), Parameter("probe.weights", ("a (b)", "")))
    odd = study(parameters=given_values, repeats=())
    first, second = points(odd)
    assert commands_of(odd, first, "t")[0][-1] == "epochs=9"
    assert commands_of(odd, first, "t")[1][-1] == 'weights="a (b)"'
    assert commands_of(odd, second, "t")[1][-1] == "weights="
    job = compose_config("probe", ["data.shards=s", "out=o", commands_of(odd, first, "t")[1][-1]])
    assert job.weights == "a (b)"


def test_a_trial_is_named_by_all_that_decides_it_and_by_nothing_else() -> None:
    (first, *others) = points(study())
    names = {trial_id(study(), settings) for settings in points(study())}
    assert len(names) == 6
    assert trial_id(study(), dict(reversed(first.items()))) == trial_id(study(), first)
    assert trial_id(study(name="other", question="?", seed=3), first) == trial_id(study(), first)
    assert trial_id(study(more=("pretrain.epochs=2",)), first) not in names
    assert trial_id(study(), others[0]) != trial_id(study(), first)


@given(st.integers(0, 10_000))
def test_random_trials_lie_in_their_ranges_and_are_the_same_again(seed: int) -> None:
    drawn = study(
        parameters=(
            Parameter("pretrain.optim.lr", low=1e-4, high=1e-2, log=True),
            Parameter("pretrain.data.views", low=3, high=9),
            Parameter("pretrain.point_encoder", ("dgcnn", "pointnext_s")),
        ),
        repeats=(),
        search="random",
        num_trials=5,
        seed=seed,
    )
    found = list(points(drawn))
    assert found == list(points(drawn))
    for settings in found:
        assert 1e-4 <= float(settings["pretrain.optim.lr"]) <= 1e-2
        assert settings["pretrain.data.views"] in range(3, 10)
        assert settings["pretrain.point_encoder"] in ("dgcnn", "pointnext_s")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": (), "repeats": ()}, "at least one parameter"),
        ({"parameters": (Parameter("pretrian.seed", (0,)),), "repeats": ()}, "begins with none"),
        ({"parameters": (Parameter("pretrain.seed"),)}, "values are needed"),
        ({"parameters": (Parameter("pretrain.seed", low=1, high=2),)}, "values are needed"),
        (
            {"parameters": (Parameter("pretrain.seed", low=2, high=1),), "search": "random"},
            "values or low and high",
        ),
        (
            {
                "parameters": (Parameter("pretrain.seed", low=0, high=2, log=True),),
                "search": "random",
            },
            r"pretrain\.seed.*low 0.*log=true",
        ),
        ({"repeats": ("pretrain.sed",)}, "is none of its parameters"),
        ({"variants": (Variant("a", ("render.out=x",)),)}, "begins with none"),
        ({"more": ("render.out=x",)}, "begins with none"),
        ({"steps": (Step("pretrain"), Step("pretrain"))}, "no command twice"),
        (
            {"scheduler": "asha", "figure": Figure("a.json", "b", "max", "c")},
            "has one figure, at the end",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(**changes)


VIEWS, SEED = Parameter("pretrain.data.views", (5, 10)), Parameter("pretrain.seed", (0, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": ("pretrain.epocs=3",)}, r"study s, picpoint pretrain: unknown key 'epocs'.*'epo"),
        ({"parameters": (Parameter("pretrain.sed", (0,)),)}, r"did you mean 'seed'"),
        ({"parameters": (VIEWS, Parameter("pretrain.optim", ("sgd", "lion")))}, "no config.*lion"),
        (
            {"variants": (Variant("a"), Variant("b", ("probe.eval_bach=3",)))},
            "probe: .*'eval_batch",
        ),
        ({"steps": (Step("pretrain", ("data.shards=s",)),)}, "out"),
        (
            {"steps": (Step("pretrian"),), "parameters": (Parameter("pretrian.seed", (0,)),)},
            "no con",
        ),
        (
            {"parameters": (Parameter("pretrain.seed", (0, 1, 0)),)},
            r"pretrain\.seed has.* 0 stands",
        ),
        ({"parameters": (SEED, SEED)}, r"study\.parameters: pretrain\.seed stands there twice"),
        (
            {"variants": (Variant("a"), Variant("a"))},
            "study.variants: the name a stands there twice",
        ),
        ({"more": ("pretrain.seed=7",)}, r"study\.more: pretrain\.seed=7 would be lost"),
        ({"variants": (Variant("a", ("pretrain.seed=7",)),)}, r"variant 'a': .*would be lost"),
    ],
)
def test_what_would_fail_or_be_lost_in_every_trial_is_told_before_the_first(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    commands = (
        Step("pretrain", ("data.shards=s", "out={trial}/run")),
        Step("probe", ("data.shards=c", "weights={trial}/run", "out={trial}/probe")),
    )
    whole: dict[str, object] = {"steps": commands, "parameters": (VIEWS, SEED), "repeats": ()}
    check_study(study(**whole))
    with pytest.raises(ConfigError, match=message):
        tune.run(TuneJob(study=study(**(whole | changes)), out=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_random_search_may_have_values_that_do_not_go_together() -> None:
    batches = (
        Parameter("pretrain.ghost_batch", (8, 32)),
        Parameter("pretrain.global_batch", (8, 32)),
    )
    whole: dict[str, object] = {
        "steps": (Step("pretrain", ("data.shards=s", "out=o")),),
        "parameters": batches,
        "repeats": (),
    }
    check_study(study(**whole, search="random"))
    turned = (Parameter("pretrain.ghost_batch", (32, 8)), batches[1])
    check_study(study(**(whole | {"parameters": turned}), search="random"))
    never = (Parameter("pretrain.ghost_batch", (64, 128)), batches[1])
    with pytest.raises(ConfigError, match="must be a multiple of ghost_batch"):
        check_study(study(**(whole | {"parameters": never}), search="random"))
    with pytest.raises(ConfigError, match="global_batch=8: must be a multiple of ghost_batch=32"):
        check_study(study(**whole))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_command_of_a_shipped_study_composes(name: str) -> None:
    """What a study would run at some hour of the night is known to be well-formed before."""
    overrides = [f"study={name}", "out=o", "shards=s", "clouds=c"]
    job = load_job(TuneJob, compose_config("tune", overrides))
    assert job.study.name == name
    check_study(job.study)


def test_a_test_split_chooses_nothing_in_a_shipped_study() -> None:
    # Two compare and measure, and choose nothing.
    for name in set(SHIPPED) - {"downstream_all", "s3dis_6fold"}:
        job = load_job(TuneJob, compose_config("tune", [f"study={name}", "out=o"]))
        told = job.study.figure.title
        assert "validation" in told, name


def test_figures_are_read_as_they_come(tmp_path: Path) -> None:
    assert read_figure(FIGURE, str(tmp_path)) == []
    path = tmp_path / "figures.jsonl"
    path.write_text('{"a": {"b": 0.5}}\n{"a": {"b": 1}}\n{"a": {"b"')  # the last is being written
    assert read_figure(FIGURE, str(tmp_path)) == [0.5, 1.0]
    whole = Figure("{trial}/r.json", "a.b", "max", "c")
    (tmp_path / "r.json").write_text(json.dumps({"a": {"b": 2.5}}))
    assert read_figure(whole, str(tmp_path)) == [2.5]
    with pytest.raises(ConfigError, match=r"study\.figure\.key=a\.c.*the nearest of its own: a\.b"):
        read_figure(Figure("{trial}/r.json", "a.c", "max", "c"), str(tmp_path))


def rows() -> list[TrialRow]:
    told = []
    for number, settings in enumerate(points(study())):
        failed = number == 5
        result = (
            TrialResult("failed", None, 1.0, "why")
            if failed
            else TrialResult("done", 0.1 * number, 1.0)
        )
        told.append(TrialRow(f"t{number}", dict(settings), result))
    return told


def test_the_table_averages_repeats_and_counts_failures() -> None:
    best, other = tabulate(study(), rows())
    assert best.settings == {"pretrain.data.views": 10}
    assert (best.mean, best.done, best.failed) == (pytest.approx(0.35), 2, 1)
    assert best.std == pytest.approx(statistics.stdev([0.3, 0.4]))
    assert (other.mean, other.std, other.failed) == (pytest.approx(0.1), pytest.approx(0.1), 0)
    lowest = study(figure=Figure("f", "k", "min", "loss"))
    assert tabulate(lowest, rows())[0].settings == {"pretrain.data.views": 5}
    assert "| 10 | 0.3500 +- 0.0707 | 2 | 1 |" in format_table(study(), [best, other])


def test_table_plot_and_record_are_written(tmp_path: Path) -> None:
    write_study(study(), rows(), tmp_path, {"commit": "c"})
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["commit"] == "c"
    assert [trial["result"]["reason"] for trial in record["trials"]][-1] == "why"
    assert (tmp_path / "study.svg").read_text().startswith("<?xml")


def test_no_more_trials_run_than_the_cluster_holds() -> None:
    has = [{"CPU": 8.0, "GPU": 2.0}]
    assert max_concurrent(TrialResources(cpus=2), has) == 4
    assert max_concurrent(TrialResources(cpus=2, gpus=1), has) == 2
    assert max_concurrent(TrialResources(cpus=2, max_concurrent=3), has) == 3
    assert max_concurrent(TrialResources(name="ray", cpus=2, max_concurrent=9), has) == 4
    with pytest.raises(ConfigError, match=r"the cluster has 8 CPU, 2 GPU; ask"):
        max_concurrent(TrialResources(cpus=9), has)
    # For a cluster that grows it is said how many; trials on one machine each wait for theirs.
    grows = "ray://head:10001"
    assert max_concurrent(TrialResources(address=grows, cpus=9, max_concurrent=2), has) == 2
    assert max_concurrent(TrialResources(address=grows, cpus=2, max_concurrent=9), has) == 9
    # The study's own cluster is this machine, and waits for nobody.
    for name in ("local", "ray"):
        with pytest.raises(ConfigError, match=r"the cluster has 8 CPU, 2 GPU; ask for less$"):
            max_concurrent(TrialResources(name=name, gpus=3, max_concurrent=2), has)


def test_a_local_trial_needs_one_machine_that_holds_it() -> None:
    """Three machines of 4 CPUs have 12, and yet a trial of 5 would wait for ever."""
    machines = [{"CPU": 4.0}, {"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}]
    with pytest.raises(ConfigError, match=r"12 CPU, 1 GPU on 3 machines, and none of them holds"):
        max_concurrent(TrialResources(cpus=5), machines)
    # Each machine holds one of 3 CPUs, and a rest of 1 that is of no use.
    assert max_concurrent(TrialResources(cpus=3), machines) == 3
    assert max_concurrent(TrialResources(cpus=1, gpus=1), machines) == 1
    # The ranks of a trial on Ray may be spread.
    assert max_concurrent(TrialResources(name="ray", cpus=5), machines) == 2


def test_dry_run_tells_the_trials(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["tune", "study=ablations", f"out={tmp_path}", "shards=s", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "15 trials (grid), 0 of them finished" in told
    assert "picpoint pretrain data.shards=s" in told
