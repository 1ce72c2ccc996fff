import dataclasses

import pytest
import torch

from picpoint.batch import ImageFeatures, PairBatch
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig
from picpoint.encoders.pointnext import POINTNEXT_S, PointNextConfig
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.info_nce import LossConfig, pretraining_loss
from picpoint.model import (
    ModelConfig,
    PretrainModel,
    gather_points,
    pixel_to_cell,
    sample_map,
)
from picpoint.ops.ghost_norm import update_running_statistics

B, V, N, K, SIZE_PX = 4, 2, 32, 6, 64
TINY = ModelConfig(
    point_encoder=DgcnnConfig(widths=(8, 8), pooled_width=12, num_neighbours=4),
    heads=ProjectionConfig(latent_width=8, hidden_width=10, pose_width=4),
    ghost_batch=2,
)
TINY_POINTNEXT = dataclasses.replace(
    TINY,
    point_encoder=PointNextConfig(
        width=4, strides=(2, 2), blocks=(0, 0), radius=0.8, num_neighbours=4, local_stage=1
    ),
)
LOCAL_WIDTH, POOLED_WIDTH = 7, 9


def make_batch(seed=0, num_local=N):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(B, N, 3, generator=generator)
    mask = torch.rand(B, V, K, generator=generator) < 0.7
    mask[..., 0] = True
    return PairBatch(
        keys=tuple(map(str, range(B))),
        points=points / points.norm(dim=-1, keepdim=True),
        pictures=torch.randint(
            0, 256, (B, V, 3, SIZE_PX, SIZE_PX), generator=generator, dtype=torch.uint8
        ),
        view_matrices=torch.randn(B, V, 4, 4, generator=generator),
        projection_matrices=torch.randn(B, V, 4, 4, generator=generator),
        point_index=torch.rand(B, V, num_local, generator=generator).argsort(dim=-1)[..., :K],
        pixels=torch.rand(B, V, K, 2, generator=generator) * SIZE_PX,
        correspondence_mask=mask,
        valid=torch.tensor([True, True, True, False]),
    )


def make_features(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return ImageFeatures(
        local=torch.randn(B, V, LOCAL_WIDTH, 4, 4, generator=generator),
        pooled=torch.randn(B, V, POOLED_WIDTH, generator=generator),
    )


def make_model(config=TINY):
    torch.manual_seed(0)
    return PretrainModel(config, LOCAL_WIDTH, POOLED_WIDTH)


def coordinate_map(cells, size_px):
    """A map whose value in each cell is the pixel position (u, v) of the cell's centre."""
    centres = (torch.arange(cells) + 0.5) * (size_px / cells)
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([u, v])[None, None]


def test_a_sampled_map_of_positions_gives_the_pixel_back():
    """Bilinear interpolation is exact for a linear map, so only a shifted convention can fail."""
    feature_map = coordinate_map(cells=14, size_px=224)
    pixels = 8 + 208 * torch.rand(1, 1, 50, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sample_map(feature_map, pixels, 224), pixels)


def test_beyond_the_outermost_centres_the_border_cell_is_repeated():
    feature_map = coordinate_map(cells=14, size_px=224)
    corners = torch.tensor([[[[0.0, 0.0], [224.0, 3.0]]]])
    assert sample_map(feature_map, corners, 224).tolist() == [[[[8, 8], [216, 8]]]]


def test_the_map_of_each_picture_is_sampled_at_its_own_pixels():
    features = make_features().local
    pixels = torch.rand(B, V, K, 2, generator=torch.Generator().manual_seed(0)) * SIZE_PX
    together = sample_map(features, pixels, SIZE_PX)
    for b in range(B):
        for v in range(V):
            alone = sample_map(features[b, v][None, None], pixels[b, v][None, None], SIZE_PX)
            torch.testing.assert_close(together[b, v], alone[0, 0])


def test_a_pixel_lies_in_the_cell_whose_centre_is_nearest():
    pixels = torch.rand(1, 1, 200, 2, generator=torch.Generator().manual_seed(0)) * 224
    centres = coordinate_map(14, 224)[0, 0].flatten(1).T
    nearest = torch.cdist(pixels[0, 0], centres).argmin(dim=1)
    assert pixel_to_cell(pixels, 224, 14)[0, 0].equal(nearest)
    edge = torch.tensor([[[[224.0, 224.0], [0.0, 0.0], [224.0, 0.0]]]])
    assert pixel_to_cell(edge, 224, 14).flatten().tolist() == [195, 0, 13]


def test_gathered_points_are_those_of_the_index():
    local = torch.randn(B, N, 5, generator=torch.Generator().manual_seed(0))
    index = make_batch().point_index
    gathered = gather_points(local, index)
    for b, v, k in ((0, 0, 0), (3, 1, 5), (2, 0, 4)):
        assert gathered[b, v, k].equal(local[b, index[b, v, k]])


@pytest.mark.parametrize("config", [TINY, TINY_POINTNEXT], ids=["dgcnn", "pointnext"])
def test_what_is_masked_never_matters(config):
    model, image = make_model(config), make_features()
    batch = make_batch(num_local=model.point_encoder.num_local(N))
    counted = batch.correspondence_mask & batch.valid[:, None, None]
    noise = torch.Generator().manual_seed(9)
    dirty = dataclasses.replace(
        batch,
        points=batch.points.clone(),
        point_index=torch.where(counted, batch.point_index, 10**6),
        pixels=torch.where(counted[..., None], batch.pixels, torch.nan),
    )
    dirty.points[3] = torch.randn(N, 3, generator=noise)
    dirty.view_matrices[3] = 7.0
    dirty_image = ImageFeatures(local=image.local.clone(), pooled=image.pooled.clone())
    dirty_image.local[3], dirty_image.pooled[3] = 100.0, -100.0
    results = []
    for b, i in ((batch, image), (dirty, dirty_image)):
        model.zero_grad()
        terms = pretraining_loss(model(b, i), LossConfig(), (B,))
        terms.total.backward()
        results.append([terms.total.detach(), *(p.grad.clone() for p in model.parameters())])
    for clean, other in zip(*results, strict=True):
        torch.testing.assert_close(clean, other, rtol=1e-5, atol=1e-7)


def test_embeddings_of_counted_rows_have_unit_length():
    batch = make_batch()
    embeddings = make_model()(batch, make_features())
    for name in ("point_pooled", "picture_pooled", "point_local", "picture_local"):
        norms = getattr(embeddings, name).norm(dim=-1)[batch.valid]
        torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("fusion", ["penultimate", "output", "none"])
def test_a_step_moves_every_parameter_and_nothing_of_the_image_encoder(fusion):
    heads = dataclasses.replace(TINY.heads, pose_fusion=fusion)
    encoder = ImageEncoder(ImageEncoderConfig(input_px=SIZE_PX, precision="float32"))
    torch.manual_seed(0)
    model = PretrainModel(
        dataclasses.replace(TINY, heads=heads), encoder.local_width, encoder.pooled_width
    )
    whole = torch.nn.ModuleList([model, encoder]).train()
    frozen = {name: value.clone() for name, value in encoder.state_dict().items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in whole.parameters() if p.requires_grad], lr=1e-3)
    batch = make_batch()
    embeddings = model(batch, encoder(batch.pictures))
    pretraining_loss(embeddings, LossConfig(), (B,)).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # A bias that a norm takes out again gets rounding noise, of some 1e-8.
        assert parameter.grad.abs().max() > 1e-6, name
    optimiser.step()
    update_running_statistics(model)
    assert all(not value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(value.equal(frozen[name]) for name, value in encoder.state_dict().items())


def test_shapes_and_pictures_are_embedded_for_retrieval_as_in_training():
    model = make_model().eval()
    batch, image = make_batch(), make_features()
    batch = dataclasses.replace(batch, valid=torch.ones(B, dtype=torch.bool))
    embeddings = model(batch, image)
    torch.testing.assert_close(
        model.embed_shapes(model.encode_pooled(batch.points)), embeddings.point_pooled
    )
    torch.testing.assert_close(model.embed_pictures(image), embeddings.picture_pooled)
    assert model.encode_pooled(batch.points).shape == (B, model.point_encoder.pooled_width)


def test_an_encoder_that_sorts_points_anew_is_not_pre_trained():
    sorting = dataclasses.replace(POINTNEXT_S, sampling="farthest")
    with pytest.raises(ValueError, match="use sampling=stored"):
        make_model(dataclasses.replace(TINY, point_encoder=sorting))


@pytest.mark.parametrize("config", [TINY, TINY_POINTNEXT], ids=["dgcnn", "pointnext"])
def test_training_on_one_batch_finds_the_partners(config):
    model, image = make_model(config), make_features()
    batch = make_batch(num_local=model.point_encoder.num_local(N))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        terms = pretraining_loss(model(batch, image), LossConfig(), (B,))
        terms.total.backward()
        optimiser.step()
    assert terms.pooled_top1 == 1
    assert terms.local_top1 > 0.9
