"""How good are embeddings, and are they collapsing? Figures for logs and reports.

Source of alignment and uniformity: Wang and Isola, arXiv:2005.10242. Source of the effective rank:
Roy and Vetterli, EUSIPCO 2007.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def retrieval_top1(
    queries: Float[Tensor, "n D"], targets: Float[Tensor, "n D"]
) -> Float[Tensor, ""]:
    """Measure how often the most similar target of query i is target i.

    Returns:
        Share of queries, 0..1; a tie does not count, so collapsed embeddings score 0.
    """
    similarity = queries @ targets.mT
    is_own = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    best_other = similarity.masked_fill(is_own, -torch.inf).amax(dim=1)
    return (similarity.diagonal() > best_other).to(queries.dtype).mean()


def alignment(left: Float[Tensor, "n D"], right: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Measure how far partners lie apart: mean squared distance, 0 (best) to 4 for unit vectors."""
    return (left - right).square().sum(dim=1).mean()


def uniformity(vectors: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Measure how evenly unit vectors spread: log of the mean of exp(-2 squared distance).

    Returns:
        0 where all lie in one point, down to about -4 where they spread over the whole sphere.
    """
    squared = torch.pdist(vectors).square()
    return torch.logsumexp(-2 * squared, dim=0) - torch.tensor(len(squared)).log()


def effective_rank(vectors: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Count the directions that vectors use, from 1 to min(n, D).

    Returns:
        The exponential of the entropy of the singular values, normalised to sum 1; the mean is
        not removed, so vectors that all agree have rank 1.
    """
    share = torch.linalg.svdvals(vectors)
    share = share / share.sum().clamp(min=torch.finfo(share.dtype).tiny)
    return torch.exp(-torch.xlogy(share, share).sum())


def feature_spread(vectors: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Measure the standard deviation of the channels over a batch, averaged; 0 is collapse."""
    return vectors.std(dim=0).mean()


def accuracy(predicted: Int64[Tensor, " n"], labels: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
    """Measure the share of right predictions, 0..1."""
    return (predicted == labels).float().mean()
