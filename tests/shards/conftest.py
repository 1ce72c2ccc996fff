"""Fixtures of small samples and sets; see small_sets.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_sets import make_sample, make_set

from shards.manifest import Manifest
from shards.schema import Sample

SamplesOf = Callable[[range], list[Sample]]


@pytest.fixture
def sample() -> Sample:
    return make_sample(7)


@pytest.fixture
def samples_of() -> SamplesOf:
    return lambda numbers: [make_sample(number) for number in numbers]


@pytest.fixture
def shard_set(tmp_path: Path) -> Manifest:
    return make_set(tmp_path / "set")


@pytest.fixture
def make_set_in() -> Callable[..., Manifest]:
    return make_set
