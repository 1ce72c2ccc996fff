"""What does a training run cost? Steps, samples, FLOPs and bytes, reckoned from its settings.

Forward and backward take three times the FLOPs of forward. They are those of the usual, published
form of a network (picpoint/weights/cost.py), which ours stays below; heads are not counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from picpoint.encoders.image import ImageEncoderConfig
from picpoint.encoders.torchvision_import import import_torchvision
from picpoint.task_model import PartsNetwork, ScenesNetwork
from picpoint.train.finetune_settings import FinetuneConfig
from picpoint.train.settings import PretrainConfig
from picpoint.weights.cost import encoder_cost, segmenter_flops
from shards.columns import MemberSpan
from shards.reader import PAIRING
from shards.schema import META, POINTS

_FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run costs.

    Attributes:
        steps: updates.
        samples: that it learns from, each as often as it comes.
        evaluated: samples that it is measured on, likewise.
        flops: of all of them.
        left_out: networks whose FLOPs are not known here.
        read_bytes: of all of them.
    """

    steps: int
    samples: int
    evaluated: int
    flops: int
    left_out: tuple[str, ...]
    read_bytes: int

    @property
    def line(self) -> str:
        """Say it."""
        seen = f"{self.samples:,} samples in {self.steps:,} steps"
        seen += f", {self.evaluated:,} evaluated" if self.evaluated else ""
        without = f" without {', '.join(self.left_out)}" if self.left_out else ""
        return (
            f"cost   {seen}; {self.flops / 1e15:.3g} PFLOPs, in the usual form and without heads"
            f"{without}; reads {self.read_bytes / 1e9:.3g} GB"
        )


def pretrain_cost(config: PretrainConfig, num_shapes: int, bytes_per_shape: int) -> RunCost:
    """Reckon a pre-training run.

    Args:
        config: the run.
        num_shapes: that it trains on.
        bytes_per_shape: read of one in a step.
    """
    steps = config.last_epoch * (num_shapes // config.global_batch)
    samples = steps * config.global_batch
    point = encoder_cost(config.point_encoder, config.data.num_points).usual_flops
    image, left_out = 0, ()
    if config.data.image_features == "live":
        told = image_flops(config.image_encoder)
        image, left_out = (told, ()) if told else (0, (config.image_encoder.name,))
    per_shape = _FORWARD_AND_BACKWARD * point + config.data.views_per_step * image
    return RunCost(steps, samples, 0, samples * per_shape, left_out, samples * bytes_per_shape)


def finetune_cost(
    config: FinetuneConfig, num_train: int, num_evaluated: int, bytes_per_cloud: int
) -> RunCost:
    """Reckon a fine-tuning run; of 16 classes and 50 parts or 13 things, where it tells them.

    A whole room is counted as one crop of it: in an evaluation it takes several.

    Args:
        config: the run.
        num_train: clouds that it trains on.
        num_evaluated: clouds that it is measured on.
        bytes_per_cloud: read of one.
    """
    steps = config.epochs * (num_train // config.global_batch)
    samples = steps * config.global_batch
    evaluations = -(-config.epochs // config.eval_every) + config.votes
    evaluated = evaluations * num_evaluated
    forward = _task_flops(config)
    passes = 1 if config.freeze else _FORWARD_AND_BACKWARD
    return RunCost(
        steps,
        samples,
        evaluated,
        (passes * samples + evaluated) * forward,
        (),
        (samples + evaluated) * bytes_per_cloud,
    )


def _task_flops(config: FinetuneConfig) -> int:
    encoder, num_features = config.point_encoder, config.view.num_features
    with torch.device("meta"):  # shapes without numbers
        match config.task:
            case "classify":
                return encoder_cost(encoder, config.data.num_points).usual_flops
            case "parts":
                network = PartsNetwork(encoder, 16, 50, num_features, 1)
            case "scenes":
                network = ScenesNetwork(encoder, 13, num_features, 1)
    return segmenter_flops(network.segmenter, config.data.num_points)


def image_flops(config: ImageEncoderConfig) -> int | None:
    """Count the FLOPs of a picture in a ResNet; None for other networks, which need their weights.

    `picpoint doctor --image-encoder NAME` counts any, where its weights are.
    """
    if not config.name.startswith("resnet"):
        return None
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = import_torchvision().models.get_model(config.name, weights=None).eval()
        network.fc = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        network(torch.empty(1, 3, config.input_px, config.input_px))
    return counter.get_total_flops()


def bytes_of_shape(members: Iterable[MemberSpan], config: PretrainConfig) -> int:
    """Count what a step reads of a rendered shape: its arrays, and pictures as many as it takes.

    Args:
        members: of a shape of the set.
        config: the run; of cached features the arrays of the shape alone are counted.
    """
    spans = list(members)
    pictures = [span.length for span in spans if span.name.startswith("view")]
    arrays = sum(span.length for span in spans if span.name in (*PAIRING, META))
    if config.data.image_features == "cached" or not pictures:
        return arrays
    return arrays + config.data.views_per_step * round(sum(pictures) / len(pictures))


def bytes_of_cloud(members: Iterable[MemberSpan], config: FinetuneConfig) -> int:
    """Count what is read of a labelled cloud of a set."""
    wanted = {POINTS, META, *config.view.members}
    return sum(span.length for span in members if span.name in wanted)
