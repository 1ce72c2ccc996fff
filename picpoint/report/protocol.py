"""Which parts of a benchmark's protocol did a run keep, and which not?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picpoint.evaluate.frozen_result import FrozenResult
from picpoint.report.published import Benchmark
from picpoint.train.finetune_result import FinetuneResult


@dataclass(frozen=True, slots=True)
class Check:
    """One part of a protocol.

    Attributes:
        part: which.
        asked: what the protocol has.
        found: what the run had.
        is_kept: whether that is the same.
    """

    part: str
    asked: str
    found: str
    is_kept: bool


def check_folds(benchmark: Benchmark, results: Iterable[FinetuneResult]) -> list[Check]:
    """Hold runs whose figures are one figure to a benchmark's protocol: each must keep it."""
    checks: dict[str, Check] = {}
    for result in results:
        for check in check_finetuning(benchmark, result):
            if checks.setdefault(check.part, check).is_kept:
                checks[check.part] = check
    return list(checks.values())


def check_finetuning(benchmark: Benchmark, result: FinetuneResult) -> list[Check]:
    """Hold a fine-tuning run to a benchmark's protocol."""
    settings = result.settings
    return [
        *_check_splits(benchmark, result),
        *_check_data(benchmark, result, settings.get("data.num_points")),
        _check_labels(settings.get("data.label_share", 1.0)),
        Check(
            "chosen epoch",
            "the last; most published figures are of the best, by the test split",
            "the last",
            True,
        ),
    ]


def check_probe(benchmark: Benchmark, result: FrozenResult) -> list[Check]:
    """Hold a probe to a benchmark's protocol."""
    frozen = result.settings.get("frozen", {})
    penalties: Sequence[float] = frozen.get("penalties", ())
    data: Mapping[str, Any] = result.settings.get("data", {})
    is_chosen = len(penalties) != 1
    return [
        *_check_data(benchmark, result, result.num_points),
        _check_labels(data.get("label_share", 1.0)),
        Check(
            "C",
            "chosen by folds of the training clouds",
            "so chosen" if is_chosen else f"fixed at {penalties[0]:g}",
            is_chosen,
        ),
    ]


def differences(checks: Sequence[Check]) -> str:
    """Name what was not kept, in a line; "" where all was."""
    return "; ".join(
        f"{check.part}: {check.found}, not {check.asked}" for check in checks if not check.is_kept
    )


def _check_splits(benchmark: Benchmark, result: FinetuneResult) -> list[Check]:
    if not benchmark.splits:
        return []
    asked = [split for split in benchmark.splits if split != result.evaluated_on]
    found = sorted(result.settings.get("data.train", ()))
    return [Check("trained on", ", ".join(asked), ", ".join(found) or "unknown", found == asked)]


def _check_data(
    benchmark: Benchmark, result: FinetuneResult | FrozenResult, num_points: int | None
) -> list[Check]:
    asked = " or ".join(benchmark.evaluated_on) or "the test split"
    is_kept = not result.evaluated_on.startswith("validation")
    if benchmark.evaluated_on:
        is_kept = result.evaluated_on in benchmark.evaluated_on
    checks = [Check("measured on", asked, result.evaluated_on, is_kept)]
    if benchmark.counts:
        found = (result.num_train, result.num_evaluated)
        checks.append(
            Check(
                "clouds trained on and tested",
                " or ".join(map(_told, benchmark.counts)),
                _told(found),
                found in benchmark.counts,
            )
        )
    if benchmark.num_points:
        numbers = " or ".join(f"{count:,}" for count in benchmark.num_points)
        found_points = "unknown" if num_points is None else f"{num_points:,}"
        checks.append(Check("points", numbers, found_points, num_points in benchmark.num_points))
    return checks


def _check_labels(share: float) -> Check:
    return Check("labels used", "all", "all" if share == 1 else f"{share:.0%}", share == 1)


def _told(counts: tuple[int, int]) -> str:
    return f"{counts[0]:,} / {counts[1]:,}"
