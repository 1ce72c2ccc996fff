"""Other packages' encoders compute what ours do, given the same parameters and neighbours.

Their float32 differs from their own float64 by more than 1e-4 (BatchNorm over half a million edges
of one list), so both precisions of ours are held against their float64.
"""

import pytest
import torch
from peers_at_hand import needs
from torch import Tensor

from benchmarks.peer_openpoints import openpoints_dgcnn, openpoints_pointnext
from benchmarks.peer_torch_pointcloud import (
    Peer,
    torch_pointcloud_dgcnn,
    torch_pointcloud_pointnext,
)
from picpoint.batch import PointFeatures
from picpoint.encoders import dgcnn
from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import PointNext, PointNextConfig
from picpoint.ops.ghost_norm import GhostBatchNorm
from picpoint.ops.neighbours import nearest_neighbours
from picpoint.weights.import_public import import_public

pytestmark = pytest.mark.filterwarnings("ignore")

POINTNEXTS = {
    "s": PointNextConfig(width=8, radius=0.4, num_neighbours=8),
    "b": PointNextConfig(
        "pointnext_b",
        width=8,
        radius=0.4,
        num_neighbours=8,
        blocks=(1, 2, 0, 1),
        abstraction_layers=1,
    ),
}


def _mixed(encoder):
    """Gives BatchNorm scales of both signs."""
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, GhostBatchNorm):
                module.weight.normal_()
                module.bias.normal_()
    return encoder


def _clouds() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(4, 64, 3, generator=generator) - 0.5).double()


def _parts(features: PointFeatures, parameters: list[Tensor]) -> list[Tensor]:
    """Features and the gradients of a weighted sum of them."""
    generator = torch.Generator().manual_seed(2)
    total = torch.zeros((), dtype=features.local.dtype)
    for part in (features.local, features.pooled):
        weight = torch.randn(part.shape, generator=generator, dtype=torch.float64)
        total = total + (part * weight.to(part)).sum()
    return [features.local, features.pooled, *torch.autograd.grad(total, parameters)]


def _check(encoder, peer: Peer, tolerance: float, features: PointFeatures) -> None:
    """Compares features and gradients, each to its own scale."""
    names = [name for name, _ in encoder.named_parameters()]
    theirs = dict(peer.module.named_parameters())
    oracle = _parts(peer.forward(_clouds()), [theirs[peer.names[name]] for name in names])
    oracle[2:] = [peer.read(name, x) for name, x in zip(names, oracle[2:], strict=True)]
    mine = _parts(features, list(encoder.parameters()))
    largest = max(x.abs().max() for x in oracle)
    for name, x, y in zip(["local", "pooled", *names], mine, oracle, strict=True):
        scale = max(y.abs().max(), 1e-3 * largest)
        assert (x - y.reshape(x.shape)).abs().mean() / scale < tolerance, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("kind", POINTNEXTS)
@pytest.mark.parametrize("package", ["torch_pointcloud", "openpoints"])
def test_pointnext_computes_what_the_peer_does(package, kind, dtype, tolerance):
    needs(package)
    torch.manual_seed(0)
    exact = _mixed(PointNext(POINTNEXTS[kind], ghost_batch=4).double())
    if package == "openpoints":
        peer = openpoints_pointnext(exact)
    else:
        peer = torch_pointcloud_pointnext(exact, repeated=True)
    encoder = PointNext(POINTNEXTS[kind], ghost_batch=4).to(dtype)
    encoder.load_state_dict(exact.state_dict())
    # Coordinates that float32 holds exactly, so that both find the same neighbours.
    _check(encoder, peer, tolerance, encoder(_clouds().to(dtype)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("package", ["torch_pointcloud", "openpoints"])
def test_dgcnn_computes_what_the_peer_does(package, dtype, tolerance, monkeypatch):
    """The peer is told the neighbours that ours found: near-ties fall out differently."""
    needs(package)
    torch.manual_seed(0)
    config = DgcnnConfig(widths=(8, 8, 16, 32), pooled_width=32, num_neighbours=6)
    exact = _mixed(Dgcnn(config, ghost_batch=4).double())
    found: list[Tensor] = []

    def record(points: Tensor, k: int) -> Tensor:
        found.append(nearest_neighbours(points, k))
        return found[-1]

    def replay(points: Tensor, k: int) -> Tensor:
        return found.pop(0)

    monkeypatch.setattr(dgcnn, "nearest_neighbours", record)
    encoder = Dgcnn(config, ghost_batch=4).to(dtype)
    encoder.load_state_dict(exact.state_dict())
    features = encoder(_clouds().to(dtype))
    build = openpoints_dgcnn if package == "openpoints" else torch_pointcloud_dgcnn
    _check(encoder, build(exact, replay), tolerance, features)
    assert not found


@pytest.mark.parametrize("kind", POINTNEXTS)
def test_a_state_of_openpoints_is_imported_as_it_is(kind):
    needs("openpoints")
    torch.manual_seed(0)
    source = PointNext(POINTNEXTS[kind], ghost_batch=4)
    peer = openpoints_pointnext(source)
    for parameter in peer.module.parameters():
        torch.nn.init.normal_(parameter)
    encoder = PointNext(POINTNEXTS[kind], ghost_batch=4)
    import_public(encoder, POINTNEXTS[kind], peer.module.state_dict())
    peer.module.eval()
    points = _clouds().float()
    expected = peer.forward(points).pooled
    found = encoder.eval()(points).pooled
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
