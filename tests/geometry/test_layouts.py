"""Layouts: each solid is the one it is called, other layouts keep what they promise, names fit."""

import numpy as np
import pytest

from picpoint.geometry.layouts import (
    Fibonacci,
    Random,
    Ring,
    Solid,
    directions,
    dodecahedron_vertices,
    parse_layout,
    rig_name,
    spelling,
)

# Vertices, edges that meet in one, and the angle between its ends as the centre sees it.
SOLIDS = {
    "octahedron": (6, 4, 90.0),
    "icosahedron": (12, 5, np.degrees(np.arctan(2))),
    "dodecahedron": (20, 3, np.degrees(np.arccos(np.sqrt(5) / 3))),
    "icosidodecahedron": (30, 4, 36.0),
}
NAMED = [
    *SOLIDS,
    "fibonacci_1",
    "fibonacci_5",
    "fibonacci_40",
    "ring_12_30deg",
    "ring_7_-22.5deg",
    "random_16_seed7",
]


def angles_deg(vectors: np.ndarray) -> np.ndarray:
    """Give the angles between all pairs, each row from the nearest to the farthest but itself."""
    return np.sort(np.degrees(np.arccos(np.clip(vectors @ vectors.T, -1, 1))), axis=1)[:, 1:]


@pytest.mark.parametrize("name", SOLIDS)
def test_a_solid_has_its_vertices_and_all_of_them_are_alike(name):
    num_vertices, degree, edge_deg = SOLIDS[name]
    vertices = directions(Solid(name))
    assert vertices.shape == (num_vertices, 3)
    between = angles_deg(vertices)
    np.testing.assert_allclose(between[:, :degree], edge_deg, atol=1e-6)
    assert (between[:, degree:] > edge_deg + 1).all()
    # Each sees all others at the same angles, so no place of the sphere is favoured.
    np.testing.assert_allclose(between, np.broadcast_to(between[0], between.shape), atol=1e-5)
    np.testing.assert_allclose(between[:, -1], 180, atol=1e-5)  # its antipode
    np.testing.assert_allclose(vertices.T @ vertices, np.eye(3) * num_vertices / 3, atol=1e-9)


def test_the_paper_s_views_keep_their_order_of_regular_vertices():
    vertices = dodecahedron_vertices()
    assert vertices.shape == (20, 3)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(vertices.sum(axis=0), 0, atol=1e-12)
    cosines = np.sort(vertices @ vertices.T, axis=1)[:, ::-1]
    # Each vertex has itself, three neighbours along edges, at acos(sqrt(5) / 3), and six next.
    np.testing.assert_allclose(cosines[:, 1:4], np.sqrt(5) / 3, atol=1e-12)
    np.testing.assert_allclose(cosines[:, 4:10], 1 / 3, atol=1e-12)
    np.testing.assert_allclose(cosines[:, -1], -1, atol=1e-12)


@pytest.mark.parametrize("name", NAMED)
def test_directions_are_distinct_unit_vectors(name):
    vectors = directions(parse_layout(name))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-12)
    assert len(vectors) == 1 or angles_deg(vectors)[:, 0].min() > 0.5


def test_a_ring_goes_round_at_its_elevation_from_the_front_to_the_right():
    ring = directions(Ring(12, 30.0))
    np.testing.assert_allclose(ring[:, 1], 0.5, atol=1e-12)
    np.testing.assert_allclose(ring[0], [0, 0.5, np.sqrt(3) / 2], atol=1e-12)
    np.testing.assert_allclose(ring[3], [np.sqrt(3) / 2, 0.5, 0], atol=1e-12)
    chord = np.linalg.norm(ring - np.roll(ring, 1, axis=0), axis=1)
    np.testing.assert_allclose(chord, np.sqrt(3) * np.sin(np.pi / 12), atol=1e-12)


@pytest.mark.parametrize("count", [5, 10, 40, 12, 20, 100, 333])
def test_fibonacci_views_are_spread_to_four_fifths_of_what_no_layout_can_exceed(count):
    # Fejes Toth: among any points some pair is no farther apart than this.
    omega = count / (count - 2) * np.pi / 6
    bound_deg = np.degrees(np.arccos((1 / np.tan(omega) ** 2 - 1) / 2))
    vectors = directions(Fibonacci(count))
    assert angles_deg(vectors)[:, 0].min() > 0.8 * bound_deg
    # And none stands straight above or below, where "up" says nothing.
    assert np.abs(vectors[:, 1]).max() < 1 - 0.5 / count


def test_random_views_are_those_of_their_seed_and_fewer_are_the_first_of_more():
    many = directions(Random(50, seed=3))
    np.testing.assert_array_equal(directions(Random(20, seed=3)), many[:20])
    assert not np.isclose(directions(Random(50, seed=4)), many).all(axis=1).any()


def test_random_views_are_uniform_over_the_sphere():
    vectors = directions(Random(20_000, seed=0))
    # Archimedes: every coordinate of a uniform direction is uniform over -1..1. The largest gap
    # between the distributions exceeds 1.95 / sqrt(n) once in a thousand draws.
    for coordinate in np.sort(vectors, axis=0).T:
        expected = (coordinate + 1) / 2
        gap = np.abs(np.arange(1, 20_001) / 20_000 - expected).max()
        assert gap < 1.95 / np.sqrt(20_000)


@pytest.mark.parametrize("name", NAMED)
def test_a_name_is_read_and_written_alike(name):
    layout = parse_layout(name)
    assert spelling(layout) == rig_name(layout) == name


def test_names_mean_what_they_say():
    assert parse_layout("ring_12_30deg") == Ring(12, 30.0)
    assert parse_layout("ring_7_-22.5deg") == Ring(7, -22.5)
    assert parse_layout("random_16_seed7") == Random(16, 7)
    assert parse_layout("fibonacci_40") == Fibonacci(40)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dodecahedrn", "no such layout; there are dodecahedron.*ring_12_30deg.*file:PATH"),
        ("all", "no such layout"),
        ("", "no such layout"),
        ("ring_12", "no such layout"),
        ("ring_x_30deg", "no such layout"),
        ("fibonacci_4.5", "no such layout"),
        ("random_16_seed", "no such layout"),
        ("fibonacci_040", "one spelling only; write fibonacci_40"),
        ("ring_12_30.0deg", "one spelling only; write ring_12_30deg"),
        ("fibonacci_0", "number of views must be at least 1"),
        ("ring_-3_0deg", "number of views must be at least 1"),
        ("ring_4_90deg", "between -90 and 90"),
        ("ring_4_nandeg", "between -90 and 90"),
        ("random_4_seed-1", "seed must be at least 0"),
    ],
)
def test_a_name_that_is_none_is_refused(name, told):
    with pytest.raises(ValueError, match=told):
        parse_layout(name)
