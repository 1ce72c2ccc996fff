"""What came out, and how is it kept? `results.json`: written by the evaluation, read by the report.

    format_version         1
    mean, std              metric -> encoder -> top-1 accuracy over the seeds, 0..1; std is null for
                           one seed
    paired_difference      metric -> mean, standard_error, num_shapes, in_standard_errors (null
                           where nothing spreads), pooled over the seeds
    chance                 metric -> top-1 accuracy of guessing, 0..1
    shapes                 counts of the first seed's split
    seeds                  per seed: seed, metric -> encoder -> accuracy, shapes, and per_shape:
                           metric -> keys and each encoder's accuracy on them; unseen_views (null
                           where a run used all its cameras): UnseenViews, retrieval with cameras
                           that it used beside others (picpoint/evaluate/unseen_views.py)
    seconds                stage -> wall time, s
    versions, commit, config

Encoders are `pretrained` and `random_init`, the same network before any training. All that is
derived is derived from `per_shape`, so that a reader can check it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from picpoint.evaluate.seed import SeedResult, ShapeCounts, chance_of
from picpoint.evaluate.trials import METRICS, Metric, PairedDifference, Trials, paired_difference
from picpoint.evaluate.unseen_views import ShapeGroup, UnseenViews
from picpoint.publish import publish_text

FORMAT_VERSION = 1

METRIC_TITLES: Mapping[Metric, str] = {
    "linear_probe": "linear probe",
    "knn": "nearest neighbour",
    "retrieval_picture_to_shape": "retrieval picture -> shape",
    "retrieval_shape_to_picture": "retrieval shape -> picture",
}


class ResultsError(ValueError):
    """A results file cannot be read; the message names it and what to do."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds; `std` (sample deviation) is None for a single seed."""

    mean: float
    std: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of both encoders, over all seeds.

    Attributes:
        metric: which measure.
        pretrained: its accuracy, 0..1.
        random_init: the same of the untrained encoder.
        difference: of the two, shape by shape.
        chance: accuracy of guessing.
    """

    metric: Metric
    pretrained: Spread
    random_init: Spread
    difference: PairedDifference
    chance: float


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that `results.json` holds."""

    seeds: tuple[SeedResult, ...]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    commit: str
    config: Mapping[str, object]

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Both encoders side by side, a line per measure."""
        return tuple(_compare(self.seeds, metric) for metric in METRICS)

    @property
    def extent(self) -> str:
        """Tell in words how much data the figures rest on."""
        counts, num_seeds = self.seeds[0].counts, len(self.seeds)
        held_out = f"{counts.num_held_out} held-out shapes"
        if num_seeds > 1:
            trials = [result.pretrained["retrieval_picture_to_shape"] for result in self.seeds]
            distinct = {key for of_seed in trials for key in of_seed.keys}
            held_out = f"{num_seeds} seeds of {held_out} ({len(distinct)} different ones)"
        return (
            f"{held_out} in {counts.num_classes} classes, after pre-training on {counts.num_train}"
        )


def summarise(
    seed_results: Sequence[SeedResult],
    seconds: Mapping[str, float],
    versions: Mapping[str, str],
    commit: str,
    config: Mapping[str, object],
) -> dict[str, object]:
    """Lay results out as `results.json` has them; the layout is in this file's docstring.

    Args:
        seed_results: one per seed.
        seconds: wall time by stage.
        versions: version by package or tool.
        commit: of the code that ran.
        config: the composed configuration, as plain JSON values.
    """
    seeds = tuple(seed_results)
    comparisons = [_compare(seeds, metric) for metric in METRICS]
    return {
        "format_version": FORMAT_VERSION,
        "mean": {
            line.metric: {
                "pretrained": line.pretrained.mean,
                "random_init": line.random_init.mean,
            }
            for line in comparisons
        },
        "std": {
            line.metric: {"pretrained": line.pretrained.std, "random_init": line.random_init.std}
            for line in comparisons
        },
        "paired_difference": {
            line.metric: {
                **asdict(line.difference),
                "in_standard_errors": line.difference.in_standard_errors,
            }
            for line in comparisons
        },
        "chance": {line.metric: line.chance for line in comparisons},
        "shapes": asdict(seeds[0].counts),
        "seeds": [_seed_to_json(result) for result in seeds],
        "seconds": dict(seconds),
        "versions": dict(versions),
        "commit": commit,
        "config": dict(config),
    }


def write_results(summary: Mapping[str, object], path: Path) -> None:
    """Write what `summarise` gave as JSON; whole or not at all."""
    publish_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", path)


def load_results(path: Path) -> Results:
    """Read `results.json`.

    Raises:
        ResultsError: the file is missing, broken, or of another version.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"{path}: no such file; run `picpoint evaluate` first") from None
    except ValueError as error:
        raise ResultsError(f"{path}: not JSON ({error}); run `picpoint evaluate` again") from None
    version = told.get("format_version") if isinstance(told, dict) else None
    if version != FORMAT_VERSION:
        raise ResultsError(
            f"{path}: format_version is {version}, this code reads {FORMAT_VERSION}; "
            "run `picpoint evaluate` again"
        )
    try:
        return Results(
            seeds=tuple(_seed_from_json(seed) for seed in told["seeds"]),
            seconds={stage: float(spent) for stage, spent in told["seconds"].items()},
            versions=told["versions"],
            commit=told["commit"],
            config=told["config"],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: broken ({error!r}); run `picpoint evaluate` again") from error


def format_table(results: Results) -> str:
    """Set the results as a text table for a terminal, in per cent."""
    rows = [("top-1 on held-out shapes, %", "pre-trained", "random init", "difference", "chance")]
    rows += [
        (
            METRIC_TITLES[line.metric],
            _percent(line.pretrained),
            _percent(line.random_init),
            f"{100 * line.difference.mean:+.1f} +- {100 * line.difference.standard_error:.1f}",
            f"{100 * line.chance:.1f}",
        )
        for line in results.comparisons
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]
    note = f"{results.extent}; the error is one standard error over shapes"
    told = [lines[0], "-" * len(lines[0]), *lines[1:], note]
    return "\n".join([*told, *_views_table(results)])


def _views_table(results: Results) -> list[str]:
    """Set retrieval with cameras of pre-training beside others, mean over the seeds."""
    of_seeds = [seed.views for seed in results.seeds if seed.views is not None]
    if not of_seeds:
        return []
    first = of_seeds[0]
    lines = [
        "",
        f"retrieval picture -> shape, of {first.num_shapes} shapes, from {first.num_seen} cameras "
        f"of pre-training / from {first.num_unseen} others, %",
    ]
    titles: dict[ShapeGroup, str] = {"held_out": "held-out shapes", "trained": "trained shapes"}
    for group, title in titles.items():
        cells = [
            f"{name} {100 * float(np.mean([gap.seen for gap in gaps])):.1f} / "
            f"{100 * float(np.mean([gap.unseen for gap in gaps])):.1f}"
            for name, gaps in (
                ("pre-trained", [views.pretrained[group] for views in of_seeds]),
                ("random init", [views.random_init[group] for views in of_seeds]),
            )
        ]
        lines.append(f"{title:17} {', '.join(cells)}")
    return lines


def _compare(seeds: Sequence[SeedResult], metric: Metric) -> Comparison:
    pretrained = [result.pretrained[metric] for result in seeds]
    random_init = [result.random_init[metric] for result in seeds]
    return Comparison(
        metric=metric,
        pretrained=_spread([trials.accuracy for trials in pretrained]),
        random_init=_spread([trials.accuracy for trials in random_init]),
        difference=paired_difference(pretrained, random_init),
        chance=float(np.mean([chance_of(metric, result.counts) for result in seeds])),
    )


def _spread(of_seeds: Sequence[float]) -> Spread:
    std = float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else None
    return Spread(mean=float(np.mean(of_seeds)), std=std)


def _percent(figure: Spread) -> str:
    std = "" if figure.std is None else f" ({100 * figure.std:.1f})"
    return f"{100 * figure.mean:.1f}{std}"


def _seed_to_json(result: SeedResult) -> dict[str, object]:
    return {
        "seed": result.seed,
        **{
            metric: {
                "pretrained": result.pretrained[metric].accuracy,
                "random_init": result.random_init[metric].accuracy,
            }
            for metric in METRICS
        },
        "shapes": asdict(result.counts),
        "unseen_views": None if result.views is None else asdict(result.views),
        "per_shape": {
            metric: {
                "keys": list(result.pretrained[metric].keys),
                "pretrained": result.pretrained[metric].per_shape.tolist(),
                "random_init": result.random_init[metric].per_shape.tolist(),
            }
            for metric in METRICS
        },
    }


def _seed_from_json(told: Mapping[str, Any]) -> SeedResult:
    """Read a seed back; a shape's trials come back as one, their mean."""

    def trials(metric: Metric, encoder: str) -> Trials:
        per_shape = told["per_shape"][metric]
        return Trials(tuple(per_shape["keys"]), np.array([per_shape[encoder]], dtype=np.float64))

    return SeedResult(
        seed=told["seed"],
        counts=ShapeCounts(**told["shapes"]),
        pretrained={metric: trials(metric, "pretrained") for metric in METRICS},
        random_init={metric: trials(metric, "random_init") for metric in METRICS},
        views=_views_from_json(told.get("unseen_views")),
    )


def _views_from_json(told: Mapping[str, Any] | None) -> UnseenViews | None:
    """Read a comparison of views back; None where there is none, as in results of old."""
    return None if told is None else TypeAdapter(UnseenViews).validate_python(told)
