"""How do features of both encoders enter one latent space? Projection heads and the pose code.

Each of the four features (point or picture, local or pooled) has a head of its own. What a picture
shows of a point depends on where the camera stands, so the head of local point features is also
told the camera, as a short code of its matrices.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from picpoint.ops.ghost_norm import GhostBatchNorm

PoseFusion = Literal["penultimate", "output", "none"]

# A 4 x 4 view matrix and a 4 x 4 projection matrix.
_POSE_NUMBERS = 32


@dataclass(frozen=True, slots=True)
class ProjectionConfig:
    """Shape of the projection heads.

    Attributes:
        latent_width: D. Paper: 512.
        hidden_width: between the layers. Paper: unspecified; here as wide as the latent space.
        pose_width: of the pose code. Paper: 64.
        pose_fusion: where the code joins the local point features. Paper: at the head's output,
            whether a layer follows is not told (`output`, with a linear layer after it); here
            before the last non-linear block (`penultimate`), because a code that is only followed
            by a linear layer moves all points of a view alike. `none` leaves the code out of
            the same layers.
    """

    latent_width: int = 512
    hidden_width: int = 512
    pose_width: int = 64
    pose_fusion: PoseFusion = "penultimate"


class PoseEncoder(nn.Module):
    """Encode the cameras of a batch: two matrices each -> a short code.

    The last layer has no bias: what follows the code takes any constant out or adds one itself.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(_POSE_NUMBERS, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
        )

    def forward(
        self,
        view_matrices: Float[Tensor, "B V 4 4"],
        projection_matrices: Float[Tensor, "B V 4 4"],
    ) -> Float[Tensor, "B V code"]:
        """Encode view matrices (world to camera) and projection matrices (camera to clip)."""
        numbers = torch.cat([view_matrices.flatten(2), projection_matrices.flatten(2)], dim=-1)
        # Half precision would tell neighbouring cameras apart by chance only.
        with torch.autocast(numbers.device.type, enabled=False):
            return self.layers(numbers)


class ProjectionHead(nn.Module):
    """Linear, ghost BatchNorm, ReLU, linear; ends in unit vectors."""

    def __init__(self, in_width: int, config: ProjectionConfig, ghost_batch: int) -> None:
        super().__init__()
        self.block = _Block(in_width, config.hidden_width, ghost_batch)
        self.project = nn.Linear(config.hidden_width, config.latent_width)

    def forward(
        self, features: Float[Tensor, "B *mid C"], mask: Bool[Tensor, "B *mid"]
    ) -> Float[Tensor, "B *mid D"]:
        """Project features; those with a False mask leave no trace in the others."""
        return to_unit_length(self.project(self.block(features, mask)))


class PosedProjectionHead(nn.Module):
    """The head of local point features; it encodes the camera and joins the code to them."""

    def __init__(self, in_width: int, config: ProjectionConfig, ghost_batch: int) -> None:
        super().__init__()
        hidden, latent, code = config.hidden_width, config.latent_width, config.pose_width
        self.pose_fusion = config.pose_fusion
        self.block = _Block(in_width, hidden, ghost_batch)
        self.project = nn.Linear(hidden, latent)
        match config.pose_fusion:
            case "penultimate":
                self.pose_encoder = PoseEncoder(code)
                self.fuse = _Block(hidden + code, hidden, ghost_batch)
            case "output":
                self.pose_encoder = PoseEncoder(code)
                self.fuse = nn.Linear(latent + code, latent)
            case "none":  # as deep as the default, so that only the code is missing
                self.fuse = _Block(hidden, hidden, ghost_batch)

    def forward(
        self,
        features: Float[Tensor, "B V K C"],
        view_matrices: Float[Tensor, "B V 4 4"],
        projection_matrices: Float[Tensor, "B V 4 4"],
        mask: Bool[Tensor, "B V K"],
    ) -> Float[Tensor, "B V K D"]:
        """Project features of points as they are seen by the camera of each view."""
        hidden = self.block(features, mask)
        if self.pose_fusion == "none":
            return to_unit_length(self.project(self.fuse(hidden, mask)))
        code = self.pose_encoder(view_matrices, projection_matrices)
        code = code[:, :, None].expand(-1, -1, hidden.shape[2], -1)
        if self.pose_fusion == "output":
            projected = torch.cat([self.project(hidden), code], dim=-1)
            return to_unit_length(self.fuse(projected))
        fused = self.fuse(torch.cat([hidden, code], dim=-1), mask)
        return to_unit_length(self.project(fused))


def to_unit_length(vectors: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
    """Scale vectors to unit length; a zero vector stays zero, with a finite gradient.

    Returns:
        At least float32: in half precision the lengths would be off by some 0.3 %.
    """
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return functional.normalize(wide, dim=-1, eps=1e-6)


class _Block(nn.Module):
    """Linear, ghost BatchNorm, ReLU."""

    def __init__(self, in_width: int, out_width: int, ghost_batch: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_width, out_width, bias=False)
        self.norm = GhostBatchNorm(out_width, ghost_batch)

    def forward(
        self, features: Float[Tensor, "B *mid C"], mask: Bool[Tensor, "B *mid"]
    ) -> Float[Tensor, "B *mid hidden"]:
        """Give hidden features; masked ones do not enter the statistics."""
        return functional.relu(self.norm(self.linear(features), mask))
