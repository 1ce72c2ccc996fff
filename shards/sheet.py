"""What do the samples look like? A contact sheet: pictures, and where their visible points fall."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from shards.codec import decode_picture
from shards.local import explained_disk
from shards.reader import Request, ShardReader
from shards.schema import Sample

MAX_POINTS_DRAWN = 512
_GAP_PX = 4
_DOT = np.array([255, 0, 90], np.uint8)


def write_sheet(
    reader: ShardReader, sample_indices: Sequence[int], num_views: int, path: Path
) -> None:
    """Write a PNG: a row per sample; each view twice, as it is and with its points on it.

    Args:
        reader: of the set.
        sample_indices: which samples.
        num_views: of each, spread over what it has.
        path: of the new file; an older one is replaced.

    Raises:
        ShardError: a sample is damaged, or the file cannot be written.
    """
    rows = [sheet_row(reader, index, num_views) for index in sample_indices]
    height = sum(row.shape[0] + _GAP_PX for row in rows) - _GAP_PX
    sheet = np.full((height, max(row.shape[1] for row in rows), 3), 255, np.uint8)
    top = 0
    for row in rows:
        sheet[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0] + _GAP_PX
    with explained_disk("write", path):
        Image.fromarray(sheet).save(path, "PNG")


def sheet_row(reader: ShardReader, sample_index: int, num_views: int) -> UInt8[np.ndarray, "H W 3"]:
    """Put some views of a sample side by side."""
    stored = int(reader.manifest.row(sample_index).num_views)
    views = np.unique(np.linspace(0, stored - 1, min(num_views, stored)).round().astype(int))
    sample = reader.read(Request(sample_index, tuple(views.tolist())))
    assert sample is not None  # the reader raises on damage
    pieces: list[np.ndarray] = []
    for view in views.tolist():
        picture = decode_picture(sample.pictures[view])
        gap = np.full((picture.shape[0], _GAP_PX, 3), 255, np.uint8)
        pieces += [picture, gap, draw_points(picture, sample, view), gap]
    return np.concatenate(pieces[:-1], axis=1)


def draw_points(
    picture: UInt8[np.ndarray, "H W 3"], sample: Sample, view: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Paint a pixel for each of the first points that are seen in a view."""
    pixels, is_inside = project(sample, view)
    shown = np.flatnonzero(sample.visible(view) & is_inside)[:MAX_POINTS_DRAWN]
    column, row = pixels[shown].astype(int).T
    drawn = picture.copy()
    drawn[row, column] = _DOT
    return drawn


def project(sample: Sample, view: int) -> tuple[Float32[np.ndarray, "P 2"], Bool[np.ndarray, " P"]]:
    """Tell the pixel (u right, v down) of every point in a view, and whether it is in the picture.

    The matrices are OpenGL's for column vectors; NDC y is up and picture row 0 on top.
    """
    world = np.concatenate([sample.points.astype(np.float32), np.ones((sample.num_points, 1))], 1)
    clip = world @ (sample.projection_matrices[view] @ sample.view_matrices[view]).T
    ndc = clip[:, :2] / clip[:, 3:]
    pixels = (0.5 * sample.meta.size_px * (1 + ndc * [1, -1])).astype(np.float32)
    is_inside = (clip[:, 3] > 0) & ((pixels >= 0) & (pixels < sample.meta.size_px)).all(axis=1)
    return pixels, is_inside
