"""What does a reader see of a run? One HTML file that loads nothing, from one dataclass.

All text comes through jinja2's escaping; the page forbids scripts and requests by its own policy,
so a class name can be anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from jaxtyping import Int64, UInt8

from picpoint.evaluate.encoded import UNLABELLED, EncodedShapes
from picpoint.evaluate.results import Comparison, Results, Spread
from picpoint.evaluate.trials import Metric
from picpoint.publish import publish_text
from picpoint.report.neighbours import find_neighbours
from picpoint.report.pictures import AnnotatedPicture, data_address
from picpoint.report.plots import (
    CHART_LEFT,
    CHART_RIGHT,
    NUM_HUES,
    LineChart,
    LineStyle,
    Mark,
    Series,
    hue_of,
    line_chart,
    map_2d,
    map_method,
    marker_path,
    marks,
)
from picpoint.report.training_log import TrainingLog

_TEMPLATE = "page.html"
_VIEW_PX = 224
_THUMBNAIL_PX = 128
# A map of more shapes is a blot, and t-SNE takes long; the page says how many it shows.
_MAX_MAPPED = 1_500
_NOT_LABELLED = "no label"

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


class ReportError(ValueError):
    """The page lacks something it must show; the message says what."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that stands on the page.

    Attributes:
        title: heading of the page.
        created: when, as text.
        results: the figures.
        logs: training logs, one per seed.
        views: renders with the projected visible points, for the contact sheet.
        pretrained: what the first seed's pre-trained encoder says.
        random_init: what it said before training.
        thumbnails: picture by sample key, for all of `neighbours.keys_shown`.
        num_queries: held-out shapes whose neighbours are shown.
        config_yaml: the composed configuration.
    """

    title: str
    created: str
    results: Results
    logs: tuple[TrainingLog, ...]
    views: tuple[AnnotatedPicture, ...]
    pretrained: EncodedShapes
    random_init: EncodedShapes
    thumbnails: Mapping[str, UInt8[np.ndarray, "S S 3"]]
    num_queries: int
    config_yaml: str


def write_report(data: ReportData, path: Path) -> None:
    """Write the page; whole or not at all.

    Raises:
        ReportError: a picture that the page needs is missing.
    """
    publish_text(render_page(data), path)


def render_page(data: ReportData) -> str:
    """Fill the template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        data=data,
        lines=[_figure_line(comparison) for comparison in data.results.comparisons],
        per_seed=_per_seed(data.results),
        verdict=_verdict(data.results.comparisons),
        charts=_charts(data.logs),
        chart_left=CHART_LEFT,
        chart_right=CHART_RIGHT,
        throughput=_median_throughput(data.logs),
        views=[(view, data_address(view.picture, _VIEW_PX)) for view in data.views],
        maps=_maps(data.pretrained, data.random_init),
        legend=_legend(data.pretrained),
        num_hues=NUM_HUES,
        num_mapped=len(_mapped_rows(data.pretrained)),
        map_method=map_method(len(_mapped_rows(data.pretrained))),
        neighbours=_neighbour_blocks(data),
    )


@dataclass(frozen=True, slots=True)
class _FigureLine:
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
class _Neighbour:
    """A picture of a shape with its class."""

    picture: str
    class_name: str
    same_class: bool


@dataclass(frozen=True, slots=True)
class _NeighbourBlock:
    """A held-out shape and its neighbours, by encoder."""

    query: _Neighbour
    rows: tuple[tuple[str, tuple[_Neighbour, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Map:
    """All shapes in the plane, as one encoder sees them."""

    title: str
    marks: tuple[Mark, ...]


def _figure_line(comparison: Comparison) -> _FigureLine:
    title, explained = _EXPLAINED[comparison.metric]
    difference = comparison.difference
    multiple = difference.in_standard_errors
    return _FigureLine(
        title=title,
        explained=explained,
        pretrained=_percent(comparison.pretrained),
        random_init=_percent(comparison.random_init),
        difference=f"{100 * difference.mean:+.1f}".replace("-", "\N{MINUS SIGN}"),
        standard_error=f"{100 * difference.standard_error:.1f}",
        in_standard_errors="no spread" if multiple is None else f"{multiple:.1f} s.e.",
        chance=f"{100 * comparison.chance:.1f}",
        is_gain=difference.is_gain,
        pretrained_percent=round(100 * comparison.pretrained.mean, 2),
        random_percent=round(100 * comparison.random_init.mean, 2),
        chance_percent=round(100 * comparison.chance, 2),
    )


def _percent(figure: Spread) -> str:
    std = "" if figure.std is None else f" \N{PLUS-MINUS SIGN} {100 * figure.std:.1f}"
    return f"{100 * figure.mean:.1f}{std}"


def _verdict(comparisons: Sequence[Comparison]) -> str:
    gains = sum(comparison.difference.is_gain for comparison in comparisons)
    total = len(comparisons)
    how_many = {0: "none", total: f"all {total}"}.get(gains, f"{gains}")
    return (
        f"Pre-training beats random initialisation by more than two standard errors on {how_many} "
        f"{'' if gains == total else f'of {total} '}measures."
    )


def _per_seed(results: Results) -> list[tuple[int, list[tuple[str, str]]]]:
    """Give (seed, (pre-trained, random init) per measure)."""
    return [
        (
            result.seed,
            [
                (
                    f"{100 * result.pretrained[line.metric].accuracy:.1f}",
                    f"{100 * result.random_init[line.metric].accuracy:.1f}",
                )
                for line in results.comparisons
            ],
        )
        for result in results.seeds
    ]


def _charts(logs: Sequence[TrainingLog]) -> list[LineChart]:
    def series(name: str, style: LineStyle, figure: str) -> Series:
        return Series(name, style, tuple(log.curve(figure) for log in logs))

    return [
        line_chart(
            "Loss",
            [
                series("local", "accent", "loss_local"),
                series("global", "ink", "loss_pooled"),
                series("objective", "muted", "loss"),
            ],
        ),
        line_chart(
            "Retrieval within the batch, top-1",
            [
                series("point to pixel", "accent", "local_top1"),
                series("shape to picture", "ink", "pooled_top1"),
            ],
            percent=True,
        ),
        line_chart("Learning rate", [series("learning rate", "ink", "lr")]),
    ]


def _median_throughput(logs: Sequence[TrainingLog]) -> str:
    rates = [line.samples_per_s for log in logs for line in log.lines]
    return f"{np.median(rates):.3g}" if rates else ""


def _maps(pretrained: EncodedShapes, random_init: EncodedShapes) -> list[_Map]:
    rows = _mapped_rows(pretrained)
    labels, held_out = pretrained.labels[rows], pretrained.held_out[rows]
    told = [
        f"{_class_name(pretrained, row)}, {'held out' if pretrained.held_out[row] else 'seen'}: "
        f"{pretrained.keys[row]}"
        for row in rows.tolist()
    ]
    return [
        _Map(title, marks(map_2d(shapes.features[rows]), labels, held_out, told))
        for title, shapes in (("Pre-trained", pretrained), ("Random initialisation", random_init))
    ]


def _mapped_rows(shapes: EncodedShapes) -> Int64[np.ndarray, " m"]:
    """Give all rows, or as many as the map takes, evenly spread."""
    num_mapped = min(len(shapes.keys), _MAX_MAPPED)
    return np.linspace(0, len(shapes.keys) - 1, num_mapped).round().astype(np.int64)


def _legend(shapes: EncodedShapes) -> list[tuple[str, str, str]]:
    """Give (class name, colour, marker) for the classes on the map."""
    return [
        (
            _NOT_LABELLED if label == UNLABELLED else shapes.class_names[label],
            hue_of(label),
            marker_path(7.0, 7.0, 4.5, label),
        )
        for label in np.unique(shapes.labels).tolist()
    ]


def _class_name(shapes: EncodedShapes, row: int) -> str:
    label = int(shapes.labels[row])
    return _NOT_LABELLED if label == UNLABELLED else shapes.class_names[label]


def _neighbour_blocks(data: ReportData) -> list[_NeighbourBlock]:
    shapes = data.pretrained
    found = find_neighbours(shapes, data.random_init, data.num_queries)

    def show(row: int, query: int) -> _Neighbour:
        return _Neighbour(
            picture=_thumbnail(data, shapes.keys[row]),
            class_name=_class_name(shapes, row),
            same_class=bool(shapes.labels[row] == shapes.labels[query]),
        )

    return [
        _NeighbourBlock(
            query=show(query, query),
            rows=(
                ("Pre-trained", tuple(show(row, query) for row in of_pretrained.tolist())),
                ("Random init", tuple(show(row, query) for row in of_random.tolist())),
            ),
        )
        for query, of_pretrained, of_random in zip(
            found.queries.tolist(), found.pretrained, found.random_init, strict=True
        )
    ]


def _thumbnail(data: ReportData, key: str) -> str:
    if key not in data.thumbnails:
        raise ReportError(f"{key}: no thumbnail; give one for every key of neighbours.keys_shown")
    return data_address(data.thumbnails[key], _THUMBNAIL_PX)
