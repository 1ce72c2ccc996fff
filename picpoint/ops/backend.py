"""Which implementation of an operation runs? Decided here, by where the tensor is."""

import importlib.util
from functools import cache
from typing import Literal

from torch import Tensor

Backend = Literal["numba", "triton", "plain"]


def backend_of(tensor: Tensor) -> Backend:
    """Choose numba's kernels on a CPU, Triton's on CUDA where it is installed, else plain torch."""
    match tensor.device.type:
        case "cpu":
            return "numba"
        case "cuda" if _has_triton():
            return "triton"
        case _:
            return "plain"


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
