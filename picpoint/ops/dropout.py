"""Which features are left out of a cloud in a step? Decided by (seed, step, slot), not by a rank.

Torch draws dropout's masks from a generator whose state a checkpoint would have to hold, for every
rank, and other ranks would draw other masks. Here each mask is a hash of where its element stands
in the global batch, so that a run that goes on, or has other ranks, leaves out the same.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

_MASK_64 = (1 << 64) - 1
# Of the hash, so many bits decide; a share is met to one part in 16 million.
_BITS = 24


class Dropout(nn.Module):
    """Leave out a share of the features in training, and scale the others up.

    Until `place_dropout` has said where a batch stands, masks are drawn as torch draws them.

    Args:
        share: of the features; from 0, and less than 1.

    Raises:
        ValueError: `share` is another number.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"dropout {share}: a share of 0 up to, but not including, 1")
        self.share = share
        self._key: int | None = None
        self._first_slot = 0

    def place(self, key: int, first_slot: int) -> None:
        """Say where the next batch stands.

        Args:
            key: of the layer in this step; 64 bits.
            first_slot: of the global batch, that the batch begins with.
        """
        self._key, self._first_slot = key, first_slot

    def forward(self, x: Float[Tensor, "B *features"]) -> Float[Tensor, "B *features"]:
        """Leave features out in training; give `x` as it is in evaluation."""
        if not self.training or self.share == 0:
            return x
        if self._key is None:
            return functional.dropout(x, self.share)
        kept = keep_mask(x.shape, self.share, self._key, self._first_slot, x.device)
        return x * kept / (1 - self.share)


def place_dropout(network: nn.Module, seed: int, step: int, first_slot: int) -> None:
    """Say where the next batch stands to every layer of dropout.

    Args:
        network: that has them.
        seed: of the run.
        step: updates made so far.
        first_slot: of the global batch, that this rank's part begins with.
    """
    layers = [module for module in network.modules() if isinstance(module, Dropout)]
    for number, layer in enumerate(layers):
        layer.place(_mix(_mix(_mix(seed) + step) + number), first_slot)


def keep_mask(
    shape: torch.Size, share: float, key: int, first_slot: int, device: torch.device
) -> Bool[Tensor, "*shape"]:
    """Tell which elements stay; the first axis is that of the global batch's slots."""
    per_slot = shape[1:].numel()
    first = first_slot * per_slot
    index = torch.arange(first, first + shape.numel(), device=device)
    hashed = _mix_tensor(index + _signed(key))
    top = (hashed >> (64 - _BITS)) & ((1 << _BITS) - 1)
    return (top >= round(share * (1 << _BITS))).view(shape)


def _mix(value: int) -> int:
    """Hash 64 bits to 64 bits.

    Source: SplitMix64's step and finaliser (Steele, Lea and Flood, OOPSLA 2014).
    """
    value = (value + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)


def _mix_tensor(values: Tensor) -> Tensor:
    """Compute `_mix` of int64 elements, whose products wrap."""
    values = values + _signed(0x9E3779B97F4A7C15)
    values = (values ^ _shifted(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _shifted(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift to the right as if unsigned."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Read 64 bits as a signed number."""
    return value - (1 << 64) if value >= 1 << 63 else value
