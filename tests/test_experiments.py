"""Recipes of benchmarks compose, say where they come from, and set what their sources say."""

from pathlib import Path

import pytest

import configs
from cluster.compose import ConfigError, compose_config, load_job
from cluster.jobs.finetune import FinetuneJob
from picpoint.datasets.names import DATASET_NAMES
from picpoint.train.state import learning_rate

FOLDER = Path(configs.__file__).parent / "experiment"
RECIPES = sorted(
    path.stem for path in FOLDER.glob("*.yaml") if "picpoint finetune" in path.read_text()
)


def recipe(name: str, *overrides: str) -> FinetuneJob:
    return load_job(
        FinetuneJob, compose_config("finetune", [f"experiment={name}", "out=o", *overrides])
    )


def test_every_benchmark_has_a_recipe_for_both_encoders() -> None:
    scans = [f"scanobjectnn_{split}" for split in ("obj_bg", "obj_only", "pb_t50_rs")]
    both = [
        f"{data}_{encoder}"
        for data in ("modelnet40", "shapenetpart", *scans)
        for encoder in ("dgcnn", "pointnext_s")
    ]
    # DGCNN is published on blocks of rooms, PointNeXt on whole ones.
    assert sorted(RECIPES) == sorted([*both, "s3dis_blocks_dgcnn", "s3dis_rooms_pointnext_s"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_composes_and_names_its_source_and_its_data(name: str) -> None:
    told = (FOLDER / f"{name}.yaml").read_text()
    assert "# Source: " in told
    job = recipe(name)
    assert name.endswith(job.point_encoder.name)
    prepared = Path(job.data.shards).name
    assert prepared in DATASET_NAMES
    assert prepared.startswith(name.removesuffix(f"_{job.point_encoder.name}"))
    assert f"picpoint data prepare {prepared}" in told
    task = {"shapenetpart": "parts", "s3dis": "scenes"}.get(name.partition("_")[0])
    assert job.task == (task or "classify")


def test_a_recipe_can_be_changed_and_chosen_in_hydra_s_own_way() -> None:
    assert recipe("modelnet40_dgcnn", "epochs=3").epochs == 3
    plus = compose_config("finetune", ["+experiment=modelnet40_dgcnn", "out=o"])
    assert load_job(FinetuneJob, plus) == recipe("modelnet40_dgcnn")


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("finetune", "experiment=modelnet41_dgcnn", "there are: modelnet40_dgcnn"),
        ("finetune", "experimnt=modelnet40_dgcnn", "unknown key 'experimnt'"),
        ("pretrain", "experiment=modelnet40_dgcnn", "experiment"),
    ],
)
def test_a_recipe_that_is_none_is_refused(command: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config(command, [override, "out=o"])


def test_variants_of_scanobjectnn_differ_in_their_data_alone() -> None:
    jobs = [recipe(f"scanobjectnn_{split}_dgcnn") for split in ("obj_bg", "obj_only", "pb_t50_rs")]
    assert len({job.data.shards for job in jobs}) == 3
    same = [
        recipe(f"scanobjectnn_{split}_dgcnn", "data.shards=s") for split in ("obj_bg", "obj_only")
    ]
    assert same[0] == same[1] == recipe("scanobjectnn_pb_t50_rs_dgcnn", "data.shards=s")


def test_rates_fall_as_the_sources_say() -> None:
    """At epochs where the public schedulers' values are round."""
    dgcnn = recipe("modelnet40_dgcnn").optim
    assert learning_rate(dgcnn, 0.5) == pytest.approx((0.1 + 1e-3) / 2)
    scans = recipe("scanobjectnn_pb_t50_rs_pointnext_s").optim
    assert learning_rate(scans, 100 / 250) == pytest.approx((2e-3 + 1e-4) / 2)
    assert learning_rate(scans, 200 / 250) == pytest.approx(1e-4)
    parts = recipe("shapenetpart_pointnext_s").optim
    rates = [learning_rate(parts, epoch / 300) for epoch in (209, 210, 269, 270)]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-4, 1e-5])
