"""Which of the stored views does a run use? Those of one rig or of all; of them some, far apart."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from picpoint.geometry.cameras import Cameras
from picpoint.ops.farthest import farthest_order
from shards.errors import CorruptSampleError
from shards.reader import Request, ShardReader
from shards.schema import RigViews, Sample

ALL_RIGS = "all"


class NotStoredError(ValueError):
    """A config asks for more than the shard set holds; the message names key and remedy."""


@dataclass(frozen=True, slots=True)
class StoredViews:
    """The views that every shape of a shard set was rendered from.

    Attributes:
        cameras: of all views.
        rigs: whose the views are, in their order.
    """

    cameras: Cameras
    rigs: tuple[RigViews, ...]


def stored_views(reader: ShardReader) -> StoredViews:
    """Read the cameras that the shard set was rendered with, from its first readable sample.

    Raises:
        CorruptSampleError: no sample is readable, or the first is not and the reader is to fail.
    """
    for sample_index in range(reader.manifest.num_samples):
        sample = reader.read(Request(sample_index))
        if sample is not None:
            matrices = sample.view_matrices, sample.projection_matrices
            return StoredViews(Cameras(*matrices, sample.meta.size_px), sample.meta.rigs)
    raise CorruptSampleError(
        f"{reader.manifest.url}: none of its {reader.manifest.num_samples} samples is readable; "
        "render it again"
    )


def check_rigs(sample: Sample, stored: StoredViews) -> None:
    """Refuse a shape whose views are not those that the set was taken to be rendered from.

    Raises:
        NotStoredError: it has other rigs than the first.
    """
    if sample.meta.rigs != stored.rigs:
        raise NotStoredError(
            f"{sample.meta.source_id}: has the views of {_told(sample.meta.rigs)}, the first shape "
            f"those of {_told(stored.rigs)}, and a run uses the same of each; render them into one "
            "set with the same rigs"
        )


def _told(rigs: tuple[RigViews, ...]) -> str:
    return " + ".join(f"{rig.name} ({rig.num_views})" for rig in rigs)


def choose_views(stored: StoredViews, rig: str, count: int) -> Int64[np.ndarray, " V"]:
    """Choose views of a rig whose camera centres are far apart.

    Args:
        stored: what there is.
        rig: name of a rig, of a file also without its digest; `all` for every view there is.
        count: how many; 0 for all of the rig.

    Returns:
        Indices of stored views. Within a rig they are those that would be chosen had it been
        rendered alone.

    Raises:
        NotStoredError: the rig was not rendered, or it has fewer views.
    """
    first, num_views = _span_of(stored, rig)
    if count > num_views:
        raise NotStoredError(
            f"views={count}: only {num_views} were rendered of data.rig={rig}; ask for at most "
            f"{num_views}, or render a larger rig"
        )
    positions = stored.cameras.positions[first : first + num_views]
    return first + farthest_order(positions, count or num_views)


def _span_of(stored: StoredViews, rig: str) -> tuple[int, int]:
    """Give the index of a rig's first view, and how many it has."""
    if rig == ALL_RIGS:
        return 0, len(stored.cameras.view_matrices)
    names = [each.name for each in stored.rigs]
    matches = [row for row, name in enumerate(names) if name == rig] or [
        row for row, name in enumerate(names) if name.partition("@")[0] == rig
    ]
    if len(matches) != 1:
        raise NotStoredError(
            f"data.rig={rig}: must be one of those that were rendered, {', '.join(names)}, or "
            f"{ALL_RIGS}; choose one, or render with capture.rig.names=[{rig}]"
        )
    before = stored.rigs[: matches[0]]
    return sum(each.num_views for each in before), stored.rigs[matches[0]].num_views
