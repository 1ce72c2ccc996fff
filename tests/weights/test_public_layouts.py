"""Files of the public training codes, by their names and shapes: what is read of each."""

import dataclasses

import public_layouts
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import POINTNEXT_B, POINTNEXT_S, PointNext, PointNextConfig
from picpoint.ops.neighbours import nearest_neighbours
from picpoint.weights.import_public import ImportRefusedError, import_public

PARTS = dataclasses.replace(POINTNEXT_S, abstraction_layers=3, radius=0.1, radius_scaling=2.5)
SCENES_S, SCENES_B = (
    dataclasses.replace(config, strides=(4,) * 4, radius=0.1, radius_scaling=2.0)
    for config in (POINTNEXT_S, POINTNEXT_B)
)
SEGMENTERS = {
    "parts": (PARTS, public_layouts.pointnext_parts()),
    "scenes": (SCENES_S, public_layouts.pointnext_scenes((0, 0, 0, 0))),
    "scenes of B": (SCENES_B, public_layouts.pointnext_scenes((1, 2, 1, 1))),
}


def _dgcnn_as_published(state: dict[str, Tensor], points: Tensor, k: int) -> Tensor:
    """Pooled features by the file's own names: edges [x_j - x_i, x_i], in evaluation."""

    def block(x: Tensor, number: int) -> Tensor:
        name = f"conv{number}"
        mean, variance, weight, bias = (
            state[f"{name}.1.{kind}"].double()
            for kind in ("running_mean", "running_var", "weight", "bias")
        )
        x = x @ state[f"{name}.0.weight"].double().flatten(1).T
        x = (x - mean) / (variance + 1e-5).sqrt() * weight + bias
        return functional.leaky_relu(x, 0.2)

    x, levels = points.double(), []
    cloud = torch.arange(len(points))[:, None, None]
    for number in range(1, 5):
        near = x[cloud, nearest_neighbours(x, k)]
        own = x[:, :, None].expand_as(near)
        x = block(torch.cat([near - own, own], dim=-1), number).amax(dim=2)
        levels.append(x)
    wide = block(torch.cat(levels, dim=-1), 5)
    return torch.cat([wide.amax(dim=1), wide.mean(dim=1)], dim=-1)


@pytest.mark.parametrize("layout", ["dgcnn_classification", "crosspoint"])
def test_a_dgcnn_classifies_by_the_features_that_its_file_means(layout):
    torch.manual_seed(0)
    state = getattr(public_layouts, layout)()
    config = DgcnnConfig(num_neighbours=6)
    encoder = Dgcnn(config, 2)
    lines = import_public(encoder, config, state)
    assert sum(line.fate == "used" for line in lines) == len(encoder.state_dict())
    points = torch.rand(2, 40, 3, generator=torch.Generator().manual_seed(1))
    expected = _dgcnn_as_published(state, points, config.num_neighbours)
    found = encoder.double().eval()(points.double()).pooled
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_pointnext_classifier_is_read_whole():
    encoder = PointNext(POINTNEXT_S, 2)
    lines = import_public(encoder, POINTNEXT_S, public_layouts.pointnext_classification())
    assert sum(line.fate == "used" for line in lines) == len(encoder.state_dict())
    left = {line.theirs.split(".")[0] for line in lines if line.fate == "left over"}
    assert left == {"encoder", "prediction"}


def test_a_pointnext_of_scanobjectnn_has_another_stem():
    """Its fourth input is the height."""
    state = public_layouts.pointnext_classification(in_channels=4, num_classes=15)
    encoder = PointNext(POINTNEXT_S, 2)
    with pytest.raises(ImportRefusedError, match=r"^1 of .*stem.weight: \(32, 4, 1\) in the file"):
        import_public(encoder, POINTNEXT_S, state)
    lines = import_public(encoder, POINTNEXT_S, state, ("stem.weight",))
    assert [line.ours for line in lines if line.fate == "initialised"] == ["stem.weight"]


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_of_a_pointnext_segmenter_the_stages_are_read(kind):
    config, state = SEGMENTERS[kind]
    encoder = PointNext(config, 2)
    lines = import_public(encoder, config, state, ("stem.weight", "pool"))
    used = {line.ours for line in lines if line.fate == "used"}
    assert used == {name for name in encoder.state_dict() if not name.startswith("pool")} - {
        "stem.weight"
    }
    left = {line.theirs.split(".")[0] for line in lines if line.fate == "left over"}
    assert left == {"encoder", "decoder", "head"}


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_without_being_told_so_nothing_of_a_segmenter_begins_anew(kind):
    config, state = SEGMENTERS[kind]
    with pytest.raises(ImportRefusedError, match=r"stem\.weight: .* in the file, \(32, 3\) here"):
        import_public(PointNext(config, 2), config, state)


@pytest.mark.parametrize("layout", ["dgcnn_parts", "dgcnn_scenes"])
def test_a_dgcnn_segmenter_is_refused_as_what_it_is(layout):
    config = DgcnnConfig()
    with pytest.raises(ImportRefusedError, match="segmentation network") as raised:
        import_public(Dgcnn(config, 2), config, getattr(public_layouts, layout)())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "state"),
    [
        (DgcnnConfig(), public_layouts.pointnext_classification()),
        (POINTNEXT_S, public_layouts.dgcnn_classification()),
        (PointNextConfig(width=64), public_layouts.pointnext_classification()),
    ],
    ids=["pointnext as dgcnn", "dgcnn as pointnext", "another width"],
)
def test_a_file_of_another_network_is_refused(config, state):
    build = Dgcnn if isinstance(config, DgcnnConfig) else PointNext
    with pytest.raises(ImportRefusedError, match="tensors do not fit"):
        import_public(build(config, 2), config, state)
