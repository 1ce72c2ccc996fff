"""How do points and pictures become embeddings? The trainable part of pre-training.

    points   -> point encoder -> local, at the corresponding points -> posed head -> point_local
                              -> pooled                             -> head       -> point_pooled
    pictures -> image encoder -> local, at the points' pixels       -> head       -> picture_local
                (frozen)      -> pooled                             -> head       -> picture_pooled

The image encoder is not part of the model: its features come in, so they may be computed or read.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Discriminator
from torch import Tensor, nn
from torch.nn import functional

from picpoint.batch import Embeddings, ImageFeatures, PairBatch
from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import PointNext, PointNextConfig
from picpoint.heads.projection import PosedProjectionHead, ProjectionConfig, ProjectionHead

# Which of them is meant is told by its name, in YAML as in a checkpoint.
PointEncoderConfig = Annotated[DgcnnConfig | PointNextConfig, Discriminator("name")]

# As in CLIP (arXiv:2103.00020), section 2.5.
LEAST_TEMPERATURE = 0.01


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What is trained.

    Attributes:
        point_encoder: the encoder that is pre-trained; its config's type chooses it.
        heads: shape of the four projection heads.
        ghost_batch: shapes that share BatchNorm statistics; each rank's share of the global batch
            is a multiple of it. Paper: unspecified (whatever a GPU held); here a number of its
            own, because the objective must not depend on the number of ranks.
        learnt_temperature: where the temperature of the losses starts from if it is trained; None
            if it is not.
    """

    point_encoder: PointEncoderConfig = field(default_factory=DgcnnConfig)
    heads: ProjectionConfig = field(default_factory=ProjectionConfig)
    ghost_batch: int = 16
    learnt_temperature: float | None = None


class PretrainModel(nn.Module):
    """Point encoder, pose encoder and four projection heads.

    Args:
        config: what to build.
        image_local_width: channels of the image encoder's local map.
        image_pooled_width: channels of its pooled feature.

    Raises:
        ValueError: the point encoder would bring points into another order than the one by which
            correspondences name them.
    """

    def __init__(
        self, config: ModelConfig, image_local_width: int, image_pooled_width: int
    ) -> None:
        super().__init__()
        if getattr(config.point_encoder, "sampling", "stored") != "stored":
            raise ValueError(
                "point_encoder.sampling=farthest: pre-training needs the stored order, which is "
                "farthest-point order already; use sampling=stored"
            )
        heads, ghost_batch = config.heads, config.ghost_batch
        self.point_encoder = build_point_encoder(config.point_encoder, ghost_batch)
        widths = self.point_encoder.local_width, self.point_encoder.pooled_width
        self.point_local_head = PosedProjectionHead(widths[0], heads, ghost_batch)
        self.point_pooled_head = ProjectionHead(widths[1], heads, ghost_batch)
        self.picture_local_head = ProjectionHead(image_local_width, heads, ghost_batch)
        self.picture_pooled_head = ProjectionHead(image_pooled_width, heads, ghost_batch)
        self.log_temperature: nn.Parameter | None = None
        if config.learnt_temperature is not None:
            self.log_temperature = nn.Parameter(torch.tensor(config.learnt_temperature).log())

    def forward(self, batch: PairBatch, image: ImageFeatures) -> Embeddings:
        """Embed a batch of shapes and what the image encoder said of their pictures."""
        mask = batch.correspondence_mask & batch.valid[:, None, None]
        # Padding may hold anything; what it says must not reach an index or a gradient.
        point_index = batch.point_index.masked_fill(~mask, 0)
        pixels = batch.pixels.masked_fill(~mask[..., None], 0)
        size_px = batch.size_px
        points = self.point_encoder(batch.points, batch.valid)
        local = self.point_local_head(
            gather_points(points.local, point_index),
            batch.view_matrices,
            batch.projection_matrices,
            mask,
        )
        return Embeddings(
            point_pooled=self.point_pooled_head(points.pooled, batch.valid),
            picture_pooled=self._embed_pictures(image.pooled, batch.valid),
            point_local=local,
            picture_local=self.picture_local_head(sample_map(image.local, pixels, size_px), mask),
            local_mask=mask,
            local_cell=pixel_to_cell(pixels, size_px, image.local.shape[-1]),
            valid=batch.valid,
            temperature=self._temperature(),
        )

    def _temperature(self) -> Float[Tensor, ""] | None:
        """Give the learnt temperature."""
        return None if self.log_temperature is None else self.log_temperature.exp()

    @torch.no_grad()
    def keep_temperature_in_range(self) -> None:
        """Keep a learnt temperature at 0.01 or more; below, one pair takes all the gradient.

        To be called after each update.
        """
        if self.log_temperature is not None:
            self.log_temperature.clamp_(min=math.log(LEAST_TEMPERATURE))

    def encode_pooled(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B C"]:
        """Describe clouds as a probe sees them: the encoder's pooled feature, before any head."""
        return self.point_encoder(points).pooled

    def embed_shapes(self, pooled: Float[Tensor, "B C"]) -> Float[Tensor, "B D"]:
        """Embed what `encode_pooled` gave where `embed_pictures` embeds pictures, for retrieval."""
        return self.point_pooled_head(pooled, _all_valid(pooled))

    def embed_pictures(self, image: ImageFeatures) -> Float[Tensor, "B V D"]:
        """Embed pictures where `embed_shapes` embeds clouds."""
        return self._embed_pictures(image.pooled, _all_valid(image.pooled))

    def _embed_pictures(
        self, pooled: Float[Tensor, "B V C"], valid: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B V D"]:
        return self.picture_pooled_head(pooled, valid[:, None].expand(-1, pooled.shape[1]))


def build_point_encoder(config: PointEncoderConfig, ghost_batch: int) -> Dgcnn | PointNext:
    """Build the point encoder that a config describes."""
    match config:
        case DgcnnConfig():
            return Dgcnn(config, ghost_batch)
        case PointNextConfig():
            return PointNext(config, ghost_batch)


def check_num_points(config: PointEncoderConfig, num_points: int) -> None:
    """Make sure that an encoder, or its segmentation form, takes clouds of so many points.

    Raises:
        ValueError: its strides leave none of them, or it seeks more neighbours than there are.
    """
    match config:
        case DgcnnConfig():
            least, remedy = config.num_neighbours, "point_encoder.num_neighbours"
        case PointNextConfig():
            least, remedy = math.prod(config.strides), "point_encoder.strides"
    if num_points < least:
        raise ValueError(
            f"data.num_points={num_points}: {config.name} needs {least} points or more; give "
            f"larger clouds, or lower {remedy}"
        )


def gather_points(
    local: Float[Tensor, "B M C"], point_index: Int64[Tensor, "B V K"]
) -> Float[Tensor, "B V K C"]:
    """Pick the features of the points that correspond to a pixel in each view."""
    rows = point_index.flatten(1)[..., None].expand(-1, -1, local.shape[-1])
    return local.gather(1, rows).unflatten(1, point_index.shape[1:])


def sample_map(
    feature_map: Float[Tensor, "B V C h w"], pixels: Float[Tensor, "B V K 2"], size_px: int
) -> Float[Tensor, "B V K C"]:
    """Sample feature maps bilinearly at pixels.

    Args:
        feature_map: its cells tile the picture, so the centre of cell i of w lies at
            (i + 0.5) * size_px / w; beyond the outermost centres the border is repeated.
        pixels: (u, v) in px, (0, 0) the outer corner of the top left pixel.
        size_px: side of the square picture.
    """
    shape = pixels.shape[:3]
    # With align_corners=False, -1 and 1 are the outer edges of the map, as 0 and size_px are here.
    grid = (2 * pixels / size_px - 1).to(feature_map.dtype).flatten(0, 1)[:, None]
    sampled = functional.grid_sample(
        feature_map.flatten(0, 1), grid, "bilinear", padding_mode="border", align_corners=False
    )
    return sampled[:, :, 0].mT.unflatten(0, shape[:2])


def pixel_to_cell(
    pixels: Float[Tensor, "B V K 2"], size_px: int, cells_across: int
) -> Int64[Tensor, "B V K"]:
    """Name the cell of a square map that each pixel lies in, row by row."""
    cell = (pixels * (cells_across / size_px)).long().clamp(0, cells_across - 1)
    return cell[..., 1] * cells_across + cell[..., 0]


def _all_valid(features: Float[Tensor, "B *rest"]) -> Bool[Tensor, " B"]:
    return torch.ones(len(features), dtype=torch.bool, device=features.device)
