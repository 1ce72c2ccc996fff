"""What came of a fine-tuning run? result.json: everything that a table of results must say."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from picpoint.data.dataset import Dataset
from picpoint.publish import publish_text
from picpoint.train.checkpoint import CheckpointError
from picpoint.train.finetune_log import EVALUATIONS_FILE, EvaluationReport
from picpoint.train.finetune_settings import Clouds, FinetuneConfig
from picpoint.train.settings import JsonValue

RESULT_FILE = "result.json"

# The figure that a task is judged by, and so which evaluation is the best.
MAIN_FIGURE = {"classify": "accuracy", "parts": "instance_miou", "scenes": "miou"}


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """A finished run. Where the data has no validation split, the last epoch is the result.

    Attributes:
        dataset: name of the data set and its variant.
        dataset_digest: of its clouds.
        task: what was learnt.
        evaluated_on: splits, or `validation of` splits.
        num_train: clouds trained on.
        num_evaluated: clouds measured on.
        class_names: in the order of the confusion matrix, for `classify`.
        part_names: likewise, for `parts` and `scenes`.
        last: figures after the last epoch.
        best: figures of the evaluation that was best by the task's main figure.
        best_epoch: when that was.
        num_evaluations: among how many it was the best.
        confusion: after the last epoch.
        settings: of the run, flat, with digests of data and pre-trained weights.
        weights: where pre-trained weights came from; "" from scratch.
        miou_of_class: after the last epoch, the mean over the shapes of each class, for `parts`.
        parameters: of the whole network, head included; 0 in a result of old that does not tell.
    """

    dataset: str
    dataset_digest: str
    task: str
    evaluated_on: str
    num_train: int
    num_evaluated: int
    class_names: tuple[str, ...]
    part_names: tuple[str, ...]
    last: dict[str, float]
    best: dict[str, float]
    best_epoch: int
    num_evaluations: int
    confusion: tuple[tuple[int, ...], ...]
    settings: dict[str, Any]
    weights: str
    miou_of_class: dict[str, float] = field(default_factory=dict)
    parameters: int = 0


def write_result(
    run_dir: Path,
    config: FinetuneConfig,
    dataset: Dataset,
    clouds: Clouds,
    settings: dict[str, JsonValue],
    parameters: int,
) -> None:
    """Sum up the evaluations of a finished run in result.json."""
    evaluations = read_evaluations(run_dir)
    last = evaluations[-1]
    best = max(evaluations, key=lambda each: each.figures[MAIN_FIGURE[config.task]])
    result = FinetuneResult(
        dataset=dataset.info.name,
        dataset_digest=dataset.reader.manifest.digest,
        task=config.task,
        evaluated_on=config.data.evaluated_on,
        num_train=len(clouds.split.train),
        num_evaluated=len(clouds.split.evaluated),
        class_names=dataset.info.class_names,
        part_names=dataset.info.part_names,
        last=last.figures,
        best=best.figures,
        best_epoch=best.epoch,
        num_evaluations=len(evaluations),
        confusion=tuple(map(tuple, last.confusion)),
        settings=settings,
        weights=config.weights,
        miou_of_class=last.miou_of_class,
        parameters=parameters,
    )
    publish_text(json.dumps(asdict(result), indent=1) + "\n", run_dir / RESULT_FILE)


def read_evaluations(run_dir: Path) -> list[EvaluationReport]:
    """Read the evaluations of a run, in their order.

    Raises:
        CheckpointError: there are none, or a line is broken.
    """
    path = run_dir / EVALUATIONS_FILE
    try:
        lines = path.read_text().splitlines()
        found = [TypeAdapter(EvaluationReport).validate_json(line) for line in lines]
    except (FileNotFoundError, ValidationError) as error:
        raise CheckpointError(f"{path}: missing or broken; run the fine-tuning again") from error
    if not found:
        raise CheckpointError(f"{path}: no evaluation yet; let the fine-tuning run to its end")
    return found


def read_result(run_dir: Path) -> FinetuneResult:
    """Read what came of a run.

    Raises:
        CheckpointError: it is not finished, or its result is damaged.
    """
    path = run_dir / RESULT_FILE
    try:
        return TypeAdapter(FinetuneResult).validate_json(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: not there; {run_dir} is no finished fine-tuning run: run it to its end"
        ) from error
    except ValidationError as error:
        raise CheckpointError(f"{path}: damaged; remove it and fine-tune again") from error
