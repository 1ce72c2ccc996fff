"""Hand-made studies, records and runs -> tables and plots."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_results import labelled_cloud, pretraining, record, study

from picpoint.report.cloud_drawing import PART_COLOURS, draw_cloud
from picpoint.report.plane_chart import Dot, DotSeries, Mean, plane_chart
from picpoint.report.pretraining import pretraining_sections
from picpoint.report.records import record_sections, record_tables
from picpoint.report.studies import StudyRow, Trial, study_sections, sweep_chart
from picpoint.report.tables import NOTHING

DASH = NOTHING.text


def places(path):
    return [tuple(map(float, spot)) for spot in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def cells(table):
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_a_study_has_its_table_its_plot_and_its_failures() -> None:
    (section,) = study_sections([study()])
    chart, table, failures = section.blocks
    assert cells(table)[0] == ["20", "0.7900", "0.0141", "2", "0"]
    assert cells(table)[-1] == ["40", DASH, DASH, "0", "2"]
    assert [row[2] for row in cells(failures)] == ["CUDA out of memory"] * 2
    assert chart == sweep_chart(study())
    assert "8 trials in runs/study" in section.lead


def test_the_sweep_shows_every_trial_and_means_with_their_spread() -> None:
    chart = sweep_chart(study())
    assert chart is not None
    (series,) = chart.series
    assert len(series.dots) == 6
    assert [mark.told[:11] for mark in series.means] == [
        "mean 0.7900",
        "mean 0.7600",
        "mean 0.7100",
    ]
    # Higher is better, and so further up; lines go from few views to many.
    line = places(series.line)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
    bars = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)", series.bars)
    assert len(bars) == 3
    ends = sorted(tuple(map(float, bar)) for bar in bars)
    for (x, low, high), (mean_x, mean_y) in zip(ends, sorted(line), strict=True):
        assert x == mean_x
        assert (low + high) / 2 == pytest.approx(mean_y, abs=0.11)  # places have one decimal
    assert "the best mean 0.7900 at pretrain.data.views 20" in chart.summary


def test_names_are_no_numbers_and_have_no_line() -> None:
    trials = tuple(
        Trial(name, {"variant": name}, "done", figure, 1.0, "")
        for name, figure in (("full", 0.8), ("no pose", 0.7))
    )
    rows = tuple(StudyRow(t.settings, t.figure, None, 1, 0) for t in trials)
    chart = sweep_chart(replace(study(), keys=("variant",), rows=rows, trials=trials))
    assert chart is not None
    assert [tick.label for tick in chart.x_ticks] == ["full", "no pose"]
    assert chart.series[0].line == ""
    assert chart.series[0].bars == ""


def test_a_search_of_many_settings_is_one_cloud_of_dots() -> None:
    rng = np.random.default_rng(0)
    trials = tuple(
        Trial(str(n), {"lr": float(lr), "t": float(rng.random())}, "done", float(lr), 1.0, "")
        for n, lr in enumerate(np.geomspace(1e-4, 1e-2, 20))
    )
    rows = tuple(StudyRow(t.settings, t.figure, None, 1, 0) for t in trials)
    chart = sweep_chart(replace(study(), keys=("lr", "t"), rows=rows, trials=trials))
    assert chart is not None
    (series,) = chart.series
    assert len(series.dots) == 20
    assert series.means == ()
    # Two orders of magnitude: evenly spread on a logarithmic axis.
    xs = [places(mark.path)[0][0] for mark in series.dots]
    np.testing.assert_allclose(np.diff(xs), np.mean(np.diff(xs)), atol=0.21)


def test_two_settings_make_a_line_for_each_choice_of_the_other() -> None:
    trials = tuple(
        Trial(f"{views}{net}", {"net": net, "views": views}, "done", 0.5 + views / 100, 1.0, "")
        for views in (5, 10)
        for net in ("a", "b")
    )
    rows = tuple(StudyRow(t.settings, t.figure, None, 1, 0) for t in trials)
    chart = sweep_chart(replace(study(), keys=("net", "views"), rows=rows, trials=trials))
    assert chart is not None
    assert chart.x_title == "views"
    assert [one.name for one in chart.series] == ["net a", "net b"]
    assert all(len(places(one.line)) == 2 for one in chart.series)


def test_a_study_that_failed_whole_has_no_plot() -> None:
    failed = [t for t in study().trials if t.state == "failed"]
    bare = replace(study(), trials=tuple(failed), rows=study().rows[-1:])
    assert sweep_chart(bare) is None
    (section,) = study_sections([bare])
    assert len(section.blocks) == 2


def test_labels_are_not_written_over_each_other() -> None:
    dots = tuple(Dot(1.0 + n / 100, 90.0 + n / 50, "", f"method {n}") for n in range(8))
    chart = plane_chart("t", "x", "y", [DotSeries("s", 0, dots)], "")
    for number, one in enumerate(chart.labels):
        for other in chart.labels[:number]:
            apart = one.span[1] <= other.span[0] or other.span[1] <= one.span[0]
            assert apart or abs(one.y - other.y) >= 9.5


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [0.0, 0.0], [-1.0, 1.0]])
def test_few_values_are_still_a_chart(values: list[float]) -> None:
    means = tuple(Mean(value, value, 0.0, "") for value in values)
    chart = plane_chart("t", "x", "y", [DotSeries("s", 0, means=means)], "")
    assert len(chart.y_ticks) >= 2
    for x, y in places(chart.series[0].line):
        assert chart.left <= x <= chart.right
        assert 0 <= y <= chart.bottom


def test_alike_groups_of_a_record_are_the_rows_of_one_table() -> None:
    plain, matrix = record_tables("stream", record().results)
    assert cells(plain) == [["num_samples", "172"]]
    assert matrix.title == "stream, workers"
    assert cells(matrix) == [["1", "3.42"], ["2", "5.89"]]
    unlike = {"a": {"x": 1, "deep": {"y": 2}}, "b": {"z": [1, 2]}, "c": {}}
    told = {t.title: cells(t) for t in record_tables("r", unlike)}
    assert told == {
        "r": [["c", "{}"]],
        "r, a": [["x", "1"]],
        "r, a, deep": [["y", "2"]],
        "r, b": [["z", "1, 2"]],
    }
    assert [cells(t) for t in record_tables("r", [1, 2])] == [[["value", "1, 2"]]]


def test_the_project_s_own_records_are_tables() -> None:
    from cluster.report_sources import find_sources, read_record

    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    found = find_sources([str(folder)])
    assert {source.kind for source in found} == {"record"}
    records = [read_record(source.place) for source in found]
    (section,) = record_sections(records)
    assert len(section.blocks[0].rows) == len(records) >= 9
    assert all(block.tables for block in section.blocks)


def test_pre_training_runs_have_curves_probes_and_their_end() -> None:
    (section,) = pretraining_sections([pretraining(), replace(pretraining("other"), commit="")])
    table, charts = section.blocks
    titles = [column.title for column in table.columns]
    first, second = (dict(zip(titles, row, strict=True)) for row in cells(table))
    assert first["Samples seen"] == "3,840"
    assert first["Last probe, %"] == "81.0"
    assert first["M parameters"] == "0.6179"
    assert (first["State"], second["State"]) == ("finished at 0123abc", "not finished")
    assert charts.charts[-1].title == "Linear probe on the way"
    assert len(charts.charts[-1].series[0].paths) == 2


def test_a_cloud_is_drawn_where_its_points_are_in_the_colours_of_their_parts() -> None:
    cloud = labelled_cloud("ball", 0, num_points=4000)
    picture = draw_cloud(cloud.points, cloud.truth, 128).astype(np.int64)
    seen = picture[..., 3] > 100
    # A ball fills pi / 4 of the square about it.
    assert 0.6 < seen.mean() < 0.79
    # Nothing is cut off: the corners of the widest rows and columns are empty.
    assert not seen[0, :40].any()
    assert not seen[:40, 0].any()

    def nearest_colour(rows):
        colours = picture[rows][seen[rows]][:, :3]
        hues = colours / np.linalg.norm(colours, axis=1, keepdims=True)
        known = np.array(PART_COLOURS) / np.linalg.norm(PART_COLOURS, axis=1, keepdims=True)
        return (hues @ known.T).argmax(axis=1)

    # World y is up: the second part, the upper half, is above the first.
    assert (nearest_colour(slice(0, 32)) == 1).mean() > 0.95
    assert (nearest_colour(slice(96, 128)) == 0).mean() > 0.95


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.zeros((5, 3)), np.eye(3)])
def test_degenerate_clouds_are_drawn(points: np.ndarray) -> None:
    parts = np.arange(len(points), dtype=np.int32)
    picture = draw_cloud(points.astype(np.float32), parts, 64)
    assert picture.shape == (64, 64, 4)
    assert picture[..., 3].any()
