"""Are the embeddings collapsing? Figures of the global batch, the same on every rank."""

from dataclasses import dataclass

import torch

from picpoint import metrics
from picpoint.batch import Embeddings
from picpoint.losses.gather import gather_rows

# Contrasted shapes spread over many directions; one and a bit means that all lie in one point.
_MIN_RANK = 2.0
# Fewer shapes use few directions, however well they spread.
_MIN_SHAPES = 8


@dataclass(frozen=True, slots=True)
class EmbeddingHealth:
    """How the embeddings of a global batch lie.

    Attributes:
        num_shapes: that they were measured on.
        alignment: mean squared distance of a shape to its pictures, 0..4.
        uniformity: of the shapes; 0 where all lie in one point, else below.
        effective_rank: directions that the shapes use.
    """

    num_shapes: int
    alignment: float
    uniformity: float
    effective_rank: float

    @property
    def is_collapse(self) -> bool:
        """Whether there are shapes enough to tell, and hardly more than one direction is used."""
        return self.num_shapes >= _MIN_SHAPES and self.effective_rank < _MIN_RANK


@torch.no_grad()
def measure_embeddings(embeddings: Embeddings, rows_per_rank: tuple[int, ...]) -> EmbeddingHealth:
    """Measure the pooled embeddings of all ranks; a collective.

    Args:
        embeddings: of this rank's shapes.
        rows_per_rank: number of shapes (valid or not) of each rank, the same on every rank.
    """
    own = torch.cat([embeddings.point_pooled[:, None], embeddings.picture_pooled], dim=1)
    is_valid = gather_rows(embeddings.valid.float(), rows_per_rank) > 0
    rows = gather_rows(own.float(), rows_per_rank)[is_valid]
    points, pictures = rows[:, 0], rows[:, 1:]
    partners = points[:, None].expand_as(pictures)
    return EmbeddingHealth(
        num_shapes=len(points),
        alignment=metrics.alignment(partners.flatten(0, 1), pictures.flatten(0, 1)).item(),
        uniformity=metrics.uniformity(points).item(),
        effective_rank=metrics.effective_rank(points).item(),
    )
