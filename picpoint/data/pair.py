"""How does a stored sample become a cloud, pictures and correspondences, and several a batch?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8

from picpoint.batch import ImageFeatures, PairBatch
from picpoint.data.augment import jitter_points, move_cameras, move_points, random_motion
from picpoint.data.config import DataConfig
from picpoint.data.image_features import FeatureCodec
from picpoint.data.views import NotStoredError
from picpoint.geometry.cameras import world_to_pixel
from picpoint.ops.farthest import farthest_order
from shards.codec import check_picture_sizes, decode_picture
from shards.schema import Sample


@dataclass(frozen=True, slots=True)
class ImageArrays:
    """ImageFeatures of one shape."""

    local: Float32[np.ndarray, "V C h w"]
    pooled: Float32[np.ndarray, "V P"]


@dataclass(frozen=True, slots=True)
class Pair:
    """One shape of a batch; the fields are PairBatch's without the batch axis."""

    key: str
    points: Float32[np.ndarray, "N 3"]
    pictures: UInt8[np.ndarray, "V 3 H W"]
    view_matrices: Float32[np.ndarray, "V 4 4"]
    projection_matrices: Float32[np.ndarray, "V 4 4"]
    point_index: Int64[np.ndarray, "V K"]
    pixels: Float32[np.ndarray, "V K 2"]
    correspondence_mask: Bool[np.ndarray, "V K"]
    size_px: int
    image: ImageArrays | None = None
    valid: bool = True


def make_pair(
    sample: Sample,
    views: Int64[np.ndarray, " V"],
    config: DataConfig,
    num_local: int,
    generator: np.random.Generator,
    codec: FeatureCodec | None,
) -> Pair:
    """Choose points and correspondences of one sample, and move it.

    Raises:
        CodecError: a picture cannot be decoded.
        SchemaError: a picture is of another size than the sample says, or features do not fit.
        NotStoredError: the sample holds fewer points.
    """
    points, visible = _choose_points(sample, views, config, generator)
    view_matrices = sample.view_matrices[views]
    projection_matrices = sample.projection_matrices[views]
    # Pixels come from the stored world, before any motion: that is where the pictures were taken.
    u_px, v_px, _ = world_to_pixel(
        points[None], view_matrices, projection_matrices, sample.meta.size_px
    )
    pixels = np.stack([u_px, v_px], axis=-1).astype(np.float32)
    if not config.augment.keeps_farthest_order:
        points = jitter_points(points, config.augment.jitter, generator)
        order = farthest_order(points)
        points, visible, pixels = points[order], visible[:, order], pixels[:, order]
    point_index, mask = _draw_correspondences(
        visible[:, :num_local], config.correspondences, generator
    )
    motion = random_motion(config.augment, generator)
    return Pair(
        key=sample.key,
        points=move_points(points, motion),
        pictures=_pictures(sample, views, codec),
        view_matrices=move_cameras(view_matrices, motion),
        projection_matrices=projection_matrices,
        point_index=point_index,
        pixels=np.take_along_axis(pixels, point_index[..., None], axis=1),
        correspondence_mask=mask,
        size_px=sample.meta.size_px,
        image=None if codec is None else _read_features(sample, views, codec),
    )


def _pictures(
    sample: Sample, views: Int64[np.ndarray, " V"], codec: FeatureCodec | None
) -> UInt8[np.ndarray, "V 3 H W"]:
    """Decode the pictures, where nobody has described them yet."""
    if codec is not None:
        return np.zeros((len(views), 3, 0, 0), np.uint8)
    check_picture_sizes(sample)
    return np.stack([decode_picture(sample.pictures[int(v)]).transpose(2, 0, 1) for v in views])


def _read_features(
    sample: Sample, views: Int64[np.ndarray, " V"], codec: FeatureCodec
) -> ImageArrays:
    """Decode what the image encoder said of some views."""
    return ImageArrays(
        local=np.stack([codec.decode_local(sample.extras, int(v)) for v in views]),
        pooled=np.stack([codec.decode_pooled(sample.extras, int(v)) for v in views]),
    )


def _choose_points(
    sample: Sample,
    views: Int64[np.ndarray, " V"],
    config: DataConfig,
    generator: np.random.Generator,
) -> tuple[Float32[np.ndarray, "N 3"], Bool[np.ndarray, "V N"]]:
    """Take `num_points` of the stored points, in farthest-point order, and who sees them."""
    if config.num_points > sample.num_points:
        raise NotStoredError(
            f"data.num_points={config.num_points}: sample {sample.key} holds "
            f"{sample.num_points}; ask for fewer, or render with more points"
        )
    visible = np.stack([sample.visible(int(v)) for v in views])
    match config.point_subset:
        case "prefix":
            subset = np.arange(config.num_points)
        case "random":
            subset = generator.choice(sample.num_points, config.num_points, replace=False)
            subset = subset[farthest_order(sample.points[subset].astype(np.float32))]
    return sample.points[subset].astype(np.float32), visible[:, subset]


def _draw_correspondences(
    visible: Bool[np.ndarray, "V M"], count: int, generator: np.random.Generator
) -> tuple[Int64[np.ndarray, "V K"], Bool[np.ndarray, "V K"]]:
    """Draw visible points of each view without replacement, padded with point 0."""
    index = np.zeros((len(visible), count), dtype=np.int64)
    mask = np.zeros((len(visible), count), dtype=bool)
    for view, seen in enumerate(visible):
        candidates = np.flatnonzero(seen)
        drawn = generator.permutation(candidates)[:count]
        index[view, : len(drawn)] = drawn
        mask[view, : len(drawn)] = True
    return index, mask


def masked_pair(config: DataConfig, size_px: int, codec: FeatureCodec | None) -> Pair:
    """Fill a slot that holds no sample; nothing of it reaches a loss or a statistic."""
    num_views, num_pairs = config.views_per_step, config.correspondences
    image, picture_px = None, size_px
    if codec is not None:
        info, picture_px = codec.info, 0
        map_shape = (num_views, info.local_width, info.cells_across, info.cells_across)
        image = ImageArrays(
            local=np.zeros(map_shape, np.float32),
            pooled=np.zeros((num_views, info.pooled_width), np.float32),
        )
    identity = np.repeat(np.eye(4, dtype=np.float32)[None], num_views, axis=0)
    return Pair(
        key="",
        points=np.zeros((config.num_points, 3), np.float32),
        pictures=np.zeros((num_views, 3, picture_px, picture_px), np.uint8),
        view_matrices=identity,
        projection_matrices=identity,
        point_index=np.zeros((num_views, num_pairs), np.int64),
        pixels=np.zeros((num_views, num_pairs, 2), np.float32),
        correspondence_mask=np.zeros((num_views, num_pairs), bool),
        size_px=size_px,
        image=image,
        valid=False,
    )


def collate(pairs: Sequence[Pair]) -> PairBatch:
    """Stack pairs along the batch axis."""

    def stacked(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays))

    images = [pair.image for pair in pairs if pair.image is not None]
    return PairBatch(
        keys=tuple(pair.key for pair in pairs),
        points=stacked([pair.points for pair in pairs]),
        pictures=stacked([pair.pictures for pair in pairs]),
        view_matrices=stacked([pair.view_matrices for pair in pairs]),
        projection_matrices=stacked([pair.projection_matrices for pair in pairs]),
        point_index=stacked([pair.point_index for pair in pairs]),
        pixels=stacked([pair.pixels for pair in pairs]),
        correspondence_mask=stacked([pair.correspondence_mask for pair in pairs]),
        valid=torch.tensor([pair.valid for pair in pairs]),
        size_px=pairs[0].size_px,
        image_features=ImageFeatures(
            local=stacked([image.local for image in images]),
            pooled=stacked([image.pooled for image in images]),
        )
        if images
        else None,
    )
