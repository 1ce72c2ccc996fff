"""`picpoint doctor`: what is present, what is not, and what to do about it."""

import importlib
import importlib.metadata
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# What is looked at is imported where it is looked at: a broken torch is a finding, not an error.

# A run of the demo writes about 0.1 GB; Ray refuses to work on a disk that is 95 % full.
_WANTED_DISK_BYTES = 2 * 10**9


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor.

    Attributes:
        fine: present and usable.
        told: version, figure, or what is missing.
        remedy: what to do; "" where nothing needs doing.
    """

    fine: bool
    told: str
    remedy: str = ""


def main() -> int:
    """Print all findings; 0 if everything that every run needs is there, else 3."""
    needed: dict[str, Callable[[], Finding]] = {
        "torch": lambda: _package("torch"),
        "torchvision": _torchvision,
        "ray": lambda: _package("ray"),
        "webdataset": lambda: _package("webdataset"),
        "numba": lambda: _package("numba"),
        "lite0 weights": _lite0,
        "disk": _disk,
    }
    optional: dict[str, Callable[[], Finding]] = {
        "CUDA": _cuda,
        "bfloat16": _bfloat16,
        "Kaolin": _kaolin,
        "resnet18 weights": _resnet18,
        "object storage": _object_storage,
    }
    whole = True
    for what, look in needed.items():
        whole &= tell(what, look, "MISSING")
    for what, look in optional.items():
        tell(what, look, "absent")
    return 0 if whole else 3


def tell(what: str, look: Callable[[], Finding], otherwise: str) -> bool:
    """Print what was found, or what broke while looking; tell whether it is fine."""
    try:
        finding = look()
    except Exception as error:  # a doctor reports what is broken, whatever it is
        finding = Finding(False, f"{type(error).__name__}: {error}", "make test")
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    print(f"{'ok' if finding.fine else otherwise:<8} {what:<17} {finding.told}{remedy}")
    return finding.fine


def _package(name: str) -> Finding:
    importlib.import_module(name)
    return Finding(True, importlib.metadata.version(name))


def _torchvision() -> Finding:
    from picpoint.encoders.torchvision_import import import_torchvision

    return Finding(True, import_torchvision().__version__)


def _lite0() -> Finding:
    from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig

    encoder = ImageEncoder(ImageEncoderConfig(name="lite0"))
    return Finding(True, f"loaded, SHA-256 {encoder.weights_sha256[:12]}")


def _disk() -> Finding:
    free_bytes = shutil.disk_usage(Path.cwd()).free
    told = f"{free_bytes / 1e9:.0f} GB free in {Path.cwd()}"
    return Finding(
        free_bytes > _WANTED_DISK_BYTES,
        told,
        "" if free_bytes > _WANTED_DISK_BYTES else "free some",
    )


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding(True, f"{torch.version.cuda}, {torch.cuda.get_device_name()}")
    return Finding(False, "no CUDA device, or a CPU build of torch", "runs use the CPU")


def _bfloat16() -> Finding:
    import torch

    from picpoint.ops.precision import has_bfloat16

    if has_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        return Finding(True, "in hardware")
    capability = torch.backends.cpu.get_cpu_capability()
    return Finding(
        False,
        f"emulated by this machine ({capability}), many times slower than float32",
        "precision=auto computes in float32 here",
    )


def _kaolin() -> Finding:
    # The package that PyPI has under this name is an empty placeholder.
    try:
        importlib.import_module("kaolin.render.mesh")
    except ImportError:
        return Finding(
            False,
            "not installed",
            "rendering uses the CPU; wheels for torch <= 2.8 are on NVIDIA's index: "
            "https://kaolin.readthedocs.io",
        )
    return Finding(True, importlib.metadata.version("kaolin"))


def _resnet18() -> Finding:
    from picpoint.encoders.image_weights import MissingWeightsError, find_weights

    try:
        return Finding(True, str(find_weights("resnet18", "default")))
    except MissingWeightsError as error:
        return Finding(False, str(error))


def _object_storage() -> Finding:
    names = (
        *("AWS_ACCESS_KEY_ID", "AZURE_STORAGE_ACCOUNT_NAME"),
        *("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_APPLICATION_CREDENTIALS"),
    )
    present = [name for name in names if name in os.environ]
    if present:
        return Finding(True, f"credentials in the environment: {', '.join(present)}")
    return Finding(False, "no credentials in the environment", "local folders need none")
