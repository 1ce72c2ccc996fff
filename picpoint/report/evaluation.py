"""What did an evaluation find? Its figures, training curves, renders and nearest neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.results import Comparison, Results, Spread
from picpoint.evaluate.trials import Metric
from picpoint.report.blocks import Block, Details, Preformatted, Section
from picpoint.report.line_charts import LineCharts
from picpoint.report.neighbour_pictures import NeighbourPictures
from picpoint.report.pictures import AnnotatedPicture, data_address
from picpoint.report.pretraining import median_throughput, training_charts
from picpoint.report.shape_map import ShapeMaps
from picpoint.report.tables import Column, Table, number, percent, percent_difference, table, word
from picpoint.report.training_log import TrainingLog

_VIEW_PX = 224

_EXPLAINED: Mapping[Metric, tuple[str, str]] = {
    "linear_probe": (
        "Linear probe",
        "A linear SVM, fitted on labelled pre-training shapes, names the class.",
    ),
    "knn": ("Nearest neighbour", "The most similar labelled pre-training shape names the class."),
    "retrieval_picture_to_shape": (
        "Picture to shape",
        "A picture finds its own shape among the held-out shapes.",
    ),
    "retrieval_shape_to_picture": (
        "Shape to picture",
        "A shape finds its own picture among those from the same camera.",
    ),
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation and what it is shown with.

    Attributes:
        name: the folder that it came from.
        results: the figures.
        logs: training logs, one per seed.
        views: renders with the projected visible points, for the contact sheet.
        pretrained: what the first seed's pre-trained encoder says.
        random_init: what it said before training.
        thumbnails: picture by sample key, for all of `neighbours.keys_shown`.
        num_queries: held-out shapes whose neighbours are shown.
        config_yaml: the composed configuration.
    """

    name: str
    results: Results
    logs: tuple[TrainingLog, ...]
    views: tuple[AnnotatedPicture, ...]
    pretrained: EncodedShapes
    random_init: EncodedShapes
    thumbnails: Mapping[str, UInt8[np.ndarray, "S S 3"]]
    num_queries: int
    config_yaml: str

    @property
    def verdict(self) -> str:
        """Tell in a sentence whether pre-training helped."""
        comparisons = self.results.comparisons
        gains = sum(comparison.difference.is_gain for comparison in comparisons)
        total = len(comparisons)
        how_many = {0: "none", total: f"all {total}"}.get(gains, f"{gains}")
        return (
            "Pre-training beats random initialisation by more than two standard errors on "
            f"{how_many} {'' if gains == total else f'of {total} '}measures."
        )

    @property
    def extent(self) -> str:
        """Tell what was compared on how much."""
        return (
            "The same point encoder before and after pre-training, measured on shapes that "
            f"pre-training never saw: {self.results.extent}."
        )


@dataclass(frozen=True, slots=True)
class FigureLine:
    """One row of the table of figures, as text, and shares for its drawing."""

    title: str
    explained: str
    pretrained: str
    random_init: str
    difference: str
    standard_error: str
    in_standard_errors: str
    chance: str
    is_gain: bool
    pretrained_percent: float
    random_percent: float
    chance_percent: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The table of figures, drawn.

    Attributes:
        lines: its rows.
        num_seeds: that the figures are means of.
        plain: the same for Markdown and JSON.
    """

    template: ClassVar[str] = "figures.html"

    lines: tuple[FigureLine, ...]
    num_seeds: int
    plain: Table

    @property
    def tables(self) -> tuple[Table, ...]:
        """Without its drawings."""
        return (self.plain,)


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """Renders with the points that they show.

    Attributes:
        views: each beside its picture as a data address.
    """

    template: ClassVar[str] = "contact_sheet.html"

    views: tuple[tuple[AnnotatedPicture, str], ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """None."""
        return ()


def evaluation_sections(evaluation: Evaluation, suffix: str, named: str) -> list[Section]:
    """Lay out an evaluation.

    Args:
        evaluation: what was found.
        suffix: that makes its anchors its own.
        named: that tells it from others in titles; "" for the only one.
    """
    told = f" ({named})" if named else ""
    shapes = evaluation.pretrained
    maps = ShapeMaps.of(shapes, evaluation.random_init)
    views = tuple((view, data_address(view.picture, _VIEW_PX)) for view in evaluation.views)
    neighbours = NeighbourPictures.of(
        shapes, evaluation.random_init, evaluation.num_queries, evaluation.thumbnails
    )
    return [
        Section(f"figures{suffix}", f"Figures{told}", "", _figures(evaluation.results)),
        Section(
            f"training{suffix}",
            f"Training{told}",
            _training_lead(evaluation.logs),
            (LineCharts(training_charts(evaluation.logs)),),
        ),
        Section(
            f"views{suffix}",
            f"What the networks see{told}",
            "Renders, with the points that each one shows where the camera matrices project them. "
            "The local loss ties each dot's point to the picture's features there.",
            (ContactSheet(views),),
        ),
        Section(f"map{suffix}", f"Map of the shapes{told}", maps.lead, (maps,)),
        Section(
            f"neighbours{suffix}",
            f"Nearest neighbours{told}",
            "Held-out shapes and the five pre-training shapes nearest to each, most similar first. "
            "\N{CHECK MARK} marks the same class, \N{BALLOT X} another. The shapes are the first "
            "of every class, not a choice.",
            (neighbours,),
        ),
        Section(f"run{suffix}", f"The run{told}", "", _circumstances(evaluation)),
    ]


def _figures(results: Results) -> tuple[Block, ...]:
    comparisons, num_seeds = results.comparisons, len(results.seeds)
    lines = tuple(map(_figure_line, comparisons))
    plain = table(
        "Top-1 accuracy on held-out shapes, per cent",
        [
            Column("Measure"),
            *(
                Column(title, is_number=True)
                for title in ("Pre-trained", "Random init", "Difference", "s.e.", "Chance")
            ),
        ],
        [
            [
                word(_EXPLAINED[each.metric][0]),
                percent(each.pretrained.mean, each.pretrained.std),
                percent(each.random_init.mean, each.random_init.std),
                percent_difference(each.difference.mean),
                number(100 * each.difference.standard_error, 1),
                percent(each.chance),
            ]
            for each in comparisons
        ],
        f"{results.extent}; the difference is paired by shape, with its standard error.",
    )
    figures = Figures(lines, num_seeds, plain)
    return (figures, Details("Each seed", (_per_seed(results),))) if num_seeds > 1 else (figures,)


def _figure_line(comparison: Comparison) -> FigureLine:
    title, explained = _EXPLAINED[comparison.metric]
    difference = comparison.difference
    multiple = difference.in_standard_errors
    return FigureLine(
        title=title,
        explained=explained,
        pretrained=_told(comparison.pretrained),
        random_init=_told(comparison.random_init),
        difference=percent_difference(difference.mean).text,
        standard_error=f"{100 * difference.standard_error:.1f}",
        in_standard_errors="no spread" if multiple is None else f"{multiple:.1f} s.e.",
        chance=f"{100 * comparison.chance:.1f}",
        is_gain=difference.is_gain,
        pretrained_percent=round(100 * comparison.pretrained.mean, 2),
        random_percent=round(100 * comparison.random_init.mean, 2),
        chance_percent=round(100 * comparison.chance, 2),
    )


def _told(figure: Spread) -> str:
    return percent(figure.mean, figure.std).text


def _per_seed(results: Results) -> Table:
    metrics: list[Metric] = [line.metric for line in results.comparisons]
    columns = [
        Column("Seed", is_number=True),
        *(Column(_EXPLAINED[metric][0], is_number=True) for metric in metrics),
    ]
    rows = [
        [
            number(result.seed),
            *(
                percent(
                    result.pretrained[metric].accuracy,
                    note=f"random init {100 * result.random_init[metric].accuracy:.1f}",
                )
                for metric in metrics
            ),
        ]
        for result in results.seeds
    ]
    return table("Each seed, per cent", columns, rows)


def _training_lead(logs: Sequence[TrainingLog]) -> str:
    per_seed = ", one curve per seed" if len(logs) > 1 else ""
    speed = median_throughput(logs)
    median = f" Median throughput {speed} samples per second." if speed else ""
    return f"Over samples seen{per_seed}.{median}"


def _circumstances(evaluation: Evaluation) -> tuple[Block, ...]:
    results = evaluation.results
    stages = table(
        "Time by stage, wall clock",
        [Column("Stage"), Column("Seconds", is_number=True)],
        [[word(stage), number(seconds, 1)] for stage, seconds in results.seconds.items()],
    )
    versions = table(
        "Versions",
        [Column("Package"), Column("Version")],
        [[word(package), word(version)] for package, version in results.versions.items()],
        f"Commit {results.commit}.",
    )
    config = Details("Configuration", (Preformatted(evaluation.config_yaml),))
    return (stages, Details("Versions", (versions,)), config)
