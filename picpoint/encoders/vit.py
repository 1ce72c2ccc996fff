"""Vision transformers of timm: DeiT, DINO and DINOv2, patch tokens as a local map.

The local map is the last block's patch tokens and the pooled feature its class token, both behind
the final LayerNorm. Position embeddings are resampled (bicubic) where pictures have another size
than in training. timm names layers as the published files of all three do.
"""

import importlib
from types import ModuleType
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from picpoint.encoders.image_network import IMAGENET, ImageNetwork
from picpoint.encoders.image_weights import WeightsError, load_strictly
from picpoint.encoders.torchvision_import import import_torchvision
from picpoint.optional import import_optional

ViTName = Literal[
    "vit_s16", "vit_b16", "vit_s16_dino", "vit_b16_dino", "vit_s14_dinov2", "vit_b14_dinov2"
]

# In timm's words.
_MODELS: dict[ViTName, str] = {
    "vit_s16": "deit_small_patch16_224",
    "vit_b16": "deit_base_patch16_224",
    "vit_s16_dino": "vit_small_patch16_224",
    "vit_b16_dino": "vit_base_patch16_224",
    "vit_s14_dinov2": "vit_small_patch14_dinov2",
    "vit_b14_dinov2": "vit_base_patch14_dinov2",
}
# What the files hold that no feature needs: the classifier, and the token of masked patches.
_UNUSED = ("head.weight", "head.bias", "mask_token")
_POSITIONS = "pos_embed"


def build_vit(
    name: ViTName, patch_px: int, input_px: int, state: dict[str, Tensor]
) -> ImageNetwork:
    """Build a vision transformer with patches of one size for pictures of one size.

    Raises:
        MissingPackageError: timm is not installed.
        WeightsError: the weights do not fit.
    """
    timm = _import_timm()
    network = timm.create_model(_MODELS[name], pretrained=False, num_classes=0, img_size=input_px)
    kept = {key: value for key, value in state.items() if key not in _UNUSED}
    if _POSITIONS not in kept:
        raise WeightsError(
            f"weights do not fit image_encoder={name}: no {_POSITIONS}; name its own file with "
            "image_encoder.weights=PATH"
        )
    resample = importlib.import_module("timm.layers").resample_abs_pos_embed
    across = input_px // patch_px
    kept[_POSITIONS] = resample(kept[_POSITIONS], [across, across], num_prefix_tokens=1)
    load_strictly(network, kept, name)
    return ImageNetwork(
        layers=_Tokens(network.eval(), across),
        local_width=network.num_features,
        pooled_width=network.num_features,
        normalisation=IMAGENET,
    )


class _Tokens(nn.Module):
    """A transformer whose patch tokens are laid out as a map again."""

    def __init__(self, transformer: Any, across: int) -> None:  # noqa: ANN401
        super().__init__()
        self.transformer = transformer
        self.across = across

    def forward(
        self, pictures: Float[Tensor, "n 3 px px"]
    ) -> tuple[Float[Tensor, "n C h w"], Float[Tensor, "n C"]]:
        """Describe pictures at two scales."""
        tokens = self.transformer.forward_features(pictures)
        local = tokens[:, 1:].transpose(1, 2).unflatten(2, (self.across, self.across))
        return local, tokens[:, 0]


def _import_timm() -> ModuleType:
    import_torchvision()  # which timm imports, and which may need its repair
    return import_optional("timm", "encoders", "a vision transformer")
