import math

import pytest
import torch

from picpoint.model import PretrainModel
from picpoint.train.settings import PretrainConfig
from picpoint.train.state import OptimConfig, TrainState, initial_state, learning_rate


def fresh(config: PretrainConfig, seed: int = 0) -> TrainState[PretrainModel]:
    return initial_state(config.model, config.optim, (4, 6), seed, torch.device("cpu"))


def test_the_seed_decides_the_initial_weights(tiny_config: PretrainConfig) -> None:
    first, same, other = (fresh(tiny_config, seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    name = "point_pooled_head.project.weight"
    assert not torch.equal(first[name], other[name])


def test_building_a_model_leaves_the_global_generator_alone(tiny_config: PretrainConfig) -> None:
    before = torch.get_rng_state()
    fresh(tiny_config)
    assert torch.equal(torch.get_rng_state(), before)


def test_building_a_model_seeds_no_accelerator(
    tiny_config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(0)
    assert seeds, "the spy sees what seeds an accelerator"
    seeds.clear()
    fresh(tiny_config)
    assert not seeds


def test_the_default_device_does_not_change_the_initial_weights(
    tiny_config: PretrainConfig,
) -> None:
    expected = fresh(tiny_config).model.state_dict()
    with torch.device("meta"):
        found = fresh(tiny_config).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_state_that_lacks_a_tensor_is_refused(tiny_config: PretrainConfig) -> None:
    state = fresh(tiny_config)
    stored = state.state_dict()
    stored["model"] = dict(stored["model"])
    stored["model"].popitem()
    with pytest.raises(RuntimeError, match="Missing key"):
        state.load_state_dict(stored)


@pytest.mark.parametrize(
    ("warmup", "progress", "expected"),
    [
        (0.0, 0.0, 1.0),
        (0.0, 0.5, 0.5),
        (0.0, 1.0, 0.0),
        (0.0, 0.25, 0.5 * (1 + math.cos(math.pi / 4))),
        (0.2, 0.0, 0.0),
        (0.2, 0.1, 0.5),
        (0.2, 0.2, 1.0),
        (0.2, 0.6, 0.5),
    ],
)
def test_the_learning_rate_follows_its_curve(
    warmup: float, progress: float, expected: float
) -> None:
    rate = learning_rate(OptimConfig(lr=1.0, warmup_fraction=warmup), progress)
    assert rate == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 1.0), (0.2, 0.55), (0.4, 0.1), (0.9, 0.1), (1.0, 0.1)],
)
def test_a_cosine_may_end_before_the_run_does(progress: float, expected: float) -> None:
    optim = OptimConfig(lr=1.0, min_lr=0.1, cosine_share=0.4)
    assert learning_rate(optim, progress) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 2.0), (0.69, 2.0), (0.7, 0.2), (0.89, 0.2), (0.9, 0.02)]
)
def test_the_rate_may_fall_in_steps(progress: float, expected: float) -> None:
    assert learning_rate(OptimConfig(lr=2.0, drop_at=(0.7, 0.9)), progress) == pytest.approx(
        expected
    )
