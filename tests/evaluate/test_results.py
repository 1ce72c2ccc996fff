import json
from dataclasses import replace

import numpy as np
import pytest

from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.probe import ProbeConfig
from picpoint.evaluate.results import (
    Results,
    ResultsError,
    format_table,
    load_results,
    summarise,
    write_results,
)
from picpoint.evaluate.seed import ShapeCounts, chance_of, evaluate_seed
from picpoint.evaluate.trials import METRICS
from picpoint.linear_probe import ProbeError

QUICK = ProbeConfig(num_repeats=2, penalties=(1e-3,))


def encoded(separation, seed) -> EncodedShapes:
    """Three classes of ten; a picture is its shape's embedding and noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), 10)
    features = separation * np.eye(3, 16)[labels] + rng.normal(size=(30, 16))
    clouds = rng.normal(size=(30, 1, 8))
    pictures = separation * clouds + rng.normal(size=(30, 4, 8))
    return EncodedShapes(
        keys=tuple(f"{i:032x}" for i in range(30)),
        class_names=("bed", "chair", "table"),
        labels=labels.astype(np.int64),
        features=features.astype(np.float32),
        shape_embeddings=unit(clouds[:, 0]),
        picture_embeddings=unit(pictures),
        held_out=np.arange(30) % 5 == 0,
    )


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def seed_result(seed):
    return evaluate_seed(seed, encoded(2.0, seed), encoded(0.3, seed + 100), QUICK)


def summary_of(seeds):
    return summarise(
        [seed_result(seed) for seed in seeds],
        seconds={"render": 12.5, "pretrain": 100.0},
        versions={"python": "3.11"},
        commit="abc123",
        config={"optim": {"lr": 0.001}},
    )


def test_results_come_back_as_they_were_written(tmp_path):
    summary = summary_of([0, 1])
    write_results(summary, tmp_path / "new" / "results.json")
    results = load_results(tmp_path / "new" / "results.json")
    again = summarise(
        results.seeds, results.seconds, results.versions, results.commit, results.config
    )
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(summary))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.json"]


def test_mean_std_and_difference_follow_from_the_seeds():
    summary = summary_of([0, 1, 2])
    for metric in METRICS:
        per_seed = {
            encoder: [seed[metric][encoder] for seed in summary["seeds"]]
            for encoder in ("pretrained", "random_init")
        }
        for encoder, accuracies in per_seed.items():
            assert summary["mean"][metric][encoder] == pytest.approx(np.mean(accuracies))
            assert summary["std"][metric][encoder] == pytest.approx(np.std(accuracies, ddof=1))
        difference = summary["paired_difference"][metric]
        means = summary["mean"][metric]
        assert difference["mean"] == pytest.approx(means["pretrained"] - means["random_init"])
        assert difference["num_shapes"] == 6
    assert summary["chance"]["knn"] == pytest.approx(1 / 3)
    assert summary["chance"]["retrieval_shape_to_picture"] == pytest.approx(1 / 6)
    assert summary["shapes"]["num_train"] == 24


def test_one_seed_has_no_std():
    assert summary_of([0])["std"]["knn"] == {"pretrained": None, "random_init": None}


def test_the_table_tells_every_figure():
    table = format_table_of([0])
    lines = table.splitlines()
    assert len({len(line) for line in lines[:6]}) == 1
    assert "6 held-out shapes in 3 classes, after pre-training on 24;" in table
    assert "2 seeds of 6 held-out shapes (6 different ones) in" in format_table_of([0, 1])
    summary = summary_of([0])
    for metric, title in [("linear_probe", "linear probe"), ("knn", "nearest neighbour")]:
        row = next(line for line in lines if line.startswith(title))
        assert f"{100 * summary['mean'][metric]['pretrained']:.1f}" in row
        assert f"{100 * summary['paired_difference'][metric]['mean']:+.1f} +-" in row


def format_table_of(seeds):
    summary = summary_of(seeds)
    return format_table(
        Results(
            seeds=tuple(seed_result(seed) for seed in seeds),
            seconds=summary["seconds"],
            versions=summary["versions"],
            commit=summary["commit"],
            config=summary["config"],
        )
    )


def test_encoders_of_different_splits_are_not_compared():
    pretrained, random_init = encoded(2.0, 0), encoded(0.3, 1)
    other_split = replace(random_init, held_out=np.arange(30) % 5 == 1)
    with pytest.raises(ProbeError, match="different shapes or splits"):
        evaluate_seed(0, pretrained, other_split, QUICK)


def test_guessing_a_class_is_as_good_as_the_commonest_class():
    counts = ShapeCounts(2, 10, 10, 8, 8, largest_class_share=0.75)
    assert chance_of("linear_probe", counts) == 0.75
    assert chance_of("retrieval_picture_to_shape", counts) == 0.125


def test_a_failed_write_leaves_the_old_results_whole(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results({"mean": float("nan")}, path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no such file"),
        ("{", "not JSON"),
        ("[]", "format_version is None"),
        ('{"format_version": 99}', "format_version is 99"),
        ('{"format_version": 1}', "broken"),
    ],
)
def test_a_broken_file_is_refused_with_its_name(tmp_path, text, told):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ResultsError, match=told) as error:
        load_results(path)
    assert str(path) in str(error.value)
    assert "picpoint evaluate" in str(error.value)
