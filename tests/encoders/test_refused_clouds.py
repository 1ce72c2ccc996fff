"""What encoders take: shards' float16 too; no shape but a batch of clouds, in production too."""

import dataclasses

import jaxtyping
import pytest
import torch

from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import POINTNEXT_S, PointNext

# PointNeXt by its sampling.
KINDS = ("stored", "farthest", "dgcnn")


@pytest.fixture
def as_in_production():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def _encoder(kind: str) -> Dgcnn | PointNext:
    torch.manual_seed(0)
    if kind == "dgcnn":
        return Dgcnn(DgcnnConfig(), 2)
    return PointNext(dataclasses.replace(POINTNEXT_S, width=4, sampling=kind), 2)


@pytest.mark.parametrize("kind", KINDS)
def test_points_of_float16_are_taken_as_the_numbers_they_are(kind):
    encoder = _encoder(kind).eval()
    points = torch.rand(2, 64, 3, generator=torch.Generator().manual_seed(1)).half()
    features = encoder(points)
    assert features.pooled.dtype == features.local.dtype == torch.float32
    assert torch.equal(features.pooled, encoder(points.float()).pooled)


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("shape", [(64, 3), (2, 3, 64), (2, 64, 6), (1, 2, 64, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_batch_of_clouds_is_refused(shape, kind):
    with pytest.raises(ValueError, match="an encoder takes clouds x points x 3"):
        _encoder(kind)(torch.rand(shape))
