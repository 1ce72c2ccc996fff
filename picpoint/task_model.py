"""Which network does a task take? A point encoder with a head, or its segmentation form."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from picpoint.batch import CloudBatch
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.pointnext import PointNextConfig
from picpoint.encoders.segment_dgcnn import DGCNN_PARTS, DGCNN_SCENES, DgcnnSegmenter
from picpoint.encoders.segment_pointnext import PointNextSegmenter, PointNextSegmenterConfig
from picpoint.heads.tasks import DGCNN_CLASSIFIER, POINTNEXT_CLASSIFIER, Classifier
from picpoint.model import PointEncoderConfig, build_point_encoder

TaskName = Literal["classify", "parts", "scenes"]


class ClassificationNetwork(nn.Module):
    """A point encoder and a classifier of its pooled feature.

    Args:
        config: the encoder's shape; its kind also chooses the published classifier.
        num_classes: scores.
        ghost_batch: clouds that share BatchNorm statistics.
        frozen: the encoder keeps its weights and statistics; only the classifier learns.
    """

    def __init__(
        self, config: PointEncoderConfig, num_classes: int, ghost_batch: int, frozen: bool
    ) -> None:
        super().__init__()
        self.encoder = build_point_encoder(config, ghost_batch)
        head = DGCNN_CLASSIFIER if isinstance(config, DgcnnConfig) else POINTNEXT_CLASSIFIER
        self.classifier = Classifier(self.encoder.pooled_width, num_classes, head, ghost_batch)
        self.frozen = frozen
        if frozen:
            self.encoder.requires_grad_(False)

    @property
    def trunk(self) -> nn.Module:
        """What takes the weights of a pre-trained encoder."""
        return self.encoder

    def train(self, mode: bool = True) -> "ClassificationNetwork":
        """Set the mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, batch: CloudBatch) -> Float[Tensor, "B classes"]:
        """Score the classes of each cloud, before any softmax."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pooled = self.encoder(batch.points, batch.valid).pooled
        return self.classifier(pooled, batch.valid)


class PartsNetwork(nn.Module):
    """The segmentation form of a point encoder, told the class of each object.

    Args:
        config: the encoder's shape. PointNeXt's stages are taken over; DGCNN's published network
            for parts has stages of its own, of which only the number of neighbours is chosen.
        num_classes: classes of objects.
        num_parts: scores of each point.
        num_features: of each point; DGCNN takes its position alone.
        ghost_batch: clouds that share BatchNorm statistics.
    """

    def __init__(
        self,
        config: PointEncoderConfig,
        num_classes: int,
        num_parts: int,
        num_features: int,
        ghost_batch: int,
    ) -> None:
        super().__init__()
        match config:
            case DgcnnConfig():
                shape = replace(
                    DGCNN_PARTS,
                    num_classes=num_parts,
                    num_categories=num_classes,
                    num_neighbours=config.num_neighbours,
                )
                self.segmenter = DgcnnSegmenter(shape, ghost_batch)
            case PointNextConfig():
                segmenter = PointNextSegmenterConfig(config, num_features, num_parts, num_classes)
                self.segmenter = PointNextSegmenter(segmenter, ghost_batch)

    @property
    def trunk(self) -> nn.Module:
        """What takes the weights of a pre-trained encoder."""
        return self.segmenter

    def forward(self, batch: CloudBatch) -> Float[Tensor, "B N parts"]:
        """Score the parts of each point, before any softmax."""
        match self.segmenter:
            case DgcnnSegmenter():
                return self.segmenter(batch.points, batch.labels, batch.valid)
            case PointNextSegmenter():
                return self.segmenter(batch.points, batch.features, batch.labels, batch.valid)


class ScenesNetwork(nn.Module):
    """The segmentation form of a point encoder, for scenes.

    Args:
        config: the encoder's shape. PointNeXt's stages are taken over; DGCNN's published network
            for scenes has stages of its own, of which only the number of neighbours is chosen.
        num_classes: scores of each point.
        num_features: of each point. DGCNN sees nothing else, and its first layer searches
            neighbours by the last three; PointNeXt sees the positions, too.
        ghost_batch: clouds that share BatchNorm statistics.
    """

    def __init__(
        self, config: PointEncoderConfig, num_classes: int, num_features: int, ghost_batch: int
    ) -> None:
        super().__init__()
        match config:
            case DgcnnConfig():
                shape = replace(
                    DGCNN_SCENES,
                    in_channels=num_features,
                    num_classes=num_classes,
                    num_neighbours=config.num_neighbours,
                )
                self.segmenter = DgcnnSegmenter(shape, ghost_batch)
            case PointNextConfig():
                segmenter = PointNextSegmenterConfig(config, num_features, num_classes)
                self.segmenter = PointNextSegmenter(segmenter, ghost_batch)

    @property
    def trunk(self) -> nn.Module:
        """What takes the weights of a pre-trained encoder."""
        return self.segmenter

    def forward(self, batch: CloudBatch) -> Float[Tensor, "B N classes"]:
        """Score the classes of each point, before any softmax."""
        match self.segmenter:
            case DgcnnSegmenter():
                return self.segmenter(batch.features, None, batch.valid)
            case PointNextSegmenter():
                return self.segmenter(batch.points, batch.features, None, batch.valid)


TaskNetwork = ClassificationNetwork | PartsNetwork | ScenesNetwork


def needs_farthest_first(config: PointEncoderConfig) -> bool:
    """Tell whether a network takes the leading points of a cloud as its centres."""
    return isinstance(config, PointNextConfig) and config.sampling == "stored"
