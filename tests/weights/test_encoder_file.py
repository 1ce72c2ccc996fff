import pytest
import torch

from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import PointNext, PointNextConfig
from picpoint.weights.encoder_file import EncoderFileError, load_encoder, save_encoder


@pytest.mark.parametrize(
    "encoder",
    [
        Dgcnn(DgcnnConfig(widths=(4, 4), pooled_width=8, num_neighbours=3), 2),
        PointNext(PointNextConfig(width=4, strides=(2,), blocks=(1,), local_stage=1), 2),
    ],
    ids=["dgcnn", "pointnext"],
)
def test_an_encoder_comes_back_as_it_was_saved(encoder, tmp_path):
    save_encoder(encoder, tmp_path / "encoder.pt")
    loaded = load_encoder(tmp_path / "encoder.pt", ghost_batch=2)
    assert loaded.config == encoder.config
    points = torch.rand(2, 16, 3)
    assert torch.equal(loaded.eval()(points).pooled, encoder.eval()(points).pooled)


@pytest.mark.parametrize("content", [{"a": torch.ones(1)}, [1], {"format": "other"}])
def test_another_file_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(EncoderFileError, match="write one with picpoint import-weights"):
        load_encoder(tmp_path / "other.pt")
