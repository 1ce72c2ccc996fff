"""What is no batch of clouds is refused by name also where annotations are not checked."""

import dataclasses

import jaxtyping
import pytest
import torch

from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import POINTNEXT_S, PointNext


@pytest.fixture
def as_in_production():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("shape", [(64, 3), (2, 3, 64), (2, 64, 6), (1, 2, 64, 3)])
@pytest.mark.parametrize("sampling", ["stored", "farthest", "dgcnn"])
def test_what_is_no_batch_of_clouds_is_refused(shape, sampling):
    if sampling == "dgcnn":
        encoder = Dgcnn(DgcnnConfig(), 2)
    else:
        encoder = PointNext(dataclasses.replace(POINTNEXT_S, width=4, sampling=sampling), 2)
    with pytest.raises(ValueError, match="an encoder takes clouds x points x 3"):
        encoder(torch.rand(shape))
