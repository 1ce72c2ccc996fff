"""What passes between the rooms of picpoint: the axis legend and the batch types.

Axes, as they stand in every shape annotation of the project:

    B  batch (shapes)           N  points of a cloud        V  views of a shape
    H  picture rows             W  picture columns          C  features
    D  latent width             K  neighbours, or correspondences of a picture
    R  ranks                    G  shapes of one ghost batch

World frame: right-handed, y up, the shape inside the unit sphere. Pixels: u to the right, v down,
(0, 0) is the outer corner of the top left pixel, so pixel centres lie at +0.5.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Clouds and pictures of the same shapes, with the pixel of every chosen point.

    Attributes:
        keys: sample keys, for error messages and reports.
        points: clouds in farthest-point order, world frame after augmentation.
        pictures: RGB renders, 0..255.
        view_matrices: world (after augmentation) to camera.
        projection_matrices: camera to clip.
        point_index: which points correspond; row of `points`, padded with 0.
        pixels: where those points are seen in their picture, in px.
        correspondence_mask: False where `point_index` is padding.
        valid: False for a slot that holds no sample (a padded or unreadable one).
        size_px: side of the square pictures, in which `pixels` are told.
        image_features: what an image encoder said of the pictures, where that was read instead of
            them; `pictures` then have H = W = 0.
    """

    keys: tuple[str, ...]
    points: Float[Tensor, "B N 3"]
    pictures: UInt8[Tensor, "B V 3 H W"]
    view_matrices: Float[Tensor, "B V 4 4"]
    projection_matrices: Float[Tensor, "B V 4 4"]
    point_index: Int64[Tensor, "B V K"]
    pixels: Float[Tensor, "B V K 2"]
    correspondence_mask: Bool[Tensor, "B V K"]
    valid: Bool[Tensor, " B"]
    size_px: int
    image_features: "ImageFeatures | None" = None


@dataclass(frozen=True, slots=True)
class CloudBatch:
    """Labelled clouds without pictures, for downstream tasks.

    Attributes:
        keys: source ids, for error messages and the titles of pictures: they are unique in a set,
            and say more than the hashes that are the samples' keys.
        points: in farthest-point order where the network needs that.
        features: of each point, beside its position; C = 0 where the network takes none.
        labels: class of each cloud; of no meaning where `valid` is False.
        point_labels: part or thing of each point; N_labels = 0 where the task has none.
        valid: False for a slot that holds no cloud.
    """

    keys: tuple[str, ...]
    points: Float[Tensor, "B N 3"]
    features: Float[Tensor, "B N C"]
    labels: Int64[Tensor, " B"]
    point_labels: Int64[Tensor, "B N_labels"]
    valid: Bool[Tensor, " B"]


@dataclass(frozen=True, slots=True)
class PointFeatures:
    """What a point encoder says of each cloud.

    Attributes:
        local: features of the first M points of each cloud (M = N, or the sampled centres, which
            are a prefix because clouds arrive in farthest-point order).
        pooled: one feature per cloud.
    """

    local: Float[Tensor, "B M C_local"]
    pooled: Float[Tensor, "B C_pooled"]


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What a frozen image encoder says of each picture.

    Attributes:
        local: feature map; its cells tile the picture evenly, row 0 on top.
        pooled: one feature per picture.
    """

    local: Float[Tensor, "B V C_local h w"]
    pooled: Float[Tensor, "B V C_pooled"]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Unit vectors in the latent space, ready for the losses.

    Attributes:
        point_pooled: one per shape.
        picture_pooled: one per picture.
        point_local: one per correspondence, from the point encoder (pose-conditioned).
        picture_local: one per correspondence, from the image encoder at the point's pixel.
        local_mask: False where a correspondence is padding or its shape is not valid.
        local_cell: cell of the image encoder's map that the pixel lies in (row-major).
        valid: False for a slot that holds no sample.
        temperature: that the cosines are divided by, where it is learnt.
    """

    point_pooled: Float[Tensor, "B D"]
    picture_pooled: Float[Tensor, "B V D"]
    point_local: Float[Tensor, "B V K D"]
    picture_local: Float[Tensor, "B V K D"]
    local_mask: Bool[Tensor, "B V K"]
    local_cell: Int64[Tensor, "B V K"]
    valid: Bool[Tensor, " B"]
    temperature: Float[Tensor, ""] | None = None


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The objective of one global batch, as this rank contributes to it.

    Attributes:
        total: this rank's share; the shares of all ranks add up to the objective, so its gradient,
            summed (not averaged) over ranks, is the gradient of the objective.
        local: this rank's share of the local term, before weighting.
        pooled: this rank's share of the global term, before weighting.
        local_top1: this rank's share of the local retrieval accuracy (point -> pixel), 0..1.
        local_top1_back: the same the other way round (pixel -> point).
        pooled_top1: this rank's share of the global retrieval accuracy (shape -> picture), 0..1.
        pooled_top1_back: the same the other way round (picture -> shape).
    """

    total: Float[Tensor, ""]
    local: Float[Tensor, ""]
    pooled: Float[Tensor, ""]
    local_top1: Float[Tensor, ""]
    local_top1_back: Float[Tensor, ""]
    pooled_top1: Float[Tensor, ""]
    pooled_top1_back: Float[Tensor, ""]


AnyBatch = TypeVar("AnyBatch", PairBatch, CloudBatch)


def pinned(batches: Iterator[AnyBatch], device: torch.device) -> Iterator[AnyBatch]:
    """Keep batches for a GPU in pages from which copying does not hold up the processor."""
    if device.type != "cuda":
        return batches
    return (_each_tensor(batch, Tensor.pin_memory) for batch in batches)


def move_batch(batch: AnyBatch, device: torch.device) -> AnyBatch:
    """Copy the tensors of a batch to a device; from pinned memory, without waiting."""
    return _each_tensor(batch, lambda tensor: tensor.to(device, non_blocking=True))


def take_shapes(batch: PairBatch, rows: slice) -> PairBatch:
    """Take some of the shapes of a batch."""
    taken = _each_tensor(batch, lambda tensor: tensor[rows])
    return dataclasses.replace(taken, keys=batch.keys[rows])


def _each_tensor(batch: AnyBatch, change: Callable[[Tensor], Tensor]) -> AnyBatch:
    changed = {
        field.name: change(value)
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), torch.Tensor)
    }
    if isinstance(batch, PairBatch) and batch.image_features is not None:
        image = batch.image_features
        changed_image = ImageFeatures(local=change(image.local), pooled=change(image.pooled))
        return dataclasses.replace(batch, **changed, image_features=changed_image)
    return dataclasses.replace(batch, **changed)
