"""Which shapes are alike to an encoder? All of them laid out in the plane, as a block."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int64

from picpoint.evaluate.encoded import UNLABELLED, EncodedShapes
from picpoint.report.plots import Mark, hue_of, map_2d, map_method, marker_path, marks
from picpoint.report.tables import Table

# A map of more shapes is a blot, and t-SNE takes long; the page says how many it shows.
_MAX_MAPPED = 1_500
_NOT_LABELLED = "no label"


@dataclass(frozen=True, slots=True)
class ShapeMap:
    """All shapes in the plane, as one encoder sees them."""

    title: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class ShapeMaps:
    """Maps of the same shapes by two encoders.

    Attributes:
        maps: one for each.
        legend: (class name, colour, marker) of the classes on them.
        lead: what is to be known of them.
    """

    template: ClassVar[str] = "shape_maps.html"

    maps: tuple[ShapeMap, ...]
    legend: tuple[tuple[str, str, str], ...]
    lead: str

    @classmethod
    def of(cls, pretrained: EncodedShapes, random_init: EncodedShapes) -> "ShapeMaps":
        """Lay the shapes out."""
        rows = _mapped_rows(pretrained)
        labels, held_out = pretrained.labels[rows], pretrained.held_out[rows]
        told = [
            f"{class_name_of(pretrained, row)}, "
            f"{'held out' if pretrained.held_out[row] else 'seen'}: {pretrained.keys[row]}"
            for row in rows.tolist()
        ]
        encoders = (("Pre-trained", pretrained), ("Random initialisation", random_init))
        total, num_mapped = len(pretrained.keys), len(rows)
        of_all = f" of {total}" if num_mapped < total else ""
        return cls(
            maps=tuple(
                ShapeMap(title, marks(map_2d(shapes.features[rows]), labels, held_out, told))
                for title, shapes in encoders
            ),
            legend=_legend(pretrained),
            lead=f"{num_mapped}{of_all} shapes, laid out so that like features lie together "
            f"({map_method(num_mapped)}). Large outlined marks are held out.",
        )

    @property
    def tables(self) -> tuple[Table, ...]:
        """None."""
        return ()


def class_name_of(shapes: EncodedShapes, row: int) -> str:
    """Name the class of a shape."""
    label = int(shapes.labels[row])
    return _NOT_LABELLED if label == UNLABELLED else shapes.class_names[label]


def _mapped_rows(shapes: EncodedShapes) -> Int64[np.ndarray, " m"]:
    """Give all rows, or as many as the map takes, evenly spread."""
    num_mapped = min(len(shapes.keys), _MAX_MAPPED)
    return np.linspace(0, len(shapes.keys) - 1, num_mapped).round().astype(np.int64)


def _legend(shapes: EncodedShapes) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (
            _NOT_LABELLED if label == UNLABELLED else shapes.class_names[label],
            hue_of(label),
            marker_path(7.0, 7.0, 4.5, label),
        )
        for label in np.unique(shapes.labels).tolist()
    )
