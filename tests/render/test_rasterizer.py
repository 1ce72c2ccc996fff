"""The CPU renderer against exact rays, hand-computed colours and its own invariances."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from scipy.spatial import ConvexHull, Delaunay

from picpoint.geometry.cameras import (
    Cameras,
    look_at_origin,
    orthographic,
    perspective,
    world_to_pixel,
)
from picpoint.geometry.rigs import RigConfig, build_cameras, join_cameras
from picpoint.render.meshes import Material, Mesh
from picpoint.render.rasterizer import RasterizerConfig, px_per_unit, render

PLAIN = RasterizerConfig(supersampling=1)
AMBIENT, HEAD_LAMP, SKY = 0.30, 0.45, 0.20


def camera_at(position, size_px=64, fov_rad=0.6) -> Cameras:
    """Build a single camera that looks at the origin."""
    view = look_at_origin(np.array(position, float))
    projection = perspective(float(fov_rad), near=0.5, far=10.0)
    return Cameras(
        view[None].astype(np.float32), projection[None].astype(np.float32), size_px=size_px
    )


def quad(texture=None, uv=((0, 0), (1, 0), (1, 1), (0, 1)), half=0.5, **attributes) -> Mesh:
    """Build a square in the plane z = 0 that faces +z; the lower left corner comes first."""
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32) * half
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    return Mesh(
        vertices=corners.astype(np.float32),
        faces=faces,
        face_material=np.zeros(2, np.int32),
        materials=(Material((1.0, 1.0, 1.0), texture),),
        uv=np.ascontiguousarray(np.array(uv, np.float32)[faces]),
        **attributes,
    )


def frontal_light(picture):
    """Divide a picture of `quad`, seen from +z, by its light: the head lamp full, half the sky."""
    return picture / (AMBIENT + HEAD_LAMP + SKY / 2)


@pytest.mark.parametrize("cameras", ["rig", "parallel_rig"])
def test_face_ids_masks_and_depths_agree_with_exact_rays(tangle, cameras, exact_rays, request):
    rig = request.getfixturevalue(cameras)
    rendering = render(tangle, rig, PLAIN)
    covered = same = masks = 0
    errors = []
    for view in range(0, 20, 3):
        truth = exact_rays(tangle, rig, view, 224)
        both = (truth.face_id >= 0) & (rendering.face_id[view] >= 0)
        covered += both.sum()
        same += (truth.face_id == rendering.face_id[view])[both].sum()
        masks += ((truth.face_id >= 0) == (rendering.face_id[view] >= 0)).sum()
        agree = both & (truth.face_id == rendering.face_id[view])
        errors.append(np.abs(rendering.depth[view][agree] / truth.depth[agree] - 1))
        assert np.isinf(rendering.depth[view][rendering.face_id[view] < 0]).all()
    assert covered > 7 * 5000
    assert same / covered > 0.999
    assert masks / (7 * 224 * 224) > 0.9999
    assert np.concatenate(errors).max() < 1e-4


@pytest.mark.parametrize("cameras", ["rig", "parallel_rig"])
def test_an_asymmetric_solid_is_neither_mirrored_nor_flipped_in_any_view(
    letter_f, cameras, exact_rays, request
):
    rig = request.getfixturevalue(cameras)
    rendering = render(letter_f, rig, PLAIN)
    materials = np.array([material.diffuse for material in letter_f.materials])
    hues = materials / np.linalg.norm(materials, axis=1, keepdims=True)
    for view in range(20):
        truth = exact_rays(letter_f, rig, view, 224).face_id
        inside = truth >= 0
        expected = letter_f.face_material[truth[inside]]
        drawn = rendering.colour[view][inside].astype(float)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        matches = np.argmax(drawn @ hues.T, axis=1) == expected
        assert inside.sum() > 3000
        assert matches.mean() > 0.995
        assert (rendering.colour[view][~inside] == 255).mean() > 0.999


def test_points_of_the_solid_are_drawn_where_they_project_to(letter_f, rig):
    rendering = render(letter_f, rig, RasterizerConfig(supersampling=2))
    middles = letter_f.vertices[letter_f.faces].mean(axis=1)
    u, v, depth = world_to_pixel(middles, rig.view_matrices, rig.projection_matrices, 224)
    rows, columns = (2 * v).astype(int), (2 * u).astype(int)
    views = np.arange(20)[:, None]
    own = rendering.face_id[views, rows, columns] == np.arange(len(middles))
    # Each face that is not hidden from a view is seen by it at its middle, at its own depth.
    assert own.any(axis=0).sum() >= 30
    # A pixel's centre is up to half a pixel from the middle: on a slant, that much deeper.
    drawn_depth = rendering.depth[views, rows, columns]
    assert np.median(np.abs(drawn_depth - depth)[own]) < 0.003
    assert (drawn_depth < depth + 0.05).all()


@pytest.mark.parametrize("first", ["outward", "inward"])
def test_of_coincident_faces_the_one_that_faces_the_camera_is_seen(letter_f, rig, new_mesh, first):
    outward, inward = letter_f.faces, letter_f.faces[:, [0, 2, 1]]
    faces = (outward, inward) if first == "outward" else (inward, outward)
    doubled = new_mesh(letter_f.vertices, np.concatenate(faces))
    face_id = render(doubled, rig, PLAIN).face_id
    is_outward = (face_id < len(outward)) == (first == "outward")
    assert is_outward[face_id >= 0].all()


def test_a_closed_surface_has_no_holes(rig, new_mesh):
    for subdivisions in (2, 5):
        ball = trimesh.creation.icosphere(subdivisions=subdivisions)
        rendering = render(new_mesh(ball.vertices, ball.faces), rig, PLAIN)
        # The inscribed sphere, as a disc around the middle of the picture.
        corners = ball.vertices[ball.faces]
        inscribed = np.abs((corners[:, 0] * ball.face_normals).sum(axis=1)).min()
        distance = np.linalg.norm(rig.positions[0])
        focal_px = rig.projection_matrices[0, 1, 1] * 112
        radius_px = focal_px * np.tan(np.arcsin(inscribed / distance)) - 1
        rows, columns = np.mgrid[:224, :224] + 0.5
        disc = np.hypot(rows - 112, columns - 112) < radius_px
        assert disc.sum() > 30_000
        assert (rendering.face_id[:, disc] >= 0).all()
        # The far side of a ball is never seen.
        assert rendering.depth[:, disc].max() < distance


@pytest.mark.parametrize(("count", "size_px"), [(40, 64), (400, 64)])
def test_adjacent_faces_neither_overlap_nor_leave_gaps(new_mesh, count, size_px):
    # Corners exactly on pixel centres: every edge runs through centres, the worst of cases.
    camera = camera_at((0, 0, 2), size_px=size_px, fov_rad=2 * np.arctan(0.5))
    generator = np.random.default_rng(count)
    corners_px = np.unique(generator.integers(4, size_px - 4, (count, 2)), axis=0)
    corners = np.column_stack(
        [(corners_px + 0.5) / size_px * [2, -2] + [-1, 1], np.zeros(len(corners_px))]
    )
    faces = Delaunay(corners[:, :2]).simplices
    u, _, _ = world_to_pixel(
        corners, camera.view_matrices[0], camera.projection_matrices[0], size_px
    )
    np.testing.assert_allclose(u, corners_px[:, 0] + 0.5, atol=1e-5)
    together = render(new_mesh(corners, faces), camera, PLAIN).face_id[0]
    alone = np.stack(
        [render(new_mesh(corners, face[None]), camera, PLAIN).face_id[0] == 0 for face in faces]
    )
    assert alone.sum(axis=0).max() == 1
    np.testing.assert_array_equal(alone.any(axis=0), together >= 0)
    rows, columns = np.nonzero(together >= 0)
    assert alone[together[rows, columns], rows, columns].all()
    # Strictly inside the outline every centre is covered, strictly outside none.
    centres = np.argwhere(np.ones((size_px, size_px)))[:, ::-1]
    normals, offsets = np.split(ConvexHull(corners_px).equations, [2], axis=1)
    outside_by = (centres @ normals.T + offsets.T).max(axis=1)
    covered = together.ravel() >= 0
    assert covered[outside_by < -1e-9].all()
    assert not covered[outside_by > 1e-9].any()


def test_the_order_of_faces_and_their_winding_change_nothing_but_ids(tangle, rig, new_mesh):
    plain = render(tangle, rig, RasterizerConfig())
    order = np.random.default_rng(2).permutation(len(tangle.faces))
    faces = tangle.faces[order][:, [1, 2, 0]]
    shuffled = render(new_mesh(tangle.vertices, faces), rig, RasterizerConfig())
    np.testing.assert_array_equal(plain.coverage, shuffled.coverage)
    # Where two faces meet at the same depth either may win.
    seen = shuffled.face_id >= 0
    assert (order[shuffled.face_id[seen]] == plain.face_id[seen]).mean() > 0.9999
    turned = render(new_mesh(tangle.vertices, tangle.faces[:, ::-1]), rig, RasterizerConfig())
    np.testing.assert_array_equal(plain.coverage, turned.coverage)
    assert (np.abs(plain.colour.astype(int) - turned.colour) <= 1).mean() > 0.999


def test_rendering_twice_gives_the_same_bytes(letter_f, rig):
    first, second = (render(letter_f, rig, RasterizerConfig()) for _ in range(2))
    for name in ("colour", "coverage", "depth", "face_id"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


@pytest.mark.parametrize("supersampling", [1, 2, 3])
def test_coverage_is_the_share_of_samples_and_edges_mix_with_the_background(
    letter_f, rig, supersampling
):
    config = RasterizerConfig(supersampling, background=(0.0, 0.0, 1.0))
    rendering = render(letter_f, rig, config)
    samples = (rendering.face_id >= 0).reshape(20, 224, supersampling, 224, supersampling)
    np.testing.assert_allclose(rendering.coverage, samples.mean(axis=(2, 4)), atol=1e-6)
    assert (rendering.colour[rendering.coverage == 0] == [0, 0, 255]).all()
    assert rendering.depth.shape == (20, 224 * supersampling, 224 * supersampling)
    if supersampling > 1:
        edge = (rendering.coverage > 0) & (rendering.coverage < 1)
        assert edge.sum() > 1000


def test_light_on_a_ball_follows_its_formula(rig, new_mesh):
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.8)
    normals = np.ascontiguousarray(ball.vertices[ball.faces] / 0.8, np.float32)
    mesh = new_mesh(ball.vertices, ball.faces, colors=[(1.0, 0.5, 0.0)], corner_normals=normals)
    rendering = render(mesh, rig, PLAIN)
    for view in (0, 9, 17):
        camera = rig.positions[view].astype(float)
        rows, columns = np.nonzero(rendering.face_id[view] >= 0)
        # The point of the ball seen at a pixel: the camera, plus its depth along the pixel's ray.
        to_world = np.linalg.inv(
            rig.projection_matrices[view].astype(float) @ rig.view_matrices[view].astype(float)
        )
        ndc = [(columns + 0.5) / 112 - 1, 1 - (rows + 0.5) / 112, 0 * rows, 0 * rows + 1]
        places = to_world @ np.array(ndc)
        rays = (places[:3] / places[3]).T - camera
        forward = -rig.view_matrices[view, 2, :3].astype(float)
        rays *= (rendering.depth[view][rows, columns] / (rays @ forward))[:, None]
        normal = camera + rays
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        head = -(normal * rays).sum(axis=1) / np.linalg.norm(rays, axis=1)
        light = AMBIENT + HEAD_LAMP * head + SKY * (1 + normal[:, 1]) / 2
        inner = head > 0.2
        drawn = rendering.colour[view][rows, columns]
        np.testing.assert_allclose(drawn[inner, 0], 255 * light[inner], atol=1.5)
        np.testing.assert_allclose(drawn[inner, 1], 127.5 * light[inner], atol=1.5)
        assert (drawn[:, 2] == 0).all()


def test_parallel_light_falls_on_a_ball_along_the_viewing_axis(parallel_rig, new_mesh):
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.8)
    normals = np.ascontiguousarray(ball.vertices[ball.faces] / 0.8, np.float32)
    mesh = new_mesh(ball.vertices, ball.faces, colors=[(1.0, 0.5, 0.0)], corner_normals=normals)
    rendering = render(mesh, parallel_rig, PLAIN)
    for view in (0, 9, 17):
        rows, columns = np.nonzero(rendering.face_id[view] >= 0)
        # In the camera's frame the normal's x and y are the pixel's own: 0.98 half pictures a unit.
        x, y = ((columns + 0.5) / 112 - 1) / 0.98 / 0.8, (1 - (rows + 0.5) / 112) / 0.98 / 0.8
        head = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
        to_world = parallel_rig.view_matrices[view, :3, :3].astype(float).T
        normal = np.stack([x, y, head], axis=1) @ to_world.T
        light = AMBIENT + HEAD_LAMP * head + SKY * (1 + normal[:, 1]) / 2
        inner = head > 0.2
        drawn = rendering.colour[view][rows, columns]
        assert inner.sum() > 10_000
        np.testing.assert_allclose(drawn[inner, 0], 255 * light[inner], atol=1.5)


def test_textures_are_interpolated_without_perspective_along_parallel_rays():
    # A ramp along v, on a square seen at a slant: in the picture it stays a ramp.
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[::-1, None, None], 4, axis=1).repeat(3, axis=2)
    uv = np.array([[0, 0.1], [1, 0.1], [1, 0.9], [0, 0.9]])
    view = look_at_origin(np.array([0.0, -1.5, 0.8]))[None].astype(np.float32)
    lens = orthographic(1.0, near=0.5, far=3.0)[None].astype(np.float32)
    rendering = render(quad(ramp, uv), Cameras(view, lens, size_px=200), PLAIN)
    rows, columns = np.nonzero(rendering.face_id[0] >= 0)
    # The square leans by acos(0.8 / 1.7): its y axis is that much shorter in the picture.
    v = 0.1 + 0.8 * (0.5 + (1 - (rows + 0.5) / 100) * 1.7 / 0.8)
    light = AMBIENT + HEAD_LAMP * 0.8 / 1.7 + SKY / 2
    assert len(rows) > 4000
    np.testing.assert_allclose(
        rendering.colour[0][rows, columns, 0], (v * 256 - 0.5) * light, atol=1.5
    )


@pytest.mark.parametrize("cameras", ["rig", "parallel_rig"])
def test_pixels_per_unit_are_those_of_a_small_step_at_the_origin(cameras, request):
    rig = request.getfixturevalue(cameras)
    step = 1e-3 * rig.view_matrices[:, None, 1, :3]  # up in the picture
    _, v, _ = world_to_pixel(step, rig.view_matrices, rig.projection_matrices, 224)
    np.testing.assert_allclose(px_per_unit(rig), (112 - v) * 1e3, rtol=1e-2)


def test_perspective_and_parallel_views_of_one_call_do_not_disturb_each_other(
    letter_f, rig, parallel_rig
):
    both = render(letter_f, join_cameras([rig, parallel_rig, rig]), PLAIN)
    for first, cameras in ((0, rig), (20, parallel_rig), (40, rig)):
        alone = render(letter_f, cameras, PLAIN)
        for name in ("colour", "coverage", "depth", "face_id"):
            part = getattr(both, name)[first : first + 20]
            np.testing.assert_array_equal(part, getattr(alone, name))


FOUR = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)


def test_a_texture_stands_upright_and_is_not_mirrored():
    picture = render(quad(FOUR), camera_at((0, 0, 3)), PLAIN).colour[0]
    covered = np.argwhere((picture != 255).any(axis=2))
    (top, left), (bottom, right) = covered.min(axis=0) + 1, covered.max(axis=0) - 1
    # Away from the border, where the texture wraps, the nearest of the four texels rules.
    quarter = (bottom - top) // 4
    rows, columns = [top + quarter, bottom - quarter], [left + quarter, right - quarter]
    drawn = frontal_light(picture[np.ix_(rows, columns)].reshape(4, 3))
    np.testing.assert_array_equal(drawn > 127, FOUR.reshape(4, 3) > 127)


def test_texture_coordinates_wrap():
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    once = render(quad(texture, square), camera_at((0, 0, 3)), PLAIN).colour
    for shift in ((5, 0), (0, -3), (-7, 2)):
        moved = render(quad(texture, square + shift), camera_at((0, 0, 3)), PLAIN).colour
        np.testing.assert_allclose(moved.astype(int), once, atol=1)
    # Two lengths of the texture look like one length of the texture laid out twice.
    repeated = render(quad(texture, 2 * square), camera_at((0, 0, 3)), PLAIN).colour
    laid_out = np.tile(texture, (2, 2, 1))
    expected = render(quad(laid_out, square), camera_at((0, 0, 3)), PLAIN).colour
    np.testing.assert_allclose(repeated.astype(int), expected, atol=1)


def test_textures_are_interpolated_in_perspective():
    # A ramp along v, on a square seen at a slant: its upper end is farther away.
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[::-1, None, None], 4, axis=1).repeat(3, axis=2)
    uv = np.array([[0, 0.1], [1, 0.1], [1, 0.9], [0, 0.9]])
    camera = camera_at((0, -1.5, 0.8), size_px=200, fov_rad=0.8)
    rendering = render(quad(ramp, uv), camera, PLAIN)
    rows, columns = np.nonzero(rendering.face_id[0] >= 0)
    to_world = np.linalg.inv(camera.projection_matrices[0].astype(float) @ camera.view_matrices[0])
    centre = camera.positions[0].astype(float)
    ndc = [(columns + 0.5) / 100 - 1, 1 - (rows + 0.5) / 100, 0 * rows, 0 * rows + 1]
    places = to_world @ np.array(ndc)
    rays = (places[:3] / places[3]).T - centre
    hits = centre - rays * (centre[2] / rays[:, 2])[:, None]
    v = 0.1 + 0.8 * (hits[:, 1] + 0.5)
    head = np.abs(rays[:, 2]) / np.linalg.norm(rays, axis=1)
    light = AMBIENT + HEAD_LAMP * head + SKY / 2
    expected = (v * 256 - 0.5) * light
    np.testing.assert_allclose(rendering.colour[0][rows, columns, 0], expected, atol=1.5)


def test_a_texture_too_fine_for_the_picture_is_averaged():
    checks = np.indices((1024, 1024)).sum(axis=0) % 2 * 255
    texture = np.ascontiguousarray(np.repeat(checks[..., None], 3, axis=2).astype(np.uint8))
    rendering = render(quad(texture), camera_at((0, 0, 3)), RasterizerConfig())
    inside = rendering.coverage[0] == 1
    np.testing.assert_allclose(frontal_light(rendering.colour[0][inside]), 127.5, atol=2)


def test_vertex_colors_blend_over_a_face_and_multiply_its_material():
    colors = np.array([[255, 0, 0], [255, 0, 0], [0, 0, 255], [0, 0, 255]], np.uint8)
    camera = camera_at((0, 0, 3), size_px=63)
    picture = frontal_light(render(quad(vertex_colors=colors), camera, PLAIN).colour[0])
    np.testing.assert_allclose(picture[31, 31], [127.5, 0, 127.5], atol=6)
    column = picture[:, 31][(picture[:, 31, 1] < 9)]
    assert (np.diff(column[:, 0]) > 0).all()  # more red downwards
    assert (np.diff(column[:, 2]) < 0).all()
    dark = replace(quad(vertex_colors=colors), materials=(Material((0.5, 1.0, 1.0)),))
    halved = frontal_light(render(dark, camera, PLAIN).colour[0])
    np.testing.assert_allclose(halved[31, 31], [63.75, 0, 127.5], atol=4)


def test_a_face_behind_the_camera_is_refused_but_a_stray_vertex_is_not(letter_f, rig):
    vertices = letter_f.vertices
    strays = np.array([[0, 0, 1e6], [np.nan, 0, 0], [50, 50, 50]], np.float32)
    with_strays = replace(letter_f, vertices=np.concatenate([vertices, strays]))
    expected, actual = (render(mesh, rig, PLAIN) for mesh in (letter_f, with_strays))
    np.testing.assert_array_equal(expected.colour, actual.colour)
    for bad in (100.0, np.nan, np.inf):
        broken = vertices.copy()
        broken[letter_f.faces[3, 1]] = bad
        with pytest.raises(ValueError, match="normalise it into the unit sphere"):
            render(replace(letter_f, vertices=broken), rig, PLAIN)


def test_a_face_behind_or_far_behind_the_origin_of_a_parallel_view_is_refused(letter_f):
    lens = orthographic(1.02, near=0.5, far=9.0)[None].astype(np.float32)
    cases = ((2, 0, False), (2, 2.5, True), (0.1, 0, True), (2, -4, True))
    for distance, shift, refused in cases:
        view = look_at_origin(np.array([0.0, 0.0, distance]))[None].astype(np.float32)
        moved = replace(letter_f, vertices=letter_f.vertices + np.float32([0, 0, shift]))
        if refused:
            with pytest.raises(ValueError, match="normalise it into the unit sphere"):
                render(moved, Cameras(view, lens, 64), PLAIN)
        else:
            assert (render(moved, Cameras(view, lens, 64), PLAIN).face_id >= 0).any()


def test_every_camera_that_a_file_may_hold_sees_the_whole_unit_sphere(tmp_path, new_mesh):
    """The widest reach that the door lets in is one that the rasterizer can hold."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    # Where the sphere's outline reaches almost 4 half pictures from the middle.
    close_by = 1 / np.sin(np.arctan(3.99 * np.tan(0.2)))
    for lens, distance in (
        (perspective(0.4, near=0.05, far=9.0), close_by),
        (orthographic(1 / 3.99, near=0.05, far=9.0), 1.1),
    ):
        path = tmp_path / "rig.npz"
        view = look_at_origin(np.array([0.0, 0.6, 0.8]) * distance)
        np.savez(path, view_matrices=view[None], projection_matrices=lens[None])
        cameras = build_cameras(RigConfig((f"file:{path}",), size_px=32))
        face_id = render(new_mesh(ball.vertices, ball.faces), cameras, PLAIN).face_id
        assert (face_id >= 0).all()


def test_a_raster_too_large_for_exact_edges_is_refused(letter_f):
    with pytest.raises(ValueError, match=r"must be 1\.\.2048"):
        render(letter_f, camera_at((0, 0, 3), size_px=2000), RasterizerConfig(supersampling=2))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"supersampling": 0}, "supersampling 0: must be at least 1"),
        ({"background": (0.0, 1.1, 0.0)}, r"must be 0\.\.1"),
        ({"background": (-0.1, 0.0, 0.0)}, r"must be 0\.\.1"),
        ({"background": (0.0, 0.0, float("nan"))}, r"must be 0\.\.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        RasterizerConfig(**settings)


def test_faces_without_area_draw_nothing(letter_f, rig):
    flat = letter_f.faces.copy()
    flat[:, 2] = flat[:, 1]
    faces = np.ascontiguousarray(np.concatenate([letter_f.faces, flat]))
    materials = np.concatenate([letter_f.face_material] * 2)
    uv = np.concatenate([letter_f.uv] * 2)
    doubled = replace(letter_f, faces=faces, face_material=materials, uv=uv)
    np.testing.assert_array_equal(
        render(letter_f, rig, PLAIN).face_id, render(doubled, rig, PLAIN).face_id
    )
