"""EfficientNet-Lite0, 1 and 2 of their PyPI packages, rebuilt for inference.

Cells of the local map. The method samples the map at a point's pixel, as if cell i of stride s saw
the pixels s * i .. s * (i + 1). Uneven padding makes one expect otherwise: the outermost limits of
what a cell of EfficientNet-Lite0 can see are centred half a cell further right and down. But its
trained kernels lean back: weighted by their gradient, the pixels that a cell depends on are centred
on the tile (off by 0.1 px at stride 8, 2 px at stride 16, tests/encoders/test_image.py), and moving
the padding would break that. So the padding stays as published.
"""

from typing import Literal, cast

from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.model import MBConvBlock
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from picpoint.encoders.image_network import ImageNetwork, Normalisation, Tapped, last_width
from picpoint.encoders.image_weights import load_strictly

LiteName = Literal["lite0", "lite1", "lite2"]


def build_lite(
    name: LiteName, stride: int, input_px: int, state: dict[str, Tensor]
) -> ImageNetwork:
    """Build an EfficientNet-Lite with a tap behind the last block of a stride: 8, 16 or 32.

    Raises:
        WeightsError: the weights do not fit.
    """
    lite = EfficientNet.from_name(f"efficientnet-{name}", image_size=input_px)
    load_strictly(lite, state, name)
    lite.eval()
    published = [cast(MBConvBlock, block) for block in lite._blocks]
    tap = _blocks_of_stride(published, stride)
    blocks = [_rebuild_block(block) for block in published]
    stem = [*_fold(lite._conv_stem, lite._bn0), nn.ReLU6(inplace=True)]
    head = [*_fold(lite._conv_head, lite._bn1), nn.ReLU6(inplace=True)]
    return ImageNetwork(
        layers=Tapped(nn.Sequential(*stem, *blocks[:tap]), nn.Sequential(*blocks[tap:], *head)),
        local_width=last_width(blocks[tap - 1]),
        pooled_width=lite._fc.in_features,
        normalisation=Normalisation(mean=(0.498, 0.498, 0.498), std=(0.502, 0.502, 0.502)),
    )


def _blocks_of_stride(blocks: list[MBConvBlock], stride: int) -> int:
    """Count the blocks that come before the stride grows further; the stem's is 2."""
    reached, count = 2, 0
    for block in blocks:
        reached *= max(block._depthwise_conv.stride)
        if reached > stride:
            break
        count += 1
    return count


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
        layers += [*_fold(block._expand_conv, block._bn0), nn.ReLU6(inplace=True)]
    layers += [*_fold(block._depthwise_conv, block._bn1)]
    layers += [nn.ReLU6(inplace=True), *_fold(block._project_conv, block._bn2)]
    kept_size = max(block._depthwise_conv.stride) == 1
    kept_width = block._block_args.input_filters == block._block_args.output_filters
    sequence = nn.Sequential(*layers)
    return _Residual(sequence) if block.id_skip and kept_size and kept_width else sequence


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> list[nn.Module]:
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
