"""Pieces give the gradient of the whole, whatever the loss asks of the embeddings."""

import dataclasses

import pytest
import torch

from picpoint.batch import ImageFeatures, PairBatch
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.info_nce import LossConfig, pretraining_loss
from picpoint.model import ModelConfig, PretrainModel
from picpoint.ops.ghost_norm import update_running_statistics
from picpoint.train.gradient_cache import backward_in_pieces, split_pairs

B, V, N, K, C, SIZE_PX, GHOST = 8, 2, 24, 5, 6, 32, 2
GROUPS = LossConfig(negatives="group", group_size=2, learn_temperature=True)


def make_batch() -> tuple[PairBatch, ImageFeatures]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    valid = torch.ones(B, dtype=torch.bool)
    valid[3] = False
    batch = PairBatch(
        keys=tuple(map(str, range(B))),
        points=normal(B, N, 3),
        pictures=torch.zeros(B, V, 3, SIZE_PX, SIZE_PX, dtype=torch.uint8),
        view_matrices=normal(B, V, 4, 4),
        projection_matrices=normal(B, V, 4, 4),
        point_index=torch.randint(0, N, (B, V, K), generator=generator),
        pixels=torch.rand(B, V, K, 2, generator=generator, dtype=torch.float64) * SIZE_PX,
        correspondence_mask=torch.rand(B, V, K, generator=generator) < 0.7,
        valid=valid,
        size_px=SIZE_PX,
    )
    return batch, ImageFeatures(local=normal(B, V, C, 4, 4), pooled=normal(B, V, C))


def make_model(loss: LossConfig) -> PretrainModel:
    torch.manual_seed(0)
    config = ModelConfig(
        point_encoder=DgcnnConfig(widths=(8, 8), pooled_width=8, num_neighbours=4),
        heads=ProjectionConfig(latent_width=8, hidden_width=8, pose_width=4),
        ghost_batch=GHOST,
        learnt_temperature=loss.temperature if loss.learn_temperature else None,
    )
    return PretrainModel(config, C, C).double()


def gradients(model: PretrainModel) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in model.named_parameters()}
    assert all(grad is not None for grad in found.values())
    return found | dict(model.named_buffers())


@pytest.mark.parametrize("piece", [2, 4, 6])
@pytest.mark.parametrize("loss", [LossConfig(temperature=0.2), GROUPS], ids=["picture", "group"])
def test_pieces_give_the_loss_gradients_and_statistics_of_the_whole(piece, loss):
    batch, image = make_batch()

    def terms_of(embeddings):
        terms = pretraining_loss(embeddings, loss, (B,))
        return terms, terms.total

    whole = make_model(loss)
    expected_terms, total = terms_of(whole(batch, image))
    total.backward()
    update_running_statistics(whole)
    model = make_model(loss)
    pieces = split_pairs(batch, image, piece)
    assert [len(part.keys) for part, _ in pieces] == [piece] * (B // piece) + [B % piece] * (
        B % piece > 0
    )
    embeddings, terms = backward_in_pieces(model, model, pieces, terms_of)
    update_running_statistics(model)
    assert not embeddings.point_pooled.requires_grad
    for field in dataclasses.fields(terms):
        one, other = getattr(terms, field.name), getattr(expected_terms, field.name)
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    expected = gradients(whole)
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11, msg=name)


def test_activations_of_one_piece_only_are_kept():
    """A forward pass with gradient sees a piece, never the whole."""
    batch, image = make_batch()
    model, seen = make_model(LossConfig()), []

    def forward(part, features):
        if torch.is_grad_enabled():
            seen.append(len(part.keys))
        return model(part, features)

    def terms_of(embeddings):
        terms = pretraining_loss(embeddings, LossConfig(), (B,))
        return terms, terms.total

    backward_in_pieces(model, forward, split_pairs(batch, image, 2), terms_of)
    assert seen == [2, 2, 2, 2]
