"""What does a fine-tuning run tell of itself while it goes on?"""

from dataclasses import dataclass, field

EVALUATIONS_FILE = "evaluations.jsonl"


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """One line of the log; loss and accuracy are of the step's global batch.

    Attributes:
        step: updates made so far.
        total_steps: of the whole run.
        samples_seen: the position of the run.
        loss: mean cross-entropy, smoothed labels included.
        accuracy: share of training clouds (or points) told right, as the network saw them, 0..1.
        lr: learning rate of the step.
        grad_norm: of the step's gradient, before it was shortened.
        samples_per_s: over all ranks, since the run was (re)started, evaluations included.
        data_wait: share of that time in which this rank waited for a batch, 0..1.
        eta_s: time to the end at this pace.
    """

    step: int
    total_steps: int
    samples_seen: int
    loss: float
    accuracy: float
    lr: float
    grad_norm: float
    samples_per_s: float
    data_wait: float
    eta_s: float


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """One line of evaluations.jsonl.

    Attributes:
        samples_seen: the position of the run.
        epoch: passes over the training clouds so far.
        figures: by name, each 0..1; see picpoint/train/evaluation.py.
        confusion: rows of true classes, columns of predicted ones.
        miou_of_class: mean over the shapes of each class, for parts.
    """

    samples_seen: int
    epoch: int
    figures: dict[str, float]
    confusion: list[list[int]]
    miou_of_class: dict[str, float] = field(default_factory=dict)
