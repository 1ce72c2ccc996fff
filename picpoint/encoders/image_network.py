"""What is an image network to the encoder? Layers, widths, and what it expects of pictures."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a network expects of its input, per RGB channel of pictures in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class ImageNetwork:
    """A trained network in evaluation, still in float32.

    Attributes:
        layers: pictures (n, 3, px, px) -> local maps (n, C_local, h, w) and pooled features
            (n, C_pooled).
        local_width: channels of the local map.
        pooled_width: channels of the pooled feature.
        normalisation: of its input.
    """

    layers: nn.Module
    local_width: int
    pooled_width: int
    normalisation: Normalisation


class Tapped(nn.Module):
    """A convolutional network cut at its local tap; what follows is averaged over the picture."""

    def __init__(self, to_local: nn.Sequential, to_pooled: nn.Sequential) -> None:
        super().__init__()
        self.to_local = to_local
        self.to_pooled = to_pooled

    def forward(
        self, pictures: Float[Tensor, "n 3 px px"]
    ) -> tuple[Float[Tensor, "n C_local h w"], Float[Tensor, "n C_pooled"]]:
        """Describe pictures at two scales."""
        local = self.to_local(pictures)
        return local, self.to_pooled(local).mean(dim=(2, 3), dtype=torch.float32)


def last_width(layers: nn.Module) -> int:
    """Tell how many channels the last convolution gives."""
    return [c.out_channels for c in layers.modules() if isinstance(c, nn.Conv2d)][-1]
