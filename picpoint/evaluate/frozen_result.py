"""What do the field's probes say of a pre-trained encoder, beside the same one untrained?"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from picpoint.evaluate.encoded import ProbeError
from picpoint.evaluate.frozen import (
    FeatureSet,
    FewShotScore,
    FrozenConfig,
    Solver,
    SvmScore,
    few_shot,
    linear_svm,
    nearest_neighbours,
)
from picpoint.publish import publish_text

FROZEN_FILE = "frozen.json"


@dataclass(frozen=True, slots=True)
class FrozenScores:
    """What one encoder's features are worth.

    Attributes:
        svm: by solver.
        knn: share of test clouds named right by their nearest training clouds, 0..1.
        few_shot: one entry for each kind of task.
        few_shot_tuned: likewise, of whole networks that were fine-tuned on the same tasks; none
            where that was not asked for.
    """

    svm: dict[Solver, SvmScore]
    knn: float
    few_shot: tuple[FewShotScore, ...]
    few_shot_tuned: tuple[FewShotScore, ...] = ()


@dataclass(frozen=True, slots=True)
class FrozenResult:
    """Probes of an encoder on a data set.

    Attributes:
        dataset: name of the data set and its variant.
        dataset_digest: of its clouds.
        evaluated_on: splits, or `validation of` splits.
        num_train: clouds that the probes were fitted on.
        num_evaluated: clouds that they named.
        weights: where the encoder came from.
        weights_sha256: over its tensors.
        num_points: of each cloud.
        pretrained: its scores.
        random_init: of the same network untrained; None where it was not asked for.
        settings: of the probe.
        statistics: of BatchNorm, of both networks: `calibrated` on the training clouds, or those
            that were `stored` with the weights; "" in a result of old, where the pre-trained one
            has stored and the other calibrated ones.
        encoder: its kind; "" in a result of old that does not tell.
        parameters: of the encoder; 0 likewise.
        usual_flops: of its usual form, for one cloud forward; 0 likewise.
    """

    dataset: str
    dataset_digest: str
    evaluated_on: str
    num_train: int
    num_evaluated: int
    weights: str
    weights_sha256: str
    num_points: int
    pretrained: FrozenScores
    random_init: FrozenScores | None
    settings: dict[str, Any]
    statistics: Literal["", "calibrated", "stored"] = ""
    encoder: str = ""
    parameters: int = 0
    usual_flops: int = 0


def score_features(
    train: FeatureSet, test: FeatureSet, config: FrozenConfig, solvers: tuple[Solver, ...]
) -> FrozenScores:
    """Run all probes.

    Raises:
        ProbeError: there are too few clouds for one of them.
    """
    return FrozenScores(
        svm={solver: linear_svm(train, test, config, solver) for solver in solvers},
        knn=nearest_neighbours(train, test, config),
        few_shot=tuple(few_shot(train, test, config)),
    )


def write_frozen(result: FrozenResult, path: Path) -> None:
    """Write a result as JSON."""
    publish_text(json.dumps(asdict(result), indent=1) + "\n", path)


def read_frozen(path: Path) -> FrozenResult:
    """Read a result.

    Raises:
        ProbeError: it is missing or damaged.
    """
    try:
        return TypeAdapter(FrozenResult).validate_json(path.read_text())
    except FileNotFoundError as error:
        raise ProbeError(f"{path}: not there; run picpoint probe") from error
    except ValidationError as error:
        raise ProbeError(f"{path}: damaged; remove it and run picpoint probe again") from error


def format_frozen(result: FrozenResult) -> str:
    """Print a result as a table."""
    random = result.random_init
    rows = [("", "pre-trained", "random init" if random else "")]
    for solver, score in result.pretrained.svm.items():
        told = f"linear SVM ({solver}, C={score.penalty:g})"
        other = f"{100 * random.svm[solver].accuracy:.1f}" if random else ""
        rows.append((told, f"{100 * score.accuracy:.1f}", other))
    other = f"{100 * random.knn:.1f}" if random else ""
    rows.append(("k-NN", f"{100 * result.pretrained.knn:.1f}", other))
    for number, score in enumerate(result.pretrained.few_shot):
        other = _spread(random.few_shot[number]) if random else ""
        rows.append((f"{score.ways}-way {score.shots}-shot", _spread(score), other))
    for number, score in enumerate(result.pretrained.few_shot_tuned):
        other = _spread(random.few_shot_tuned[number]) if random else ""
        rows.append((f"{score.ways}-way {score.shots}-shot, fine-tuned", _spread(score), other))
    head = (
        f"{result.dataset}, {result.evaluated_on}: {result.num_train} clouds fitted, "
        f"{result.num_evaluated} named, {result.num_points} points, statistics "
        f"{result.statistics or 'mixed'}; {result.weights}"
    )
    return "\n".join([head, *(f"{name:32} {a:>14} {b:>14}" for name, a, b in rows)])


def _spread(score: FewShotScore) -> str:
    return f"{100 * score.mean:.1f} +- {100 * score.std:.1f}"
