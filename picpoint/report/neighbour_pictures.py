"""How do a shape's nearest neighbours look? Thumbnails by either encoder, as a block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from picpoint.evaluate.encoded import EncodedShapes
from picpoint.report.neighbours import find_neighbours
from picpoint.report.pictures import data_address
from picpoint.report.shape_map import class_name_of
from picpoint.report.tables import Table

_THUMBNAIL_PX = 128


class ReportError(ValueError):
    """The page lacks something it must show; the message says what."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A picture of a shape with its class."""

    picture: str
    class_name: str
    same_class: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A held-out shape and its neighbours, by encoder."""

    asked: Neighbour
    rows: tuple[tuple[str, tuple[Neighbour, ...]], ...]


@dataclass(frozen=True, slots=True)
class NeighbourPictures:
    """Held-out shapes with their neighbours."""

    template: ClassVar[str] = "neighbours.html"

    queries: tuple[Query, ...]

    @classmethod
    def of(
        cls,
        pretrained: EncodedShapes,
        random_init: EncodedShapes,
        num_queries: int,
        thumbnails: Mapping[str, UInt8[np.ndarray, "S S 3"]],
    ) -> "NeighbourPictures":
        """Find the neighbours.

        Raises:
            ReportError: one of them has no thumbnail.
        """
        found = find_neighbours(pretrained, random_init, num_queries)

        def show(row: int, query: int) -> Neighbour:
            return Neighbour(
                picture=_thumbnail(thumbnails, pretrained.keys[row]),
                class_name=class_name_of(pretrained, row),
                same_class=bool(pretrained.labels[row] == pretrained.labels[query]),
            )

        return cls(
            tuple(
                Query(
                    asked=show(query, query),
                    rows=(
                        ("Pre-trained", tuple(show(row, query) for row in of_pretrained.tolist())),
                        ("Random init", tuple(show(row, query) for row in of_random.tolist())),
                    ),
                )
                for query, of_pretrained, of_random in zip(
                    found.queries.tolist(), found.pretrained, found.random_init, strict=True
                )
            )
        )

    @property
    def tables(self) -> tuple[Table, ...]:
        """None."""
        return ()


def _thumbnail(thumbnails: Mapping[str, UInt8[np.ndarray, "S S 3"]], key: str) -> str:
    if key not in thumbnails:
        raise ReportError(f"{key}: no thumbnail; give one for every key of neighbours.keys_shown")
    return data_address(thumbnails[key], _THUMBNAIL_PX)
