"""How do embeddings lie, and are they collapsing? Figures for the log.

Source of alignment and uniformity: Wang and Isola, arXiv:2005.10242. Source of the effective rank:
Roy and Vetterli, EUSIPCO 2007.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def alignment(left: Float[Tensor, "n D"], right: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Measure how far partners lie apart: mean squared distance, 0 (best) to 4 for unit vectors."""
    return (left - right).square().sum() / max(len(left), 1)


def uniformity(vectors: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Measure how evenly unit vectors spread: log of the mean of exp(-2 squared distance).

    Returns:
        0 where all lie in one point, down to about -4 where they spread over the whole sphere.
    """
    if len(vectors) < 2:
        return vectors.new_zeros(())
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
