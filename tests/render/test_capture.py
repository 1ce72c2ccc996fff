"""Mesh to sample: everything stored agrees with everything else, and the bytes never change."""

from dataclasses import replace

import numpy as np
import pytest

from picpoint.geometry.cameras import world_to_pixel
from picpoint.geometry.rigs import RigConfig
from picpoint.render.capture import CaptureConfig, capture, sampling_seed
from picpoint.render.meshes import Material, Mesh, MeshError
from shards.codec import decode_picture
from shards.schema import RigViews, Sample, check_sample

CONFIG = CaptureConfig(num_points=1024)


@pytest.fixture(scope="module")
def sample(letter_f: Mesh) -> Sample:
    return capture(letter_f, "letters/f", "letter", CONFIG)


def content(sample: Sample) -> tuple[object, ...]:
    """Give everything of a sample in comparable form."""
    arrays = (sample.points, sample.normals, sample.colors, sample.visibility)
    matrices = (sample.view_matrices, sample.projection_matrices)
    return *(array.tobytes() for array in arrays + matrices), sample.pictures, sample.meta


def same_hue(drawn: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Tell where two colours differ in brightness only."""
    product = np.linalg.norm(drawn, axis=1) * np.linalg.norm(own, axis=1)
    return (drawn * own).sum(axis=1) > 0.995 * product


def test_a_sample_follows_the_schema(sample: Sample):
    check_sample(sample, whole=True)
    assert sample.num_points == 1024
    assert sample.num_views == 20
    assert (sample.meta.source_id, sample.meta.label) == ("letters/f", "letter")
    assert sample.meta.size_px == 224
    assert sample.meta.rigs == (RigViews("dodecahedron", 20),)
    assert sample.meta.num_faces == 36


def test_the_same_mesh_gives_the_same_bytes_whatever_came_before(letter_f, tangle, sample):
    capture(tangle, "other", "", CaptureConfig(num_points=300))
    assert content(capture(letter_f, "letters/f", "letter", CONFIG)) == content(sample)


def test_the_seed_and_the_source_id_change_the_points_only(letter_f, sample):
    for source_id, seed in (("letters/g", 0), ("letters/f", 1)):
        other = capture(letter_f, source_id, "letter", replace(CONFIG, seed=seed))
        assert other.pictures == sample.pictures
        assert (other.points != sample.points).any()
        assert other.meta.seed == sampling_seed(seed, source_id)


def test_a_moved_and_scaled_mesh_gives_the_same_sample(letter_f, sample):
    # Powers of two and a whole shift: exact in float32, so that not even rounding differs.
    moved = replace(letter_f, vertices=np.float32(8) * letter_f.vertices)
    other = capture(moved, "letters/f", "letter", CONFIG)
    assert content(other)[:-1] == content(sample)[:-1]
    assert other.meta.scale == pytest.approx(sample.meta.scale / 8)
    shifted = replace(letter_f, vertices=letter_f.vertices + np.float32(3))
    third = capture(shifted, "letters/f", "letter", CONFIG)
    np.testing.assert_allclose(np.array(third.meta.center) - sample.meta.center, 3, atol=1e-5)
    # Rounding may swap two points of the order where their distances tie; the points stay.
    a, b = (np.sort(s.points.astype(float), axis=0) for s in (third, sample))
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_points_lie_on_the_surface_with_its_normals_and_colours(letter_f, sample):
    points, normals = sample.points.astype(float), sample.normals.astype(float)
    vertices = (letter_f.vertices - np.array(sample.meta.center)) * sample.meta.scale
    corners = vertices[letter_f.faces].astype(float)
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    face_normals /= np.linalg.norm(face_normals, axis=1, keepdims=True)
    palette = np.array([m.diffuse for m in letter_f.materials])[letter_f.face_material]
    # A face explains a point if the point lies in its plane, has its normal and its colour.
    in_plane = np.abs(np.einsum("pfc,fc->pf", points[:, None] - corners[:, 0], face_normals)) < 1e-3
    same_normal = normals @ face_normals.T > 0.999
    colors = sample.colors[:, None].astype(float)
    same_color = (np.abs(colors - 255 * palette) <= 0.51).all(axis=2)
    assert (in_plane & same_normal & same_color).any(axis=1).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    assert np.linalg.norm(points, axis=1).max() < 1.0005


def test_points_come_in_farthest_point_order(sample: Sample):
    points = sample.points.astype(np.float64)
    distance = np.full(len(points), np.inf)
    for step in range(200):
        distance = np.minimum(distance, ((points - points[step]) ** 2).sum(axis=1))
        assert distance[step + 1] == pytest.approx(distance.max(), rel=1e-5)


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_visible_points_show_their_own_colour_in_the_decoded_picture(letter_f, projection):
    # The end of the road: cloud, matrices, visibility and JPEG agree. A flip, a mirror or a shift
    # by a few pixels anywhere would show other colours, for the letter has no symmetry.
    config = replace(CONFIG, rig=RigConfig(projection=projection))
    sample = capture(letter_f, "letters/f", "letter", config)
    u, v, _ = world_to_pixel(
        sample.points.astype(np.float32), sample.view_matrices, sample.projection_matrices, 224
    )
    matches = mirrored = total = 0
    for view in range(20):
        picture = decode_picture(sample.pictures[view], 224).astype(float)
        seen = sample.visible(view)
        rows, columns = v[view, seen].astype(int), u[view, seen].astype(int)
        own = sample.colors[seen].astype(float)
        matches += same_hue(picture[rows, columns], own).sum()
        mirrored += same_hue(picture[rows, 223 - columns], own).sum()
        total += seen.sum()
    assert total > 0.15 * 20 * 1024
    # The rest lies on pixels that mix two sides.
    assert matches / total > 0.9
    assert mirrored / total < 0.3


def test_a_rig_among_others_is_captured_as_it_is_alone(letter_f):
    names = ("octahedron", "ring_4_-30deg", "fibonacci_3")
    small = CaptureConfig(num_points=256, rig=RigConfig(names, "orthographic", size_px=64))
    whole = capture(letter_f, "letters/f", "letter", small)
    check_sample(whole, whole=True)
    assert whole.meta.rigs == tuple(map(RigViews, names, (6, 4, 3)))
    alone = capture(
        letter_f, "letters/f", "letter", replace(small, rig=replace(small.rig, names=names[1:2]))
    )
    np.testing.assert_array_equal(whole.points, alone.points)
    np.testing.assert_array_equal(whole.visibility[6:10], alone.visibility)
    np.testing.assert_array_equal(whole.view_matrices[6:10], alone.view_matrices)
    assert [whole.pictures[view] for view in range(6, 10)] == list(alone.pictures.values())


def test_the_rule_of_visibility_is_the_config_s(letter_f, sample):
    exact = capture(letter_f, "letters/f", "letter", replace(CONFIG, visibility="exact"))
    assert content(replace(exact, visibility=sample.visibility)) == content(sample)
    plane_bits, exact_bits = (np.unpackbits(s.visibility).astype(bool) for s in (sample, exact))
    assert 0.95 < 2 * (plane_bits & exact_bits).sum() / (plane_bits.sum() + exact_bits.sum()) < 1


def test_smooth_normals_and_textures_reach_the_cloud(letter_f):
    texture = np.zeros((4, 4, 3), np.uint8)
    texture[:2], texture[2:] = (250, 0, 0), (0, 0, 250)  # Red above blue.
    normals = np.zeros((36, 3, 3), np.float32)
    normals[..., 1] = 1
    # v is the height of a corner, so that the upper half of the letter is red.
    height = letter_f.vertices[letter_f.faces][..., 1]
    v = (height - height.min()) / (height.max() - height.min())
    painted = replace(
        letter_f,
        materials=tuple(Material((1.0, 1.0, 1.0), texture) for _ in letter_f.materials),
        uv=np.ascontiguousarray(np.stack([0.3 + 0 * v, 0.2 + 0.6 * v], axis=-1), np.float32),
        corner_normals=normals,
    )
    sample = capture(painted, "painted", "", CONFIG)
    np.testing.assert_array_equal(sample.normals, np.tile(np.float16([0, 1, 0]), (1024, 1)))
    upper, lower = sample.points[:, 1] > 0.4, sample.points[:, 1] < -0.4
    assert (sample.colors[upper] == [250, 0, 0]).all()
    assert (sample.colors[lower] == [0, 0, 250]).all()
    picture = decode_picture(sample.pictures[0], 224).astype(int)
    drawn = np.argwhere(picture.min(axis=2) < 100)
    top, bottom = picture[drawn[:, 0].min() + 8], picture[drawn[:, 0].max() - 8]
    assert (top[:, 0] - top[:, 2]).max() > 50 > (top[:, 2] - top[:, 0]).max()
    assert (bottom[:, 2] - bottom[:, 0]).max() > 50 > (bottom[:, 0] - bottom[:, 2]).max()


def test_a_grey_surface_shows_form_alone_and_leaves_the_cloud_as_it_is(letter_f, sample):
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    blue, number = Material((0.0, 0.0, 1.0)), len(letter_f.materials)
    dyed = {
        "textured": replace(letter_f, materials=(Material((1.0, 1.0, 1.0), texture),) * number),
        "coloured": replace(
            letter_f, vertex_colors=texture.reshape(-1, 3)[: len(letter_f.vertices)]
        ),
        "plain": replace(letter_f, materials=(blue,) * number),
    }
    grey = replace(CONFIG, surface="grey")
    pictures = capture(letter_f, "letters/f", "letter", grey).pictures
    for look, mesh in dyed.items():
        assert capture(mesh, "letters/f", "letter", grey).pictures == pictures, look
    captured = capture(letter_f, "letters/f", "letter", grey)
    assert content(replace(captured, pictures=sample.pictures)) == content(sample)
    for view in range(20):
        channels = decode_picture(pictures[view]).astype(int)
        assert np.ptp(channels, axis=2).max() == 0
        shades = np.unique(channels)
        assert shades[0] < 200 < shades[-1] == 255, "neither black nor lost in the background"


def test_a_mesh_without_a_surface_is_refused_with_a_reason(letter_f):
    with pytest.raises(MeshError, match=r"^degenerate: "):
        capture(replace(letter_f, vertices=0 * letter_f.vertices), "flat", "", CONFIG)
    in_line = letter_f.vertices * np.float32([1, 0, 0])
    with pytest.raises(MeshError, match=r"^degenerate: "):
        capture(replace(letter_f, vertices=in_line), "line", "", CONFIG)


def test_a_sample_that_may_not_be_written_is_refused_with_a_reason(letter_f):
    with pytest.raises(MeshError, match=r"^breaks_schema: .*source_id") as caught:
        capture(letter_f, "", "", CONFIG)
    assert caught.value.reason == "breaks_schema"


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"num_points": 0}, "num_points 0: must be at least 1"),
        ({"jpeg_quality": 0}, r"jpeg_quality 0: must be 1\.\.100"),
        ({"jpeg_quality": 101}, r"jpeg_quality 101: must be 1\.\.100"),
        ({"seed": -1}, "seed -1: must be at least 0"),
        ({"rig": RigConfig(("fibonacci_990", "dodecahedron"))}, "1010 views.*at most 1000"),
        ({"rig": RigConfig(size_px=1025)}, "1025 px x supersampling 2: .* lower size_px"),
    ],
)
def test_settings_out_of_range_are_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        CaptureConfig(**settings)


def test_the_rig_and_the_picture_size_are_the_config_s(letter_f):
    config = CaptureConfig(num_points=64, rig=RigConfig(size_px=96, fov_rad=0.8))
    sample = capture(letter_f, "small", "", config)
    check_sample(sample, whole=True)
    assert decode_picture(sample.pictures[3], 96).shape == (96, 96, 3)
