import json

import pytest
import torch
from safetensors.torch import save_file

import picpoint
from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import PointNext, PointNextConfig
from picpoint.weights.encoder_file import EncoderFileError, save_encoder

DGCNN = Dgcnn(DgcnnConfig(widths=(4, 4), pooled_width=8, num_neighbours=3), 2)


@pytest.mark.parametrize(
    "encoder",
    [DGCNN, PointNext(PointNextConfig(width=4, strides=(2,), blocks=(1,), local_stage=1), 2)],
    ids=["dgcnn", "pointnext"],
)
def test_an_encoder_comes_back_as_it_was_saved(encoder, tmp_path):
    save_encoder(encoder, tmp_path)
    loaded = picpoint.load(tmp_path)
    assert loaded.config == encoder.config
    assert not loaded.training
    points = torch.rand(2, 16, 3)
    assert torch.equal(loaded(points).pooled, encoder.eval()(points).pooled)
    assert torch.equal(loaded(points).local, encoder.eval()(points).local)


def test_a_name_that_is_no_folder_and_none_of_the_hub_is_refused(tmp_path):
    with pytest.raises(EncoderFileError, match="no such folder, and no name on the Hub"):
        picpoint.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", None, "config.json: not there"),
        ("config.json", b"{", "no JSON"),
        ("config.json", b'{"format": "other"}', "format is 'other'"),
        ("config.json", b"[]", "format is None"),
        ("model.safetensors", None, "model.safetensors: not there"),
        ("model.safetensors", b"PK\x03\x04 a pickle", "damaged"),
    ],
)
def test_a_folder_that_holds_no_encoder_is_refused(file, content, said, tmp_path):
    save_encoder(DGCNN, tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(EncoderFileError, match=said):
        picpoint.load(tmp_path)


def test_tensors_of_another_shape_and_such_as_are_no_numbers_are_refused(tmp_path):
    save_encoder(DGCNN, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["point_encoder"]["pooled_width"] = 9
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderFileError, match="does not fit"):
        picpoint.load(tmp_path)
    save_encoder(DGCNN, tmp_path)
    state = {name: value.clone() for name, value in DGCNN.state_dict().items()}
    state["linear.weight"][0, 0] = torch.nan
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(EncoderFileError, match=r"linear\.weight is not finite"):
        picpoint.load(tmp_path)
