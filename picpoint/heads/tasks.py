"""What is a shape? Layers that turn an encoder's features into the classes of a downstream task."""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Bool, Float
from torch import Tensor, nn

from picpoint.ops.dropout import Dropout
from picpoint.ops.ghost_norm import GhostBatchNorm


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """Shape of a classification head.

    Attributes:
        hidden_widths: features of each hidden layer.
        biased: which hidden layers have a bias before their BatchNorm, which takes it out again;
            DGCNN's second has one.
        slope: of the LeakyReLU below zero; 0 is ReLU.
        dropout: share of hidden features left out in training.
    """

    hidden_widths: tuple[int, ...] = (512, 256)
    biased: tuple[bool, ...] = (False, False)
    slope: float = 0.0
    dropout: float = 0.5


POINTNEXT_CLASSIFIER = ClassifierConfig()
DGCNN_CLASSIFIER = ClassifierConfig(biased=(False, True), slope=0.2)


class Classifier(nn.Module):
    """Hidden layers (linear, ghost BatchNorm, LeakyReLU, dropout), then one score a class.

    Args:
        in_width: features of a shape.
        num_classes: scores.
        config: shape of the hidden layers.
        ghost_batch: shapes that share BatchNorm statistics.
    """

    def __init__(
        self, in_width: int, num_classes: int, config: ClassifierConfig, ghost_batch: int
    ) -> None:
        super().__init__()
        self.config = config
        widths = (in_width, *config.hidden_widths)
        self.linears = nn.ModuleList(
            nn.Linear(before, after, bias=biased)
            for (before, after), biased in zip(pairwise(widths), config.biased, strict=True)
        )
        self.norms = nn.ModuleList(GhostBatchNorm(width, ghost_batch) for width in widths[1:])
        self.dropouts = nn.ModuleList(Dropout(config.dropout) for _ in widths[1:])
        self.scores = nn.Linear(widths[-1], num_classes)

    def forward(
        self, pooled: Float[Tensor, "B C"], valid: Bool[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B classes"]:
        """Score the classes of each shape, before any softmax."""
        x = pooled
        for linear, norm, dropout in zip(self.linears, self.norms, self.dropouts, strict=True):
            x = norm(linear(x), valid, self.config.slope)
            x = dropout(x)
        return self.scores(x)
