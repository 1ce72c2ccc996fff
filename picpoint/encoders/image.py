"""What does a frozen, ImageNet-trained network say of a picture? Weights, feature taps, speed.

The network is rebuilt for inference: BatchNorm is folded into the convolutions before it (so there
are no statistics that could drift), memory is channels-last, and the arithmetic is that of
`ImageEncoderConfig.precision`. Features leave in float32.

Cells of the local map. The method samples the map at a point's pixel, as if cell i of stride s saw
the pixels s * i .. s * (i + 1). Uneven padding makes one expect otherwise: the outermost limits of
what a cell of EfficientNet-Lite0 can see are centred half a cell further right and down. But its
trained kernels lean back: weighted by their gradient, the pixels that a cell depends on are centred
on the tile (off by 0.1 px at stride 8, 2 px at stride 16, tests/encoders/test_image.py), and moving
the padding would break that. So the padding stays as published.
"""

from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.model import MBConvBlock
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from picpoint.batch import ImageFeatures
from picpoint.encoders.image_weights import (
    NetworkName,
    check_digest,
    find_weights,
    load_strictly,
    read_state,
)
from picpoint.encoders.torchvision_import import import_torchvision
from picpoint.ops.precision import has_bfloat16

Stride = Literal[8, 16, 32]

_RESNET_STAGE = {8: "layer2", 16: "layer3", 32: "layer4"}
_CPU = torch.device("cpu")
_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
# How many blocks of EfficientNet-Lite0 come before the stride grows further.
_LITE0_BLOCKS = {8: 5, 16: 11, 32: 16}
# Pictures are described a few at a time on a CPU: past 32 MB of activations the C library maps and
# unmaps memory for each layer, which halves the speed.
_CPU_CHUNK_PIXELS = 8 * 224 * 224


@dataclass(frozen=True, slots=True)
class ImageEncoderConfig:
    """Which frozen network looks at the pictures.

    Attributes:
        name: network. Paper: ResNet-18; here EfficientNet-Lite0, because its weights come as an
            ordinary Python package and the other ones need a download.
        stride: pixels of its input per cell of the local map. Paper: unspecified; here 16, a
            14 x 14 map at 224 px, because stride 32 leaves 49 cells to tell 128 points apart.
        weights: `default` (the packaged file of lite0, the torch hub cache of a ResNet), or the
            path of a local weight file.
        precision: of the arithmetic. `bfloat16` is about twice as fast where the hardware has it,
            and `auto` takes it there; features of both agree to a mean cosine of 0.999.
        input_px: side to which pictures are resized by area first. Paper: unspecified; here 224,
            what these networks were trained for; 160 costs two thirds, 128 half.
    """

    name: NetworkName = "lite0"
    stride: Stride = 16
    weights: str = "default"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    input_px: int = 224

    def __post_init__(self) -> None:
        if self.input_px < self.stride or self.input_px % self.stride:
            raise ValueError(
                f"image_encoder.input_px={self.input_px} must be a multiple of "
                f"stride={self.stride}, so that cells tile the picture; 224, 160 and 128 are usual"
            )


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a network expects of its input, per RGB channel of pictures in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Network:
    """A network cut at its local tap, still in float32."""

    to_local: nn.Sequential
    to_pooled: nn.Sequential
    local_width: int
    pooled_width: int
    normalisation: Normalisation


class ImageEncoder(nn.Module):
    """A frozen image network: pictures -> local maps and one pooled feature per picture.

    It has no trainable parameter and no statistics, ignores `train()`, and runs without gradient.

    Attributes:
        local_width: channels of the local map.
        pooled_width: channels of the pooled feature.
        normalisation: mean and standard deviation applied to the pictures.
        weights_sha256: digest of the weight file, for result files.
        precision: of the arithmetic; what `auto` became.
    """

    def __init__(self, config: ImageEncoderConfig, device: torch.device = _CPU) -> None:
        """Build the network on a device and load its weights.

        Raises:
            MissingWeightsError: the weight file is not on this machine.
            WeightsError: the file is damaged, of another network, or not trained.
        """
        super().__init__()
        path = find_weights(config.name, config.weights)
        self.weights_sha256 = check_digest(path)
        network = _build_network(config, read_state(path))
        self.normalisation = network.normalisation
        self.local_width = network.local_width
        self.pooled_width = network.pooled_width
        self._input_px = config.input_px
        is_narrow = config.precision == "bfloat16" or (
            config.precision == "auto" and has_bfloat16(device)
        )
        self.precision = "bfloat16" if is_narrow else "float32"
        self._dtype = torch.bfloat16 if is_narrow else torch.float32
        self._to_local = _freeze(network.to_local, self._dtype)
        self._to_pooled = _freeze(network.to_pooled, self._dtype)
        mean, std = (torch.tensor(v) for v in astuple(network.normalisation))
        self.register_buffer("_scale", (1 / (255 * std))[:, None, None], persistent=False)
        self.register_buffer("_shift", (-mean / std)[:, None, None], persistent=False)
        self.train(False)
        self.to(device)

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Stay in evaluation mode, whatever is asked of the model around it."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, pictures: UInt8[Tensor, "B V 3 H W"]) -> ImageFeatures:
        """Describe pictures at two scales, in float32 and without gradient."""
        rows = pictures.flatten(0, 1)
        chunk = len(rows) if rows.is_cuda else max(1, _CPU_CHUNK_PIXELS // self._input_px**2)
        parts = [self._describe(part) for part in rows.split(max(1, chunk))]
        local, pooled = (torch.cat(both) for both in zip(*parts, strict=True))
        shape = pictures.shape[:2]
        return ImageFeatures(local=local.unflatten(0, shape), pooled=pooled.unflatten(0, shape))

    def _describe(
        self, pictures: UInt8[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n C_local h w"], Float[Tensor, "n C_pooled"]]:
        """Give the local maps and the pooled features of some pictures, in float32."""
        local = self._to_local(self._normalise(pictures))
        pooled = self._to_pooled(local).mean(dim=(2, 3), dtype=torch.float32)
        return local.float(), pooled

    def _normalise(self, pictures: UInt8[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 px px"]:
        values = pictures.to(torch.float32, memory_format=torch.channels_last)
        if pictures.shape[-1] != self._input_px or pictures.shape[-2] != self._input_px:
            values = functional.interpolate(values, size=[self._input_px] * 2, mode="area")
        scale, shift = self.get_buffer("_scale"), self.get_buffer("_shift")
        return (values * scale + shift).to(self._dtype)


def _freeze(layers: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    layers = layers.eval().requires_grad_(False).to(dtype)
    return layers.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _build_network(config: ImageEncoderConfig, state: dict[str, Tensor]) -> _Network:
    match config.name:
        case "lite0":
            return _build_lite0(config, state)
        case "resnet18" | "resnet50":
            return _build_resnet(config, state)


def _build_resnet(config: ImageEncoderConfig, state: dict[str, Tensor]) -> _Network:
    resnet = import_torchvision().models.get_model(config.name, weights=None)
    load_strictly(resnet, state, config.name)
    resnet.eval()
    _fold_batch_norm(resnet)
    tap = _RESNET_STAGES.index(_RESNET_STAGE[config.stride]) + 1
    stages = [getattr(resnet, name) for name in _RESNET_STAGES]
    return _Network(
        to_local=nn.Sequential(resnet.conv1, nn.ReLU(inplace=True), resnet.maxpool, *stages[:tap]),
        to_pooled=nn.Sequential(*stages[tap:]),
        local_width=_last_width(stages[tap - 1]),
        pooled_width=resnet.fc.in_features,
        normalisation=Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )


def _fold_batch_norm(network: nn.Module) -> None:
    """Fold each BatchNorm into the convolution registered just before it; exact to rounding."""
    for module in list(network.modules()):
        for (name, first), (norm_name, second) in pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, norm_name, nn.Identity())


def _last_width(layers: nn.Module) -> int:
    return [c.out_channels for c in layers.modules() if isinstance(c, nn.Conv2d)][-1]


def _build_lite0(config: ImageEncoderConfig, state: dict[str, Tensor]) -> _Network:
    lite0 = EfficientNet.from_name("efficientnet-lite0", image_size=config.input_px)
    load_strictly(lite0, state, config.name)
    lite0.eval()
    blocks = [_rebuild_block(cast(MBConvBlock, block)) for block in lite0._blocks]
    stem = [*_fold_lite0(lite0._conv_stem, lite0._bn0), nn.ReLU6(inplace=True)]
    head = [*_fold_lite0(lite0._conv_head, lite0._bn1), nn.ReLU6(inplace=True)]
    tap = _LITE0_BLOCKS[config.stride]
    return _Network(
        to_local=nn.Sequential(*stem, *blocks[:tap]),
        to_pooled=nn.Sequential(*blocks[tap:], *head),
        local_width=_last_width(blocks[tap - 1]),
        pooled_width=lite0._fc.in_features,
        normalisation=Normalisation(mean=(0.498, 0.498, 0.498), std=(0.502, 0.502, 0.502)),
    )


class _Residual(nn.Module):
    """Layers whose input is added to their output, in place."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, features: Float[Tensor, "n C h w"]) -> Float[Tensor, "n C h w"]:
        """Add what the layers say to what they were given."""
        return self.layers(features).add_(features)


def _rebuild_block(block: MBConvBlock) -> nn.Module:
    """Rebuild a block of the package: BatchNorm folded, padding inside the convolutions."""
    layers: list[nn.Module] = []
    if hasattr(block, "_expand_conv"):
        layers += [*_fold_lite0(block._expand_conv, block._bn0), nn.ReLU6(inplace=True)]
    layers += [*_fold_lite0(block._depthwise_conv, block._bn1)]
    layers += [nn.ReLU6(inplace=True), *_fold_lite0(block._project_conv, block._bn2)]
    kept_size = max(block._depthwise_conv.stride) == 1
    kept_width = block._block_args.input_filters == block._block_args.output_filters
    sequence = nn.Sequential(*layers)
    return _Residual(sequence) if block.id_skip and kept_size and kept_width else sequence


def _fold_lite0(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> list[nn.Module]:
    """Fold a BatchNorm and turn the package's padding layer into the convolution's own.

    TensorFlow's `SAME` padding of a strided convolution is uneven, which a convolution of torch
    cannot do by itself; it keeps a layer of its own.
    """
    folded = fuse_conv_bn_eval(convolution, norm)
    before, after = getattr(convolution.static_padding, "padding", (0, 0))[:2]
    plain = nn.Conv2d(
        folded.in_channels,
        folded.out_channels,
        kernel_size=folded.kernel_size[0],
        stride=folded.stride[0],
        padding=before if before == after else 0,
        groups=folded.groups,
    )
    plain.load_state_dict(folded.state_dict())
    if before == after:
        return [plain]
    return [nn.ZeroPad2d((before, after, before, after)), plain]
