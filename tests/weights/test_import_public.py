import argparse
from pathlib import Path

import pytest
import torch
from torch import Tensor

from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import PointNext, PointNextConfig
from picpoint.weights.import_public import (
    ImportRefusedError,
    import_public,
    match_public,
    read_public,
)
from picpoint.weights.public_names import public_names
from picpoint.weights.table import format_lines

DGCNN = DgcnnConfig(widths=(8, 8), pooled_width=16, num_neighbours=4)
POINTNEXT = PointNextConfig(width=4, strides=(2, 2), blocks=(1, 0), radius=0.5, num_neighbours=6)


def _encoder(config):
    torch.manual_seed(0)
    encoder = Dgcnn(config, 2) if isinstance(config, DgcnnConfig) else PointNext(config, 2)
    for value in encoder.state_dict().values():
        value.copy_(torch.rand(value.shape))
    return encoder


def _public(config) -> dict[str, Tensor]:
    """What the public code would have saved of an encoder and a classifier."""
    names = public_names(config)
    state: dict[str, Tensor] = {}
    for ours, value in _encoder(config).state_dict().items():
        ones = (1, 1) if value.ndim == 2 else ()
        state[names[ours]] = value.reshape(*value.shape, *ones)
    if isinstance(config, DgcnnConfig):
        state["bn1.weight"] = state["conv1.1.weight"]
        state["conv1.1.num_batches_tracked"] = torch.tensor(7)
        return state | {"linear1.weight": torch.rand(5, 32), "bn6.bias": torch.rand(5)}
    state = {f"encoder.{name}": value for name, value in state.items()}
    return state | {"prediction.head.0.0.weight": torch.rand(5, 16)}


def _fresh(config):
    torch.manual_seed(1)
    return Dgcnn(config, 2) if isinstance(config, DgcnnConfig) else PointNext(config, 2)


@pytest.mark.parametrize("config", [DGCNN, POINTNEXT], ids=["dgcnn", "pointnext"])
@pytest.mark.parametrize("wrapped", ["bare", "parallel", "trainer"])
def test_an_imported_encoder_computes_what_the_public_one_did(config, wrapped, tmp_path: Path):
    state = _public(config)
    match wrapped:
        case "parallel":
            content: object = {f"module.{name}": value for name, value in state.items()}
        case "trainer":
            content = {"model": state, "optimizer": {"state": {}}, "epoch": 3}
        case _:
            content = state
    torch.save(content, tmp_path / "public.t7")
    encoder = _fresh(config)
    lines = import_public(encoder, config, read_public(tmp_path / "public.t7"))
    points = torch.rand(2, 32, 3, generator=torch.Generator().manual_seed(2))
    expected = _encoder(config).eval()(points)
    found = encoder.eval()(points)
    assert torch.equal(found.local, expected.local)
    assert torch.equal(found.pooled, expected.pooled)
    fates = [line.fate for line in lines]
    assert fates.count("used") == len(encoder.state_dict())
    assert fates.count("left over") == len(state) - len(encoder.state_dict())
    assert f"{fates.count('used')} used, 0 initialised" in format_lines(lines)


def _without(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != "conv2.0.weight"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_without, "edge_convs.1.linear.weight: not in the file"),
        (lambda s: s | {"conv2.0.weight": torch.rand(8, 15, 1, 1)}, r"\(8, 15, 1, 1\) in the file"),
        (lambda s: s | {"conv2.0.weight": torch.rand(8, 16, 3, 1)}, r"\(8, 16, 3, 1\) in the file"),
        (lambda s: s | {"conv1.1.bias": torch.full((8,), torch.nan)}, "not finite"),
        (lambda s: s | {"attention.weight": torch.rand(3)}, "attention.weight: .*of unknown use"),
    ],
)
def test_what_cannot_be_explained_is_refused_and_changes_nothing(change, named):
    encoder = _fresh(DGCNN)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ImportRefusedError, match=named) as raised:
        import_public(encoder, DGCNN, change(_public(DGCNN)))
    assert "\n" not in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_tensor_keeps_its_initial_value_only_where_that_is_asked_for():
    encoder = _fresh(DGCNN)
    before = encoder.edge_convs[1].linear.weight.clone()
    lines = import_public(encoder, DGCNN, _without(_public(DGCNN)), ("edge_convs.1.linear",))
    assert torch.equal(encoder.edge_convs[1].linear.weight, before)
    assert [line.ours for line in lines if line.fate == "initialised"] == [
        "edge_convs.1.linear.weight"
    ]


def test_the_table_can_be_had_without_importing():
    lines = match_public(_fresh(DGCNN), DGCNN, _without(_public(DGCNN)))
    assert [line.ours for line in lines if line.fate == "refused"] == ["edge_convs.1.linear.weight"]


class _Harmful:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("content", [{"model": _Harmful()}, [1, 2], {"model": {"epoch": 3}}])
def test_a_file_of_anything_but_tensors_is_refused_and_not_run(content, tmp_path, capsys):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ImportRefusedError, match=r"odd\.pth: holds"):
        read_public(tmp_path / "odd.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it ends too early"),
        (b"<!DOCTYPE html><html>Not found</html>", "no pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", "no pickle"),
        (b"hello", "no pickle"),
    ],
)
def test_what_a_download_leaves_instead_of_a_checkpoint_is_refused(content, reason, tmp_path):
    (tmp_path / "page.pth").write_bytes(content)
    with pytest.raises(ImportRefusedError, match=rf"page\.pth: .*damaged \(.*{reason}") as raised:
        read_public(tmp_path / "page.pth")
    assert "\n" not in str(raised.value)


def test_the_refusal_names_what_is_no_tensor_and_does_not_say_to_run_it(tmp_path):
    torch.save({"model": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "args.pth")
    with pytest.raises(ImportRefusedError, match=r"holds argparse\.Namespace, which") as raised:
        read_public(tmp_path / "args.pth")
    assert "trust" not in str(raised.value)
    assert str(raised.value).isprintable()


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ImportRefusedError, match=r"torn.pth: .*damaged"):
        read_public(tmp_path / "torn.pth")
