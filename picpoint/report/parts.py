"""How well are points told? mIoU of each class of objects, and clouds with both labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from picpoint.report.blocks import Block, Section
from picpoint.report.cloud_drawing import PART_COLOURS, draw_cloud
from picpoint.report.pictures import see_through_address
from picpoint.report.run_groups import Finetuning, RunGroup, group_runs, spread
from picpoint.report.tables import Column, Table, percent, table, word
from picpoint.train.examples import LabelledCloud

_PICTURE_PX = 300
# Of one class, pictures alike say little.
_MOST_CLOUDS = 8


@dataclass(frozen=True, slots=True)
class CloudPair:
    """A cloud with its true and its predicted labels.

    Attributes:
        title: class of the object, or the cloud's key.
        truth: picture as a data address.
        predicted: likewise.
        right: share of points told right, 0..1.
        legend: (number of the colour, name) of what is seen.
    """

    title: str
    truth: str
    predicted: str
    right: float
    legend: tuple[tuple[int, str], ...]

    @property
    def told(self) -> str:
        """Say how much was right."""
        return f"{100 * self.right:.0f} % of points right"


@dataclass(frozen=True, slots=True)
class CloudPairs:
    """Clouds side by side.

    Attributes:
        title: whose predictions they are.
        pairs: one for each cloud.
    """

    template: ClassVar[str] = "cloud_pairs.html"

    title: str
    pairs: tuple[CloudPair, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """None."""
        return ()


def part_sections(runs: Sequence[Finetuning]) -> list[Section]:
    """Lay out runs that label points; none gives no section."""
    groups = [
        group
        for group in group_runs(runs)
        if group.result.miou_of_class or any(run.examples for run in group.runs)
    ]
    if not groups:
        return []
    blocks: list[Block] = []
    for group in groups:
        if group.result.miou_of_class:
            blocks.append(_category_table(group))
        with_clouds = [run for run in group.runs if run.examples]
        if with_clouds:
            blocks.append(cloud_pairs(with_clouds[0]))
    lead = (
        "The clouds are the first of every class in the order of the data set, not a choice; each "
        "is shown with its true labels and with those of the network after the last epoch."
    )
    return [Section("parts", "Labels of points", lead, tuple(blocks))]


def _category_table(group: RunGroup) -> Table:
    names = [name for name in group.result.class_names if name in group.result.miou_of_class]
    columns = [Column("Class of objects", is_long=True), Column("mIoU, %", is_number=True)]
    rows = []
    for name in names:
        of_seeds = spread(
            run.result.miou_of_class[name] for run in group.runs if name in run.result.miou_of_class
        )
        rows.append([word(name), percent(of_seeds.mean, of_seeds.std)])
    note = "Mean over the shapes of a class, among the parts that it may have."
    return table(f"mIoU by class: {group.title}", columns, rows, note)


def cloud_pairs(run: Finetuning) -> CloudPairs:
    """Draw the clouds that a run kept."""
    names = run.result.part_names or run.result.class_names
    pairs = tuple(_pair(cloud, names) for cloud in run.examples[:_MOST_CLOUDS])
    return CloudPairs(f"True and predicted labels: {run.name}", pairs)


def _pair(cloud: LabelledCloud, names: Sequence[str]) -> CloudPair:
    seen = np.union1d(cloud.truth, cloud.predicted)
    # Colours by rank among what is seen, so that the parts of one object never share one.
    truth, predicted = (np.searchsorted(seen, each) for each in (cloud.truth, cloud.predicted))
    drawn = [
        see_through_address(draw_cloud(cloud.points, parts, _PICTURE_PX))
        for parts in (truth, predicted)
    ]
    return CloudPair(
        title=cloud.class_name or cloud.key,
        truth=drawn[0],
        predicted=drawn[1],
        right=float((cloud.truth == cloud.predicted).mean()),
        legend=tuple(
            (place % len(PART_COLOURS), _name(names, int(number)))
            for place, number in enumerate(seen)
        ),
    )


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else str(number)
