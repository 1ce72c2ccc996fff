"""`picpoint doctor --image-encoder`: what it tells is what the network is."""

import pytest

from cluster import doctor_image
from cluster.app import main


def test_the_doctor_tells_what_an_image_encoder_is_and_costs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_image, "_LEAST_S", 0.01)
    arguments = ["doctor", "--image-encoder", "lite0", "image_encoder.input_px=64"]
    assert main([*arguments, "image_encoder.precision=float32"]) == 0
    said = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in said.splitlines() if line[0] != " ")
    assert rows["lite0"] == "at 64 px, float32 on cpu"
    assert rows["SHA-256"].startswith("57934424")
    # 4.652 M published, less a classifier of 1280 x 1000 and BatchNorm, which is folded.
    assert rows["parameters"].startswith("3.35 M")
    assert rows["local"] == "map   stride 16: 4 x 4 x 112"
    assert "or stride 8: 8 x 8 x 40" in said
    assert "or stride 32: 2 x 2 x 320" in said
    assert rows["pooled"] == "1280"
    assert float(rows["speed"].split()[0]) > 0
    # 0.407 G products at 224 px (the package's authors), the classifier's 1.28 M among them.
    at_224_px = 2 * (0.407e9 - 1.28e6)
    told = float(rows["FLOPs"].split()[0]) * 1e9
    assert told == pytest.approx(at_224_px * (64 / 224) ** 2, rel=0.12)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--image-encoder", "resnet18", "image_encoder.weights=no/file"], 3, "no weight file"),
        (["--image-encoder", "lite9"], 2, "there are: lite0, lite1, lite2, resnet18"),
        (["--image-encoder", "lite0", "optim.lr=1"], 2, "only the image encoder can be set here"),
        (["image_encoder.stride=8"], 2, "of which --image-encoder NAME?"),
        (["--image-encoder", "lite0", "image_encoder.stride=14"], 2, "a map of stride 8 or 16"),
    ],
)
def test_what_the_doctor_cannot_load_is_told_in_one_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *arguments]) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
