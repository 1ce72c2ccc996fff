"""By InfoNCE, how well do point cloud and picture agree, locally and globally?

Both terms are symmetric: each point (or shape) is to find its picture feature among those of
others, and each picture feature its point. The global term's others are all shapes of the global
batch; the local term's are the other correspondences of the same picture, or of all pictures of a
group of shapes that stand together in the global batch.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from picpoint.batch import Embeddings, LossTerms
from picpoint.losses.gather import gather_rows, global_sum, this_rank
from picpoint.losses.tiled import contrast_rows

Temperature = float | Float[Tensor, ""]


@dataclass(frozen=True, slots=True)
class LossConfig:
    """What is asked of the embeddings.

    Attributes:
        local_weight: of the local term; 0 leaves it out. Paper: unspecified; here both weigh the
            same.
        pooled_weight: of the global term; 0 leaves it out.
        temperature: divides the cosines. Paper: unspecified; here 0.1, usual for unit vectors.
        learn_temperature: train it, from there on.
        negatives: of the local term. Paper: unspecified; here the other points of the same
            `picture`, because points of other shapes can be told apart by recognising the shape,
            which is the global term's task; `group` adds those of all pictures of a group.
        group_size: shapes of such a group: consecutive slots of the global batch, whatever rank
            holds them. Divides the ghost batch.
    """

    local_weight: float = 1.0
    pooled_weight: float = 1.0
    temperature: float = 0.1
    learn_temperature: bool = False
    negatives: Literal["picture", "group"] = "picture"
    group_size: int = 8

    def __post_init__(self) -> None:
        if min(self.local_weight, self.pooled_weight) < 0 or not (
            self.local_weight + self.pooled_weight > 0
        ):
            raise ValueError(
                f"loss.local_weight={self.local_weight}, loss.pooled_weight={self.pooled_weight}: "
                "neither may be below 0, nor both be 0"
            )
        if self.group_size < 1:
            raise ValueError(f"loss.group_size={self.group_size}: must be at least 1")
        if self.temperature <= 0:
            raise ValueError(
                f"loss.temperature={self.temperature} must be positive; try 0.1, the default"
            )


@dataclass(frozen=True, slots=True)
class _Score:
    """Sums over this rank's rows: of the loss, and of how many found their partner first.

    Attributes:
        loss: of both directions, halved.
        found: points that found their pixel, or shapes their picture.
        found_back: the other way round.
    """

    loss: Float[Tensor, ""]
    found: Float[Tensor, ""]
    found_back: Float[Tensor, ""]


def pretraining_loss(
    embeddings: Embeddings, config: LossConfig, rows_per_rank: tuple[int, ...]
) -> LossTerms:
    """Compute this rank's share of the objective; see `LossTerms`.

    A collective: every rank calls it, also one without a valid shape or visible point, whose share
    is then 0 with a zero gradient.

    Args:
        embeddings: of this rank's shapes.
        config: weights, temperature, negatives.
        rows_per_rank: number of shapes (valid or not) of each rank, the same on every rank.
    """
    learnt = embeddings.temperature
    temperature = config.temperature if learnt is None else learnt
    pooled = _pooled_score(embeddings, temperature, rows_per_rank)
    local = _local_score(embeddings, temperature, config)
    counts = torch.stack([embeddings.valid.sum(), embeddings.local_mask.sum()])
    num_shapes, num_pairs = global_sum(counts).clamp(min=1).to(pooled.loss.dtype).unbind()
    num_pictures = num_shapes * embeddings.picture_pooled.shape[1]
    pooled_loss, local_loss = pooled.loss / num_pictures, local.loss / num_pairs
    return LossTerms(
        total=config.pooled_weight * pooled_loss + config.local_weight * local_loss,
        local=local_loss,
        pooled=pooled_loss,
        local_top1=local.found / num_pairs,
        local_top1_back=local.found_back / num_pairs,
        pooled_top1=pooled.found / num_pictures,
        pooled_top1_back=pooled.found_back / num_pictures,
    )


def _pooled_score(
    embeddings: Embeddings, temperature: Temperature, rows_per_rank: tuple[int, ...]
) -> _Score:
    """Contrast this rank's shapes with the pictures of all ranks, and the other way round."""
    valid = embeddings.valid
    points = _wide(embeddings.point_pooled, valid)
    pictures = _wide(embeddings.picture_pooled, valid[:, None].expand(-1, _views(embeddings)))
    # One collective for both: the order of collectives is the same on every rank.
    gathered = gather_rows(torch.cat([points[:, None], pictures], dim=1), rows_per_rank)
    all_valid = gather_rows(valid.to(points.dtype), rows_per_rank) > 0
    own = sum(rows_per_rank[: this_rank()]) + torch.arange(len(valid), device=valid.device)
    loss, found, found_back = points.new_zeros(3).unbind()
    for view in range(pictures.shape[1]):
        forth, finds = contrast_rows(points / temperature, gathered[:, 1 + view], own, all_valid)
        back, finds_back = contrast_rows(
            pictures[:, view] / temperature, gathered[:, 0], own, all_valid
        )
        loss = loss + (forth + back).masked_fill(~valid, 0).sum() / 2
        found = found + (finds & valid).sum()
        found_back = found_back + (finds_back & valid).sum()
    return _Score(loss, found, found_back)


def _local_score(embeddings: Embeddings, temperature: Temperature, config: LossConfig) -> _Score:
    """Contrast correspondences with each other: those of a picture, or of a group of shapes."""
    mask = embeddings.local_mask
    points, pixels = _wide(embeddings.point_local, mask), _wide(embeddings.picture_local, mask)
    if config.negatives == "group":
        group = config.group_size
        # Cells of other pictures are other cells.
        picture = torch.arange(mask.shape[0] * mask.shape[1], device=mask.device)
        cells_a_picture = embeddings.local_cell.amax() + 1
        offset = (picture * cells_a_picture).view(*mask.shape[:2], 1)
        cell = _grouped(embeddings.local_cell + offset, group)
        points, pixels, mask = (_grouped(each, group) for each in (points, pixels, mask))
    else:
        cell = embeddings.local_cell
    logits = points @ pixels.mT / temperature
    allowed = mask[..., None, :] & (cell[..., :, None] != cell[..., None, :])
    own = torch.arange(mask.shape[-1], device=mask.device)
    forth, found = _contrast(logits, own, allowed, mask)
    back, found_back = _contrast(logits.mT, own, allowed, mask)
    return _Score((forth + back) / 2, found, found_back)


def _grouped(
    each: Shaped[Tensor, "B V K *features"], group: int
) -> Shaped[Tensor, "groups n *features"]:
    """Put the correspondences of consecutive shapes, of all their pictures, side by side."""
    return each.unflatten(0, (-1, group)).flatten(1, 3)


def _contrast(
    logits: Float[Tensor, "*batch n m"],
    own: Int64[Tensor, " n"],
    allowed: Bool[Tensor, "*#batch n m"],
    counted: Bool[Tensor, "*#batch n"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum the cross-entropy of finding one's partner, and count the rows that find it first.

    Args:
        logits: similarity of each row to each candidate, over the temperature.
        own: each row's partner.
        allowed: which candidates are contrasted with a row; the partner always is.
        counted: which rows enter the sums.
    """
    is_own = torch.zeros(logits.shape[-2:], dtype=torch.bool, device=logits.device)
    is_own[torch.arange(len(own), device=own.device), own] = True
    positive = logits.gather(-1, own[:, None].expand(*logits.shape[:-1], 1))[..., 0]
    candidates = logits.masked_fill(~(allowed | is_own), -torch.inf)
    loss = torch.logsumexp(candidates, dim=-1) - positive
    # A tie is not a find: embeddings that have all collapsed to one point score 0.
    found = candidates.detach().masked_fill(is_own, -torch.inf).amax(dim=-1) < positive.detach()
    counted = counted.expand(loss.shape)
    return loss.masked_fill(~counted, 0).sum(), (found & counted).sum().to(loss.dtype)


def _wide(rows: Float[Tensor, "*n D"], mask: Bool[Tensor, "*n"]) -> Float[Tensor, "*n D"]:
    """Give rows in float32 (float64 stays), and 0 for those that do not count."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return rows.to(dtype).masked_fill(~mask[..., None], 0)


def _views(embeddings: Embeddings) -> int:
    return embeddings.picture_pooled.shape[1]
