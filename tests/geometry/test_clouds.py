import numpy as np
import pytest

from picpoint.geometry.clouds import fit_unit_sphere, sample_surface

TRIANGLE = np.array([[0, 1, 2]], dtype=np.int32)


def random_mesh(seed, num_vertices=30, num_faces=40):
    generator = np.random.default_rng(seed)
    vertices = generator.normal(size=(num_vertices, 3)).astype(np.float32)
    faces = generator.integers(0, num_vertices, (num_faces, 3)).astype(np.int32)
    return vertices, faces


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e5])
def test_used_vertices_fill_the_unit_sphere_and_stay_inside(size, offset):
    vertices, faces = random_mesh(0)
    vertices = (size * (vertices + offset)).astype(np.float32)
    inside = fit_unit_sphere(vertices, faces).apply(vertices)
    radius = np.linalg.norm(inside[np.unique(faces)].astype(np.float64), axis=1).max()
    assert inside.dtype == np.float32
    assert 1 - 1e-5 < radius <= 1


def test_unused_vertices_do_not_change_the_fit():
    vertices, faces = random_mesh(1)
    stray = np.array([[1e6, 0, 0], [np.nan, np.inf, 0]], dtype=np.float32)
    assert fit_unit_sphere(np.concatenate([vertices, stray]), faces) == fit_unit_sphere(
        vertices, faces
    )


def test_the_fit_is_undone_by_its_center_and_scale():
    vertices, faces = random_mesh(2)
    fit = fit_unit_sphere(vertices, faces)
    restored = fit.apply(vertices) / fit.scale + np.array(fit.center)
    np.testing.assert_allclose(restored, vertices, atol=1e-5)


def test_a_mesh_of_one_point_or_no_face_has_no_fit():
    with pytest.raises(ValueError, match="radius 0"):
        fit_unit_sphere(np.ones((3, 3), dtype=np.float32), TRIANGLE)
    with pytest.raises(ValueError, match="0 faces"):
        fit_unit_sphere(np.ones((3, 3), dtype=np.float32), TRIANGLE[:0])


def test_points_lie_where_their_face_and_weights_say():
    vertices, faces = random_mesh(3)
    sample = sample_surface(vertices, faces, 500, seed=0)
    corners = vertices[faces[sample.face_index]]
    rebuilt = (sample.barycentric[:, :, None] * corners).sum(axis=1)
    np.testing.assert_allclose(rebuilt, sample.points, atol=1e-5)
    assert (sample.barycentric >= 0).all()
    np.testing.assert_allclose(sample.barycentric.sum(axis=1), 1, atol=1e-6)


def test_faces_are_drawn_by_area_and_the_points_of_a_face_have_its_middle():
    vertices, faces = random_mesh(4, num_faces=8)
    num_points = 200_000
    sample = sample_surface(vertices, faces, num_points, seed=0)
    corners = vertices[faces].astype(np.float64)
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    share = area / area.sum()
    drawn = np.bincount(sample.face_index, minlength=len(faces)) / num_points
    # Five standard deviations of a binomial count.
    assert (np.abs(drawn - share) <= 5 * np.sqrt(share * (1 - share) / num_points)).all()
    for face in np.flatnonzero(share > 0.05):
        on_face = sample.barycentric[sample.face_index == face].astype(np.float64)
        # The weights of even points have mean 1/3 and second moments 1/6 and 1/12; their
        # standard deviations are below 0.25.
        tolerance = 5 * 0.25 / np.sqrt(len(on_face))
        np.testing.assert_allclose(on_face.mean(axis=0), 1 / 3, atol=tolerance)
        moments = on_face.T @ on_face / len(on_face)
        np.testing.assert_allclose(moments, (np.eye(3) + 1) / 12, atol=tolerance)


def test_faces_without_area_are_never_drawn():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=np.float32)
    flat, full = [0, 1, 1], [0, 1, 2]
    faces = np.array([flat, flat, full, flat, full, flat, flat], dtype=np.int32)
    sample = sample_surface(vertices, faces, 5000, seed=0)
    assert set(sample.face_index.tolist()) == {2, 4}


def test_a_surface_without_area_is_refused():
    flat = np.zeros((3, 3), dtype=np.float32)
    for faces in (TRIANGLE, TRIANGLE[:0]):
        with pytest.raises(ValueError, match="no surface"):
            sample_surface(flat, faces, 10, seed=0)


def test_the_same_seed_gives_the_same_points_and_another_seed_others():
    vertices, faces = random_mesh(5)
    first, again, other = (sample_surface(vertices, faces, 100, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.points, again.points)
    assert (first.points != other.points).any(axis=1).all()
