import dataclasses
from pathlib import Path

import numpy as np
import pytest

from picpoint.data.augment import AugmentConfig
from picpoint.data.config import DataConfig
from picpoint.train.settings import PretrainConfig, plan_run
from picpoint.train.state import OptimConfig
from shards.errors import NotFoundInStoreError
from shards.manifest import load_manifest
from shards.parts import Parts
from shards.store import LocalStore


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"log_every": 0}, "log_every=0"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints=0"),
        ({"global_batch": 0}, "global_batch=0"),
        ({"ghost_batch": 0}, "ghost_batch=0"),
        ({"global_batch": 5}, "global_batch=5.*multiple of ghost_batch=2"),
    ],
)
def test_a_run_out_of_bounds_is_refused(
    tiny_config: PretrainConfig, changes: dict[str, int], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(tiny_config, **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_points": 0}, "data.num_points=0"),
        ({"correspondences": 0}, "data.correspondences=0"),
        ({"views_per_step": 0}, "data.views_per_step=0"),
        ({"views": -1}, "data.views=-1"),
        ({"views": 2, "views_per_step": 3}, "data.views_per_step=3.*data.views=2"),
        ({"read_ahead": 0}, "data.read_ahead=0"),
    ],
)
def test_data_out_of_bounds_are_refused(changes: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        DataConfig("shards", **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scale_min": 0.0}, "scale_min=0.0"),
        ({"scale_min": 1.5}, "scale_min=1.5, data.augment.scale_max=1.2"),
        ({"shift": -0.1}, "shift=-0.1"),
        ({"jitter": -0.1}, "jitter=-0.1"),
        ({"shift": float("nan")}, "shift=nan"),
    ],
)
def test_augmentation_out_of_bounds_is_refused(changes: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AugmentConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lr": 0.0}, "optim.lr=0.0"),
        ({"lr": float("nan")}, "optim.lr=nan"),
        ({"weight_decay": -1.0}, "optim.weight_decay=-1.0"),
        ({"warmup_fraction": 1.0}, "optim.warmup_fraction=1.0"),
        ({"warmup_fraction": -0.1}, "optim.warmup_fraction=-0.1"),
        ({"cosine_share": 0.0}, "optim.cosine_share=0.0"),
        ({"cosine_share": 0.2, "warmup_fraction": 0.3}, "above optim.warmup_fraction=0.3"),
        ({"drop_at": ()}, r"optim.drop_at=\[\]"),
        ({"drop_at": (0.9, 0.7)}, "in rising order"),
        ({"drop_at": (0.7, 1.0)}, "below 1"),
        ({"drop_at": (0.7,), "min_lr": 1e-5}, "takes the place of the cosine"),
    ],
)
def test_an_optimiser_out_of_bounds_is_refused(changes: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        OptimConfig(**changes)


def test_other_views_than_there_are_asked_for_at_once_are_allowed() -> None:
    assert DataConfig("shards", views=0, views_per_step=4).views_per_step == 4
    assert DataConfig("shards", views=4, views_per_step=4).views == 4


def test_a_run_that_holds_nothing_out_reads_no_labels(
    tiny_config: PretrainConfig, tmp_path: Path
) -> None:
    """So that a run over ten million shapes starts without their rows."""
    holdout = dataclasses.replace(tiny_config.data.holdout, num_folds=0)
    data = dataclasses.replace(tiny_config.data, holdout=holdout)
    manifest = load_manifest(data.shards)
    blind = dataclasses.replace(manifest, parts=Parts(LocalStore(tmp_path), manifest.shards))
    plan, selection = plan_run(dataclasses.replace(tiny_config, data=data), blind)
    assert plan.num_samples == manifest.num_samples
    np.testing.assert_array_equal(selection, np.arange(manifest.num_samples))
    with pytest.raises(NotFoundInStoreError):
        plan_run(tiny_config, blind)
