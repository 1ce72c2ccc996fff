"""What did the image encoder say of each picture? Kept beside the shards, so that it is asked once.

A column set (shards/column_sets.py) with three or four arrays for each view, and two files that say
what they are:

    features.json                   FeatureInfo
    basis.npy                       float32 (D + 1, C): axes of the local features, and their mean
    viewNN.image_pooled.npy         float16 (P,)
    viewNN.image_cells.npy          uint8: which cells of the map are kept, a bit each, row by row
    viewNN.image_local.npy          of those cells: float16 (cells, C), or int8 (cells, D)

Only cells that the bilinear sample of a visible point touches are kept: nothing else is ever asked
of a map. As int8 a cell is its place along the first D principal axes of the maps.
"""

import hashlib
import io
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int8, Int64

from picpoint.geometry.cameras import world_to_pixel
from shards.column_sets import Column
from shards.errors import ManifestError, NotFoundInStoreError
from shards.schema import Sample, SchemaError, view_prefix
from shards.sealed import FEATURES_FILE, seal, unseal
from shards.store import Store, open_store, put_once

BASIS_FILE = "basis.npy"

FeatureFormat = Literal["float16", "int8"]

_POOLED, _CELLS, _LOCAL = "image_pooled.npy", "image_cells.npy", "image_local.npy"
_STEPS = 127


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """Of which encoder the features are, and how they are kept.

    Attributes:
        base_digest: of the shard set.
        encoder: name of the network.
        weights_sha256: of its weight file.
        stride: input pixels per cell of the local map.
        input_px: side that pictures were resized to.
        precision: of the arithmetic.
        format: of the kept local features.
        num_axes: D, of `int8`; 0 for `float16`.
        local_width: C.
        pooled_width: P.
        cells_across: cells along a side of the map.
        basis_sha256: of basis.npy.
    """

    base_digest: str
    encoder: str
    weights_sha256: str
    stride: int
    input_px: int
    precision: str
    format: FeatureFormat
    num_axes: int
    local_width: int
    pooled_width: int
    cells_across: int
    basis_sha256: str

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the set."""
        num_bytes = -(-(self.cells_across**2) // 8)
        of_cell = ("|i1", self.num_axes) if self.format == "int8" else ("<f2", self.local_width)
        return (
            Column(_POOLED, "<f2", (self.pooled_width,), per_view=True),
            Column(_CELLS, "|u1", (num_bytes,), per_view=True),
            Column(_LOCAL, of_cell[0], (0, of_cell[1]), per_view=True),
        )


class FeatureCodec:
    """Turns what an encoder says into columns and back.

    Args:
        info: what the features are.
        basis: (D + 1, C) float32: the principal axes, each times what a step of int8 is worth on
            it, and the mean; of `float16` one row of zeros.
    """

    def __init__(self, info: FeatureInfo, basis: Float32[np.ndarray, "rows C"]) -> None:
        self.info = info
        self.basis = basis

    @cached_property
    def _projection(self) -> Float32[np.ndarray, "C D"]:
        """What gives a cell's place along each axis, in steps; the axes are at right angles."""
        axes = self.basis[:-1]
        return (axes / np.square(axes).sum(axis=1, keepdims=True).clip(min=1e-30)).T

    def encode(
        self,
        local: Float32[np.ndarray, "V C h w"],
        pooled: Float32[np.ndarray, "V P"],
        cells: Bool[np.ndarray, "V h*w"],
    ) -> dict[str, np.ndarray]:
        """Give the columns of a sample, of all its views.

        Args:
            local: maps of all views.
            pooled: features of all views.
            cells: which cells are kept; see `needed_cells`.

        Raises:
            SchemaError: a feature is no number, or too large for float16.
        """
        columns: dict[str, np.ndarray] = {}
        for view, kept in enumerate(cells):
            rows = local[view].reshape(self.info.local_width, -1).T[kept]
            columns |= {
                f"{view_prefix(view)}.{_POOLED}": _narrow(pooled[view]),
                f"{view_prefix(view)}.{_CELLS}": np.packbits(kept),
                f"{view_prefix(view)}.{_LOCAL}": self._shorten(rows),
            }
        return columns

    def _shorten(
        self, rows: Float32[np.ndarray, "n C"]
    ) -> Float16[np.ndarray, "n C"] | Int8[np.ndarray, "n D"]:
        if self.info.format == "float16":
            return _narrow(rows)
        steps = (rows - self.basis[-1]) @ self._projection
        if not np.isfinite(steps).all():
            raise SchemaError("an image feature is no number; is the picture sound?")
        return np.rint(steps).clip(-_STEPS, _STEPS).astype(np.int8)

    def decode_local(
        self, columns: dict[str, np.ndarray], view: int
    ) -> Float32[np.ndarray, "C h w"]:
        """Give the map of a view; cells that were not kept are 0.

        Raises:
            SchemaError: the arrays do not fit each other.
        """
        across, prefix = self.info.cells_across, view_prefix(view)
        kept = np.unpackbits(columns[f"{prefix}.{_CELLS}"], count=across**2).astype(bool)
        rows = columns[f"{prefix}.{_LOCAL}"].astype(np.float32)
        if np.count_nonzero(kept) != len(rows):
            raise SchemaError(f"{prefix}: {len(rows)} cells, and bits of {kept.sum()}")
        if self.info.format == "int8":
            rows = rows @ self.basis[:-1] + self.basis[-1]
        whole = np.zeros((across**2, self.info.local_width), np.float32)
        whole[kept] = rows
        return np.ascontiguousarray(whole.T).reshape(-1, across, across)

    def decode_pooled(self, columns: dict[str, np.ndarray], view: int) -> Float32[np.ndarray, " P"]:
        """Give the pooled feature of a view."""
        return columns[f"{view_prefix(view)}.{_POOLED}"].astype(np.float32)


def needed_cells(sample: Sample, cells_across: int) -> Bool[np.ndarray, "V cells"]:
    """Tell which cells of each view's map any of its visible points may ask for.

    A bilinear sample reads the four cells whose centres lie around the pixel.
    """
    size_px = sample.meta.size_px
    u_px, v_px, _ = world_to_pixel(
        sample.points[None].astype(np.float32),
        sample.view_matrices,
        sample.projection_matrices,
        size_px,
    )
    needed = np.zeros((sample.num_views, cells_across, cells_across), bool)
    for view in range(sample.num_views):
        seen = sample.visible(view)
        left, top = (_around(px[view, seen] * (cells_across / size_px)) for px in (u_px, v_px))
        for column in (left, left + 1):
            for row in (top, top + 1):
                inside = [each.clip(0, cells_across - 1) for each in (row, column)]
                needed[view, inside[0], inside[1]] = True
    return needed.reshape(sample.num_views, -1)


def _around(cells: Float32[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Give the first of the two cells whose centres lie on both sides."""
    return np.floor(cells - 0.5).astype(np.int64)


def fit_basis(cells: Float32[np.ndarray, "n C"], num_axes: int) -> Float32[np.ndarray, "rows C"]:
    """Find the principal axes of local features, and what a step of int8 is worth on each.

    Args:
        cells: of many pictures.
        num_axes: D, at most C.

    Raises:
        ValueError: more axes than features.
    """
    if not 0 < num_axes <= cells.shape[1]:
        raise ValueError(
            f"num_axes={num_axes}: must be at least 1 and at most {cells.shape[1]}, the features "
            "of a cell"
        )
    mean = cells.mean(axis=0, dtype=np.float64)
    centred = cells - mean
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :num_axes]
    # What lies further out is cut off; it is one value in a thousand.
    reach = np.quantile(np.abs(centred @ axes), 0.999, axis=0).clip(min=1e-12)
    return np.concatenate([(axes * (reach / _STEPS)).T, mean[None]]).astype(np.float32)


def save_codec(store: Store, info: FeatureInfo, basis: Float32[np.ndarray, "rows C"]) -> None:
    """Write what the features are, before any of them.

    Raises:
        AlreadyInStoreError: other features are kept there.
    """
    put_once(store, BASIS_FILE, _npy(basis))
    record = asdict(info)
    del record["basis_sha256"]
    put_once(store, FEATURES_FILE, seal(record, {BASIS_FILE: info.basis_sha256}))


def basis_sha256(basis: Float32[np.ndarray, "rows C"]) -> str:
    """Hash basis.npy, in hexadecimal."""
    return hashlib.sha256(_npy(basis)).hexdigest()


def load_codec(url: str | Store) -> FeatureCodec | None:
    """Read what the features of a set are; None where it has none, or none yet.

    Raises:
        ManifestError: features.json or basis.npy is damaged.
        StoreError: the store refuses.
    """
    store = open_store(url) if isinstance(url, str) else url
    try:
        record, files = unseal(store.get(FEATURES_FILE), f"{store.url}/{FEATURES_FILE}")
        info = FeatureInfo(**record, basis_sha256=files.get(BASIS_FILE, ""))
        content = store.get(BASIS_FILE)
    except NotFoundInStoreError:
        return None
    except TypeError as error:
        raise ManifestError(
            f"{store.url}/{FEATURES_FILE}: of another version ({error}); make the features again"
        ) from error
    if hashlib.sha256(content).hexdigest() != info.basis_sha256:
        raise ManifestError(f"{store.url}/{BASIS_FILE}: damaged; make the features again")
    return FeatureCodec(info, np.load(io.BytesIO(content), allow_pickle=False))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _narrow(values: Float32[np.ndarray, "*n"]) -> Float16[np.ndarray, "*n"]:
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise SchemaError("an image feature is no number, or too large for float16")
    return narrow
