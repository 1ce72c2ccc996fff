import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from picpoint.batch import Embeddings
from picpoint.losses.info_nce import LossConfig, pretraining_loss

B, V, K, D = 5, 2, 7, 6


def make_embeddings(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape):
        return functional.normalize(
            torch.randn(*shape, D, generator=generator, dtype=dtype), dim=-1
        )

    valid = torch.tensor([True, True, False, True, True])
    mask = torch.rand(B, V, K, generator=generator) < 0.7
    mask[3, 1] = False
    return Embeddings(
        point_pooled=unit(B),
        picture_pooled=unit(B, V),
        point_local=unit(B, V, K),
        picture_local=unit(B, V, K),
        local_mask=mask & valid[:, None, None],
        local_cell=torch.randint(0, 4, (B, V, K), generator=generator),
        valid=valid,
    )


TOP1 = ("local_top1", "local_top1_back", "pooled_top1", "pooled_top1_back")


def oracle_contrast(queries, targets, allowed, temperature):
    """Losses and hits of each query finding the target of its own number, one at a time."""
    losses, hits = [], []
    for i, query in enumerate(queries):
        scores = targets @ query / temperature
        rivals = [scores[j] for j in range(len(targets)) if j != i and allowed[i, j]]
        losses.append(-math.log(math.exp(scores[i]) / sum(map(math.exp, [scores[i], *rivals]))))
        hits.append(all(scores[i] > rival for rival in rivals))
    return losses, hits


def oracle(embeddings, config):
    """Means by loops over NumPy rows: of the losses, and of the hits forth and back."""
    names = [f.name for f in dataclasses.fields(embeddings) if f.name != "temperature"]
    e = {name: getattr(embeddings, name).numpy() for name in names}
    local, pooled = [], []
    hits = {name: [] for name in TOP1}
    everyone = np.ones((B, B), dtype=bool)
    for v in range(V):
        a, b = e["point_pooled"][e["valid"]], e["picture_pooled"][e["valid"], v]
        forth, found = oracle_contrast(a, b, everyone, config.temperature)
        back, found_back = oracle_contrast(b, a, everyone, config.temperature)
        pooled += forth + back
        hits["pooled_top1"] += found
        hits["pooled_top1_back"] += found_back
        for s in range(B):
            m = e["local_mask"][s, v]
            a, b = e["point_local"][s, v, m], e["picture_local"][s, v, m]
            cell = e["local_cell"][s, v, m]
            allowed = cell[:, None] != cell[None]
            forth, found = oracle_contrast(a, b, allowed, config.temperature)
            back, found_back = oracle_contrast(b, a, allowed, config.temperature)
            local += forth + back
            hits["local_top1"] += found
            hits["local_top1_back"] += found_back
    return np.mean(local), np.mean(pooled), {name: np.mean(each) for name, each in hits.items()}


def loss_of(embeddings, config=None):
    return pretraining_loss(embeddings, config or LossConfig(), (len(embeddings.valid),))


@pytest.mark.parametrize("seed", range(3))
def test_info_nce_equals_the_numpy_oracle(seed):
    config = LossConfig(local_weight=0.3, pooled_weight=2.0, temperature=0.2)
    terms = loss_of(make_embeddings(seed), config)
    local, pooled, top1 = oracle(make_embeddings(seed), config)
    assert terms.local.item() == pytest.approx(local, abs=1e-12)
    assert terms.pooled.item() == pytest.approx(pooled, abs=1e-12)
    assert terms.total.item() == pytest.approx(0.3 * local + 2.0 * pooled, abs=1e-12)
    for name in TOP1:
        assert getattr(terms, name).item() == pytest.approx(top1[name]), name
    assert len(set(top1.values())) > 2  # the directions can be told apart


def test_rows_that_do_not_count_change_nothing_even_as_nan():
    clean = make_embeddings()
    dirty = make_embeddings()
    dirty.point_pooled[~dirty.valid] = torch.nan
    dirty.picture_pooled[~dirty.valid] = torch.inf
    dirty.point_local[~dirty.local_mask] = torch.nan
    dirty.picture_local[~dirty.local_mask] = 1e9
    dirty.local_cell[~dirty.local_mask] = 0
    leaves = [clean.point_local.requires_grad_(), dirty.point_local.requires_grad_()]
    terms = [loss_of(clean), loss_of(dirty)]
    grads = [torch.autograd.grad(t.total, x)[0] for t, x in zip(terms, leaves, strict=True)]
    assert terms[0].total.equal(terms[1].total)
    assert grads[0].equal(grads[1])


def test_points_in_one_cell_are_no_negatives():
    embeddings = make_embeddings()
    together = dataclasses.replace(embeddings, local_cell=torch.zeros_like(embeddings.local_cell))
    # With every point in the same cell nothing is left to contrast with.
    assert loss_of(together).local.item() == pytest.approx(0, abs=1e-12)
    apart = dataclasses.replace(embeddings, local_cell=torch.arange(K).expand(B, V, K))
    assert loss_of(apart).local > loss_of(embeddings).local


def test_the_local_mean_is_over_correspondences_not_over_pictures():
    embeddings = make_embeddings()
    apart = torch.arange(K).expand(B, V, K)
    mask = torch.zeros(B, V, K, dtype=torch.bool)
    mask[0, 0], mask[1, 0, :2] = True, True
    both = dataclasses.replace(embeddings, local_mask=mask, local_cell=apart)
    parts = []
    for shape, count in ((0, K), (1, 2)):
        only = torch.zeros_like(mask)
        only[shape] = mask[shape]
        parts.append(count * loss_of(dataclasses.replace(both, local_mask=only)).local)
    assert loss_of(both).local.item() == pytest.approx((sum(parts) / (K + 2)).item(), abs=1e-12)


def test_a_batch_without_correspondences_or_shapes_gives_zero_and_a_zero_gradient():
    embeddings = make_embeddings()
    empty = dataclasses.replace(
        embeddings,
        local_mask=torch.zeros_like(embeddings.local_mask),
        valid=torch.zeros_like(embeddings.valid),
    )
    leaves = [empty.point_pooled, empty.picture_pooled, empty.point_local, empty.picture_local]
    for leaf in leaves:
        leaf.requires_grad_()
    terms = loss_of(empty)
    assert terms.total.item() == 0
    assert terms.local_top1.item() == terms.pooled_top1.item() == 0
    for grad in torch.autograd.grad(terms.total, leaves):
        assert grad.eq(0).all()


def test_collapsed_embeddings_find_nothing():
    embeddings = make_embeddings()
    same = {
        name: torch.ones_like(getattr(embeddings, name)) / D**0.5
        for name in ("point_pooled", "picture_pooled", "point_local", "picture_local")
    }
    cells = torch.arange(K).expand(B, V, K)
    terms = loss_of(dataclasses.replace(embeddings, local_cell=cells, **same))
    assert terms.pooled.item() == pytest.approx(math.log(4))
    assert terms.pooled_top1.item() == terms.pooled_top1_back.item() == 0


def test_half_precision_embeddings_are_scored_in_float32():
    narrow = make_embeddings(dtype=torch.float32)
    names = ("point_pooled", "picture_pooled", "point_local", "picture_local")
    halved = dataclasses.replace(narrow, **{n: getattr(narrow, n).bfloat16() for n in names})
    terms = loss_of(halved)
    assert terms.total.dtype == torch.float32
    # bfloat16 keeps 8 bits, so cosines of embeddings agree to about 1 %.
    assert terms.total.item() == pytest.approx(loss_of(narrow).total.item(), rel=0.05)


def test_negatives_of_a_group_are_the_correspondences_of_all_its_pictures():
    """Two shapes of two views make a group; as one long picture they must score the same."""
    embeddings = make_embeddings()
    config = LossConfig(negatives="group", group_size=2)
    first = {
        f.name: getattr(embeddings, f.name)[:2]
        for f in dataclasses.fields(embeddings)
        if f.name != "temperature"
    }
    pair = dataclasses.replace(embeddings, **first)
    picture = torch.arange(2 * V).view(2, V, 1)
    joined = dataclasses.replace(
        pair,
        point_local=pair.point_local.reshape(1, 1, -1, D),
        picture_local=pair.picture_local.reshape(1, 1, -1, D),
        local_mask=pair.local_mask.reshape(1, 1, -1),
        local_cell=(pair.local_cell + 100 * picture).reshape(1, 1, -1),
        point_pooled=pair.point_pooled[:1],
        picture_pooled=pair.picture_pooled[:1, :1],
        valid=pair.valid[:1],
    )
    grouped, whole = loss_of(pair, config), loss_of(joined)
    assert grouped.local.item() == pytest.approx(whole.local.item(), abs=1e-12)
    assert grouped.local_top1.item() == pytest.approx(whole.local_top1.item())
    assert grouped.local > loss_of(pair).local


def test_a_learnt_temperature_takes_the_place_of_the_config_s_and_has_the_gradient():
    learnt = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    terms = loss_of(dataclasses.replace(make_embeddings(), temperature=learnt))
    fixed = [loss_of(make_embeddings(), LossConfig(temperature=0.2 + d)) for d in (0, 1e-6, -1e-6)]
    assert terms.total.item() == pytest.approx(fixed[0].total.item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(terms.total, learnt)
    slope = (fixed[1].total - fixed[2].total).item() / 2e-6
    assert gradient.item() == pytest.approx(slope, rel=1e-6)


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"temperature=0\.0 must be positive"):
        LossConfig(temperature=0.0)
