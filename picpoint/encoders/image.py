"""What does a frozen, ImageNet-trained network say of a picture? Weights, feature taps, speed.

The network is rebuilt for inference: BatchNorm is folded into the convolutions before it (so there
are no statistics that could drift), memory is channels-last, and the arithmetic is that of
`ImageEncoderConfig.precision`. Features leave in float32. Each family of networks has its file:
resnet.py, efficientnet_lite.py, vit.py.
"""

from dataclasses import astuple, dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from picpoint.batch import ImageFeatures
from picpoint.encoders.efficientnet_lite import build_lite
from picpoint.encoders.image_network import ImageNetwork
from picpoint.encoders.image_weights import (
    NetworkName,
    check_digest,
    find_weights,
    read_state,
)
from picpoint.encoders.resnet import build_resnet
from picpoint.encoders.vit import build_vit
from picpoint.ops.precision import has_bfloat16

Stride = Literal[8, 14, 16, 32]

_CPU = torch.device("cpu")
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
            14 x 14 map at 224 px, because stride 32 leaves 49 cells to tell 128 points apart. A
            convolutional network has 8, 16 and 32, a vision transformer the side of its patches.
        weights: `default` (the packaged file of an EfficientNet-Lite, the torch hub's cache of
            others), or the path of a local weight file.
        precision: of the arithmetic. `bfloat16` is about twice as fast where the hardware has it,
            and `auto` takes it there; features of both agree to a mean cosine of 0.999.
        input_px: side to which pictures are resized by area first. Paper: unspecified; here 224,
            what these networks were trained for; 160 costs two thirds, 128 half.
        compile: whether `torch.compile` translates the network at its first pictures, and again at
            another number of them. On one CPU core that takes half a minute and makes Lite0 5 %
            faster; on a GPU it is not measured.
    """

    name: NetworkName = "lite0"
    stride: Stride = 16
    weights: str = "default"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    input_px: int = 224
    compile: bool = False

    def __post_init__(self) -> None:
        if self.stride not in (strides := strides_of(self.name)):
            raise ValueError(
                f"image_encoder.stride={self.stride}: {self.name} has a map of stride "
                + " or ".join(map(str, strides))
            )
        if self.input_px < self.stride or self.input_px % self.stride:
            raise ValueError(
                f"image_encoder.input_px={self.input_px} must be a multiple of "
                f"stride={self.stride}, so that cells tile the picture; 224, 160 and 128 are usual"
            )


def strides_of(name: NetworkName) -> tuple[int, ...]:
    """Tell the strides of the maps that a network has, in input pixels per cell."""
    if not name.startswith("vit_"):
        return (8, 16, 32)
    return (14,) if name.endswith("_dinov2") else (16,)


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
            MissingPackageError: a vision transformer, and timm is not installed.
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
        self.layers = _freeze(network.layers, self._dtype)
        if config.compile:
            self.layers.compile(dynamic=False)
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
        # The precision is the config's, not that of the model around it.
        with torch.autocast(pictures.device.type, enabled=False):
            local, pooled = self.layers(self._normalise(pictures))
            return local.float(), pooled.float()

    def _normalise(self, pictures: UInt8[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 px px"]:
        values = pictures.to(torch.float32, memory_format=torch.channels_last)
        if pictures.shape[-1] != self._input_px or pictures.shape[-2] != self._input_px:
            values = functional.interpolate(values, size=[self._input_px] * 2, mode="area")
        scale, shift = self.get_buffer("_scale"), self.get_buffer("_shift")
        return (values * scale + shift).to(self._dtype)


def _freeze(layers: nn.Module, dtype: torch.dtype) -> nn.Module:
    layers = layers.eval().requires_grad_(False).to(dtype)
    return layers.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _build_network(config: ImageEncoderConfig, state: dict[str, Tensor]) -> ImageNetwork:
    match config.name:
        case "lite0" | "lite1" | "lite2":
            return build_lite(config.name, config.stride, config.input_px, state)
        case "resnet18" | "resnet50":
            return build_resnet(config.name, config.stride, state)
        case _:
            return build_vit(config.name, config.stride, config.input_px, state)
