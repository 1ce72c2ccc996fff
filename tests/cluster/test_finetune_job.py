"""`picpoint finetune` from the command line: on one rank and two, from scratch and from a run."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import TINY_RUN

from cluster.app import main
from picpoint.train.checkpoint import newest_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from cloud_sets import SCENES_INFO, clouds, rooms, write_set

TINY = [
    "runtime=local",
    "data.num_points=48",
    "point_encoder.widths=[8,8,8,16]",
    "point_encoder.pooled_width=16",
    "point_encoder.num_neighbours=4",
    "precision=fp32",
    "global_batch=12",
    "ghost_batch=4",
    "epochs=3",
    "eval_every=2",
    "votes=1",
    "optim.lr=1e-2",
    "optim.min_lr=0.0",
    "log_every=1",
    "trackers=[]",
]


@pytest.fixture(scope="module")
def solids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("solids"), list(clouds()))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_ranks_of_unlike_shares_do_what_one_does(solids: Path, tmp_path: Path) -> None:
    """Shares are 8 and 4 clouds a step, and 6 and 6 of the 12 that are evaluated, in fives."""
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}"
        where = [f"data.shards={solids}", f"out={out}", f"runtime.num_workers={ranks}"]
        assert main(["finetune", *where, *TINY, "eval_batch=5"]) == 0
    one, two = (lines(tmp_path / f"{ranks}" / "metrics.jsonl") for ranks in (1, 2))
    assert [line["step"] for line in two] == [1, 2, 3, 4, 5, 6]
    for mine, other in zip(one, two, strict=True):
        # float32 sums in another order; dropout leaves out the same.
        assert other["loss"] == pytest.approx(mine["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(mine["grad_norm"], rel=2e-3)
        assert other["accuracy"] == pytest.approx(mine["accuracy"])
    states = []
    for ranks in (1, 2):
        checkpoint, _ = newest_checkpoint(tmp_path / f"{ranks}" / "checkpoints")
        assert checkpoint is not None
        states.append(checkpoint.state["model"])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-2, atol=1e-3)
    results = [json.loads((tmp_path / f"{ranks}" / "result.json").read_text()) for ranks in (1, 2)]
    assert results[0]["confusion"] == results[1]["confusion"]
    assert results[0]["last"] == results[1]["last"]


def test_whole_rooms_are_counted_once_over_two_ranks(tmp_path: Path) -> None:
    """Six rooms of six sizes, so that no two ranks see as many crops."""
    whole = write_set(tmp_path / "rooms", list(rooms()), SCENES_INFO)
    crops = ["task=scenes", "data.subset=crop", "data.normalise=none", "data.augment.shift=0"]
    split = ["data.train=[Area_5]", "data.test=[Area_1]"]
    small = ["votes=0", "global_batch=2", "ghost_batch=1", "epochs=1", "eval_every=1"]
    expected = sum(
        room.label_counts.sum(axis=0) for room in rooms() if room.source_id.startswith("Area_1")
    )
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        where = [f"data.shards={whole}", f"out={out}", f"runtime.num_workers={ranks}"]
        assert main(["finetune", *where, *TINY, *crops, *split, *small]) == 0
        confusion = json.loads((out / "result.json").read_text())["confusion"]
        assert list(map(sum, confusion)) == expected.tolist()


def test_a_pretraining_run_is_a_beginning(
    solids: Path, shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["global_batch=4", "ghost_batch=2", "epochs=1", "trackers=[]"]
    pretrained = [f"data.shards={shard_set}", f"out={tmp_path / 'run'}"]
    assert main(["pretrain", *pretrained, *TINY_RUN, *run]) == 0
    out = tmp_path / "tuned"
    where = [f"data.shards={solids}", f"out={out}", f"weights={tmp_path / 'run'}"]
    assert main(["finetune", *where, *TINY, "freeze=true"]) == 0
    told = capsys.readouterr().out
    assert "classify on solids, test: 24 clouds trained on, 12 evaluated; pre-trained" in told
    assert "accuracy_voted" in told
    checkpoint, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    tuned, _ = newest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    assert tuned is not None
    kept = {
        name.removeprefix("point_encoder."): value
        for name, value in checkpoint.state["model"].items()
        if name.startswith("point_encoder.")
    }
    assert kept
    # As its pre-training had it; 5 neighbours are another network, of which no tensor tells.
    assert "is another than theirs" not in told
    other = ["freeze=true", "epochs=1", "point_encoder.num_neighbours=5"]
    where_else = [*where[:1], f"out={tmp_path / 'other'}", *where[2:]]
    assert main(["finetune", *where_else, *TINY, *other]) == 0
    assert "another than theirs (num_neighbours was 4, is 5)" in capsys.readouterr().out
    for wrong, message in (
        (["initialise=[stme]"], "no tensor's name begins so"),
        (["point_encoder.pooled_width=8"], "do not fit"),
    ):
        assert (
            main(["finetune", *where[:1], f"out={tmp_path / 'no'}", *where[2:], *TINY, *wrong]) == 2
        )
        assert message in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
    for name, value in kept.items():
        assert torch.equal(tuned.state["model"][f"encoder.{name}"], value)
    # The same command finds its result, and says it again.
    assert main(["finetune", *where, *TINY, "freeze=true"]) == 0
    assert "kept: finetune" in capsys.readouterr().out
    # Both are shown in a report.
    page = tmp_path / "report"
    assert main(["report", str(tmp_path / "run"), str(out), f"out={page}"]) == 0
    report = json.loads((page / "report.json").read_text())
    tables = {table["title"]: table for part in report["sections"] for table in part["tables"]}
    table = tables["Results of task classify"]
    shown = dict(zip(table["columns"], table["rows"][0], strict=True))
    result = json.loads((out / "result.json").read_text())
    assert shown["Begins"] == "frozen, pre-trained"
    assert shown["Accuracy"] == pytest.approx(100 * result["last"]["accuracy"])
    assert shown["M parameters"] == pytest.approx(result["parameters"] / 1e6)


def test_features_that_a_task_would_not_look_at_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["data.shards=s", f"out={tmp_path / 'run'}", "point_features=[position,normal]"]
    assert main(["finetune", *where]) == 2
    assert "point_features=['position', 'normal']: task=classify" in capsys.readouterr().err


def test_crops_too_small_for_the_encoder_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["data.shards=s", f"out={tmp_path / 'run'}", "experiment=s3dis_rooms_pointnext_s"]
    assert main(["finetune", *where, "data.num_points=255"]) == 2
    told = capsys.readouterr().err
    assert "data.num_points=255: pointnext_s needs 256 points or more" in told
    assert not (tmp_path / "run").exists()


def test_dry_run_tells_the_plan(
    solids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", f"data.shards={solids}", f"out={tmp_path / 'o'}", *TINY, "--dry-run"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "24 clouds to train on and 12 to evaluate on (test)" in told
    assert "3 epochs of 2 steps" in told
    # Evaluated after epochs 2 and 3, and with one vote; a DGCNN of 48 points and 4 neighbours.
    forward = 2 * 48 * (4 * 2 * (3 * 8 + 8 * 8 + 8 * 8 + 8 * 16) + 40 * 16)
    flops = (3 * 72 + 36) * forward
    assert f"cost   72 samples in 6 steps, 36 evaluated; {flops / 1e15:.3g} PFLOPs" in told
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["data.shards=nowhere"], 3, "nowhere"),
        (["data.train=[trian]"], 2, "no split 'trian'"),
        (["data.test=[train]"], 2, "both name 'train'"),
        (["weights=nowhere"], 4, "no such folder"),
        (["freeze=true"], 2, "needs task=classify and weights"),
        (["task=segment"], 2, "task='segment'"),
        (["task=parts", "data.num_points=81"], 2, "36 of 36 clouds"),
        (["global_batch=36"], 2, "only 24 clouds"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    solids: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    code: int,
    message: str,
) -> None:
    base = ["finetune", f"data.shards={solids}", f"out={tmp_path / 'o'}", *TINY]
    assert main([*base, *overrides]) == code
    told = capsys.readouterr().err.strip().splitlines()
    assert message in told[-1]
    # No record of it stands in the way of the mended command.
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "workers",
    [
        ["runtime.num_workers=4"],
        ["runtime=ray", "runtime.min_workers=1", "runtime.max_workers=4"],
    ],
    ids=["local", "elastic"],
)
def test_more_ranks_than_ghost_batches_are_told_before_anything_is_written(
    solids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: list[str]
) -> None:
    """A record of the run would stand in the way of its mending."""
    where = [f"data.shards={solids}", f"out={tmp_path / 'o'}"]
    assert main(["finetune", *where, *TINY, *workers]) == 2
    assert "3 ghost batches" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_shapes_with_pictures_are_no_labelled_clouds(
    shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", f"data.shards={shard_set}", f"out={tmp_path / 'o'}", *TINY]) == 4
    assert "holds shapes, and clouds are needed" in capsys.readouterr().err
