from dataclasses import replace

import numpy as np
import pytest

from shards.schema import RigViews, Sample, SchemaError, check_sample


def _with(array: np.ndarray, index, value) -> np.ndarray:
    changed = array.copy()
    changed[index] = value
    return changed


def _with_rigs(sample: Sample, *rigs: tuple[str, int]) -> Sample:
    return replace(sample, meta=replace(sample.meta, rigs=tuple(RigViews(*rig) for rig in rigs)))


BREAKS = {
    "points outside the unit sphere": lambda s: replace(s, points=_with(s.points, 0, (1, 1, 0))),
    "points not finite": lambda s: replace(s, points=_with(s.points, (3, 1), np.nan)),
    "no points": lambda s: replace(s, points=s.points[:0]),
    "normals of other length": lambda s: replace(s, normals=_with(s.normals, 0, (0, 0.9, 0))),
    "normals not finite": lambda s: replace(s, normals=_with(s.normals, 0, (0, np.inf, 0))),
    "fewer normals than points": lambda s: replace(s, normals=s.normals[:-1]),
    "fewer colours than points": lambda s: replace(s, colors=s.colors[:-1]),
    "matrices not finite": lambda s: replace(
        s, view_matrices=_with(s.view_matrices, (0, 0, 0), np.inf)
    ),
    "spare bits set": lambda s: replace(s, visibility=s.visibility | np.uint8(1)),
    "visibility of fewer points": lambda s: replace(s, visibility=s.visibility[:, :-1]),
    "a picture of no view": lambda s: replace(s, pictures=s.pictures | {3: s.pictures[0]}),
    "a picture that is no JPEG": lambda s: replace(s, pictures=s.pictures | {0: b"\x89PNG"}),
    "no source id": lambda s: replace(s, meta=replace(s.meta, source_id="")),
    "a scale of zero": lambda s: replace(s, meta=replace(s.meta, scale=0.0)),
    "a center not finite": lambda s: replace(s, meta=replace(s.meta, center=(0.0, np.nan, 0.0))),
    "two rigs of one name": lambda s: _with_rigs(s, ("ring", 2), ("ring", 1)),
    "a rig without a name": lambda s: _with_rigs(s, ("", 3)),
    "rigs of fewer views": lambda s: _with_rigs(s, ("ring", 2)),
    "rigs of more views": lambda s: _with_rigs(s, ("ring", 3), ("other", 1)),
    "a rig without views": lambda s: _with_rigs(s, ("ring", 3), ("other", 0)),
    "no rig": lambda s: _with_rigs(s),
    "a negative seed": lambda s: replace(s, meta=replace(s.meta, seed=-1)),
}


def test_a_right_sample_passes(sample):
    check_sample(sample, whole=True)


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_rule_is_refused(sample, broken):
    with pytest.raises(SchemaError):
        check_sample(BREAKS[broken](sample))


@pytest.mark.parametrize(
    "partial",
    [
        lambda s: replace(s, pictures={1: s.pictures[1]}),
        lambda s: replace(s, normals=s.normals[:0]),
        lambda s: replace(s, colors=s.colors[:0]),
    ],
)
def test_a_reader_may_hold_less_than_a_writer_must(sample, partial):
    check_sample(partial(sample))
    with pytest.raises(SchemaError):
        check_sample(partial(sample), whole=True)


def test_visible_unpacks_as_documented(sample):
    bits = np.array(
        [[byte >> (7 - bit) & 1 for byte in row for bit in range(8)] for row in sample.visibility]
    )
    for view in range(sample.num_views):
        assert np.array_equal(sample.visible(view), bits[view, : sample.num_points])
