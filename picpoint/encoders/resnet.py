"""ResNet-18 and ResNet-50 of torchvision, cut for local features."""

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from picpoint.encoders.image_network import IMAGENET, ImageNetwork, Tapped, last_width
from picpoint.encoders.image_weights import load_strictly
from picpoint.encoders.torchvision_import import import_torchvision

ResNetName = Literal["resnet18", "resnet50"]

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_STAGE_OF = {8: "layer2", 16: "layer3", 32: "layer4"}


def build_resnet(name: ResNetName, stride: int, state: dict[str, Tensor]) -> ImageNetwork:
    """Build a ResNet with a tap behind the stage of a stride: 8, 16 or 32.

    Raises:
        WeightsError: the weights do not fit.
    """
    resnet = import_torchvision().models.get_model(name, weights=None)
    load_strictly(resnet, state, name)
    resnet.eval()
    _fold_batch_norm(resnet)
    tap = _STAGES.index(_STAGE_OF[stride]) + 1
    stages = [getattr(resnet, stage) for stage in _STAGES]
    first = (resnet.conv1, nn.ReLU(inplace=True), resnet.maxpool)
    return ImageNetwork(
        layers=Tapped(nn.Sequential(*first, *stages[:tap]), nn.Sequential(*stages[tap:])),
        local_width=last_width(stages[tap - 1]),
        pooled_width=resnet.fc.in_features,
        normalisation=IMAGENET,
    )


def _fold_batch_norm(network: nn.Module) -> None:
    """Fold each BatchNorm into the convolution registered just before it; exact to rounding."""
    for module in list(network.modules()):
        for (name, first), (norm_name, second) in pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, norm_name, nn.Identity())
