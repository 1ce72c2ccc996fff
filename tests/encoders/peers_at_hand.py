"""Skips tests of peers that are not installed, with the reason."""

import importlib
import warnings

import pytest

# What a peer cannot be imported without, and is itself told by.
_TELLING = {"torch_pointcloud": "torch_geometric", "openpoints": "easydict"}


def needs(package: str) -> None:
    """Skips where a peer, or what it imports, is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(
            _TELLING[package], reason=f"{package} is not installed; see the extra test-peers"
        )
        try:
            importlib.import_module(f"{package}.models")
        except ImportError as error:
            pytest.skip(f"{package} cannot be imported here: {error}")
