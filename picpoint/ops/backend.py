"""Which implementation of an operation runs? Decided here, by where the tensor is."""

import importlib.util
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Literal

from torch import Tensor

Backend = Literal["numba", "triton", "plain"]


_only_plain = ContextVar("only_plain", default=False)


def backend_of(tensor: Tensor) -> Backend:
    """Choose numba's kernels on a CPU, Triton's on CUDA where it is installed, else plain torch."""
    if _only_plain.get():
        return "plain"
    match tensor.device.type:
        case "cpu":
            return "numba"
        case "cuda" if _has_triton():
            return "triton"
        case _:
            return "plain"


@contextmanager
def only_plain() -> Generator[None]:
    """Let plain torch run, whatever there is: for tracing a network into another format."""
    token = _only_plain.set(True)
    try:
        yield
    finally:
        _only_plain.reset(token)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
