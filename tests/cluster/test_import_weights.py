"""`picpoint import-weights` writes an encoder file, or says in one line why not."""

import torch

from cluster.app import main
from picpoint.encoders.pointnext import PointNext, PointNextConfig
from picpoint.weights.encoder_file import load_encoder
from picpoint.weights.public_names import public_names

SHAPE = [
    "point_encoder=pointnext_s",
    "point_encoder.width=4",
    "point_encoder.strides=[2,2]",
    "point_encoder.blocks=[0,0]",
]
CONFIG = PointNextConfig(width=4, strides=(2, 2), blocks=(0, 0))


def _save_public(path):
    encoder = PointNext(CONFIG, 2)
    names = public_names(CONFIG)
    state = {f"encoder.{names[name]}": value for name, value in encoder.state_dict().items()}
    torch.save({"model": state}, path)
    return encoder


def test_an_imported_file_is_written_with_its_shape_and_every_tensor_told_of(tmp_path, capsys):
    source = _save_public(tmp_path / "public.pth")
    arguments = [str(tmp_path / "public.pth"), str(tmp_path / "encoder"), *SHAPE]
    assert main(["import-weights", *arguments]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("used") for line in printed) == len(source.state_dict())
    assert any("no tensor tells it: point_encoder.strides=(2, 2), " in line for line in printed)
    loaded = load_encoder(tmp_path / "encoder")
    assert loaded.config == CONFIG
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_another_shape_is_refused_in_one_line_after_the_table(tmp_path, capsys):
    _save_public(tmp_path / "public.pth")
    arguments = [str(tmp_path / "public.pth"), str(tmp_path / "encoder"), *SHAPE]
    assert main(["import-weights", *arguments, "point_encoder.width=8"]) == 4
    printed = capsys.readouterr()
    assert "refused" in printed.out
    assert len(printed.err.splitlines()) == 1
    assert "in the file" in printed.err
    assert not (tmp_path / "encoder").exists()


def test_a_missing_file_and_a_foreign_key_are_one_line(tmp_path, capsys):
    out = str(tmp_path / "encoder")
    assert main(["import-weights", str(tmp_path / "none.pth"), out]) == 5
    assert main(["import-weights", str(tmp_path / "none.pth"), out, "optim.lr=1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
