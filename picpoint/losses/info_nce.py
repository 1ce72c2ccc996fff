"""By InfoNCE, how well do point cloud and picture agree, locally and globally?

Both terms are symmetric: each point (or shape) is to find its picture feature among those of
others, and each picture feature its point. The global term's others are all shapes of the global
batch; the local term's are the other correspondences of the same picture.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from picpoint.batch import Embeddings, LossTerms
from picpoint.losses.gather import gather_rows, global_sum, this_rank


@dataclass(frozen=True, slots=True)
class LossConfig:
    """What is asked of the embeddings.

    Negatives of the local term. Paper: unspecified; here the other points of the same picture,
    because points of other shapes can be told apart by recognising the shape, which is the global
    term's task.

    Attributes:
        local_weight: of the local term. Paper: unspecified; here both weigh the same.
        pooled_weight: of the global term.
        temperature: divides the cosines. Paper: unspecified; here 0.1, usual for unit vectors.
    """

    local_weight: float = 1.0
    pooled_weight: float = 1.0
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(
                f"loss.temperature={self.temperature} must be positive; try 0.1, the default"
            )


@dataclass(frozen=True, slots=True)
class _Score:
    """Sums over this rank's rows: of the loss, and of how many rows found their partner first."""

    loss: Float[Tensor, ""]
    found: Float[Tensor, ""]


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
    pooled = _pooled_score(embeddings, config.temperature, rows_per_rank)
    local = _local_score(embeddings, config.temperature)
    counts = torch.stack([embeddings.valid.sum(), embeddings.local_mask.sum()])
    num_shapes, num_pairs = global_sum(counts).clamp(min=1).to(pooled.loss.dtype).unbind()
    num_pictures = num_shapes * embeddings.picture_pooled.shape[1]
    pooled_loss, local_loss = pooled.loss / num_pictures, local.loss / num_pairs
    return LossTerms(
        total=config.pooled_weight * pooled_loss + config.local_weight * local_loss,
        local=local_loss,
        pooled=pooled_loss,
        local_top1=local.found / num_pairs,
        pooled_top1=pooled.found / num_pictures,
    )


def _pooled_score(
    embeddings: Embeddings, temperature: float, rows_per_rank: tuple[int, ...]
) -> _Score:
    """Contrast this rank's shapes with the pictures of all ranks, and the other way round."""
    valid = embeddings.valid
    points = _wide(embeddings.point_pooled, valid)
    pictures = _wide(embeddings.picture_pooled, valid[:, None].expand(-1, _views(embeddings)))
    # One collective for both: the order of collectives is the same on every rank.
    gathered = gather_rows(torch.cat([points[:, None], pictures], dim=1), rows_per_rank)
    all_valid = gather_rows(valid.to(points.dtype), rows_per_rank) > 0
    all_points, all_pictures = gathered[:, 0], gathered[:, 1:].transpose(0, 1)
    own = sum(rows_per_rank[: this_rank()]) + torch.arange(len(valid), device=valid.device)
    allowed = all_valid.expand(len(valid), -1)
    forth = _contrast(points @ all_pictures.mT / temperature, own, allowed, valid)
    back = _contrast(pictures.transpose(0, 1) @ all_points.mT / temperature, own, allowed, valid)
    return _Score(loss=(forth.loss + back.loss) / 2, found=forth.found)


def _local_score(embeddings: Embeddings, temperature: float) -> _Score:
    """Contrast the correspondences of each picture with each other."""
    mask = embeddings.local_mask
    points, pixels = _wide(embeddings.point_local, mask), _wide(embeddings.picture_local, mask)
    logits = points @ pixels.mT / temperature
    other_cell = embeddings.local_cell[..., :, None] != embeddings.local_cell[..., None, :]
    allowed = mask[..., None, :] & other_cell
    own = torch.arange(mask.shape[-1], device=mask.device)
    forth = _contrast(logits, own, allowed, mask)
    back = _contrast(logits.mT, own, allowed, mask)
    return _Score(loss=(forth.loss + back.loss) / 2, found=forth.found)


def _contrast(
    logits: Float[Tensor, "*batch n m"],
    own: Int64[Tensor, " n"],
    allowed: Bool[Tensor, "*#batch n m"],
    counted: Bool[Tensor, "*#batch n"],
) -> _Score:
    """Sum the cross-entropy of finding one's partner.

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
    return _Score(
        loss=loss.masked_fill(~counted, 0).sum(),
        found=(found & counted).sum().to(loss.dtype),
    )


def _wide(rows: Float[Tensor, "*n D"], mask: Bool[Tensor, "*n"]) -> Float[Tensor, "*n D"]:
    """Give rows in float32 (float64 stays), and 0 for those that do not count."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return rows.to(dtype).masked_fill(~mask[..., None], 0)


def _views(embeddings: Embeddings) -> int:
    return embeddings.picture_pooled.shape[1]
