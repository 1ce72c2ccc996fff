"""How is torchvision imported where torch was built without CUDA and torchvision with it?

torchvision's ordinary wheel links against CUDA. Over a CPU-only torch its compiled library cannot
be loaded, and since 0.28 importing it then ends in `operator torchvision::nms does not exist`,
although nothing that picpoint needs of it (networks, transforms) is compiled. Declaring the missing
operators, without an implementation, lets the import go on. Where the import works as it is, as
with a matching CPU or CUDA build, nothing is declared.

After the repair `torchvision.models`, `transforms.v2` and `ops.roi_align` work; `torchvision.io`
and `ops.nms` do not.
"""

import importlib
import sys
from types import ModuleType

import torch

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# A declaration lives as long as its library object, so it is kept for the life of the process.
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, declaring its missing operators only if that import fails for them.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: its import fails for another reason than the missing operators.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _MISSING_OPERATOR not in str(error):
            raise
    _forget_failed_import()
    _declare_operators()
    return importlib.import_module("torchvision")


def _forget_failed_import() -> None:
    """Drop the submodules that a failed import leaves behind."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
