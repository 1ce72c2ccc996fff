import re

import numpy as np
import pytest

from picpoint.report.plots import (
    CHART_LEFT,
    CHART_RIGHT,
    MAP_SIZE,
    NUM_HUES,
    Series,
    format_count,
    hue_of,
    line_chart,
    map_2d,
    marker_path,
    marks,
)


def chart(values, **options):
    curve = np.stack([np.arange(len(values)) * 100.0, np.array(values, dtype=np.float64)], axis=1)
    return line_chart("Loss", [Series("local", "accent", (curve,))], **options)


def places(path):
    return [tuple(map(float, spot)) for spot in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def test_curves_stay_inside_the_frame_and_go_up_when_values_do():
    (x0, y0), (x1, y1), (x2, y2) = places(chart([1.0, 2.0, 4.0]).series[0].paths[0])
    assert CHART_LEFT <= x0 < x1 < x2 <= CHART_RIGHT
    assert 0 <= y2 < y1 < y0 <= 200
    assert (y0 - y1) * 2 == pytest.approx(y1 - y2, abs=0.3)


def test_values_lie_level_with_their_ticks():
    drawn = chart([0.0, 10.0])
    by_label = {tick.label: tick.position for tick in drawn.y_ticks}
    spots = places(drawn.series[0].paths[0])
    assert spots[0][1] == by_label["0"]
    assert spots[1][1] == by_label["10"]


def test_a_value_that_is_not_finite_leaves_a_gap():
    path = chart([1.0, 2.0, np.nan, 4.0, np.inf, 1.0]).series[0].paths[0]
    assert re.sub(r"[-\d. ]", "", path) == "MLMhMh"
    assert "nan" not in path


@pytest.mark.parametrize("values", [[], [3.0], [2.0, 2.0], [np.nan]])
def test_too_little_to_draw_is_still_a_chart(values):
    drawn = chart(values)
    assert len(drawn.y_ticks) >= 2
    assert all(np.isfinite(tick.position) for tick in (*drawn.x_ticks, *drawn.y_ticks))


def test_a_chart_tells_its_ends_in_words():
    assert chart([5.0, 3.25]).summary == "Loss over samples seen: local from 5 to 3.25."
    assert "from 1 % to 25 %" in chart([0.01, 0.25], percent=True).summary
    assert "from 1e-3 to 2.5e-4" in chart([0.001, 0.00025]).summary
    assert "nothing logged" in chart([]).summary


def test_the_map_puts_like_shapes_together():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    features = 5 * np.eye(3, 30)[labels] + rng.normal(size=(60, 30)) * 0.3
    spots = map_2d(features)
    distance = np.linalg.norm(spots[:, None] - spots, axis=2) + 1e9 * np.eye(60)
    assert (labels[distance.argmin(axis=1)] == labels).mean() > 0.95
    np.testing.assert_array_equal(map_2d(features), spots)


@pytest.mark.parametrize("num_shapes", [2, 5, 11, 12, 13])
def test_the_map_takes_few_shapes(num_shapes):
    features = np.random.default_rng(0).normal(size=(num_shapes, 8)).astype(np.float32)
    assert map_2d(features).shape == (num_shapes, 2)


def test_marks_lie_on_the_map_with_held_out_shapes_on_top():
    rng = np.random.default_rng(0)
    held_out = np.arange(10) % 3 == 0
    drawn = marks(
        rng.normal(size=(10, 2)) * [9, 1],
        np.zeros(10, dtype=np.int64),
        held_out,
        [str(row) for row in range(10)],
    )
    assert [mark.held_out for mark in drawn] == [False] * 6 + [True] * 4
    assert [int(mark.told) for mark in drawn[6:]] == [0, 3, 6, 9]
    spots = np.array([places(mark.path)[0] for mark in drawn])
    assert spots.min() >= 0
    assert spots.max() <= MAP_SIZE


def test_the_first_forty_classes_all_look_different():
    looks = {(hue_of(label), marker_path(0.0, 0.0, 4.0, label)) for label in range(4 * NUM_HUES)}
    assert len(looks) == 4 * NUM_HUES
    assert hue_of(-1) == "unlabelled"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (950, "950"), (1000, "1k"), (12500, "12.5k"), (3e6, "3M")]
)
def test_large_counts_are_short(count, text):
    assert format_count(float(count)) == text
