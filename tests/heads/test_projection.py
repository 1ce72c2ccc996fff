import pytest
import torch

from picpoint.heads.projection import (
    PosedProjectionHead,
    PoseEncoder,
    ProjectionConfig,
    ProjectionHead,
    to_unit_length,
)

B, V, K, C, GHOST = 4, 2, 3, 5, 2


def small(**choices):
    return ProjectionConfig(latent_width=6, hidden_width=8, pose_width=4, **choices)


def random_cameras(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, B, V, 4, 4, generator=generator).unbind()


def random_features(*shape, seed=1):
    return torch.randn(*shape, C, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def mask():
    mask = torch.rand(B, V, K, generator=torch.Generator().manual_seed(2)) < 0.7
    assert 0 < mask.sum() < mask.numel()
    return mask


@pytest.mark.parametrize("fusion", ["penultimate", "output", "none"])
def test_embeddings_have_unit_length(fusion, mask):
    head = PosedProjectionHead(C, small(pose_fusion=fusion), GHOST)
    embedded = head(random_features(B, V, K), *random_cameras(), mask)
    assert embedded.shape == (B, V, K, 6)
    torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(B, V, K))


@pytest.mark.parametrize("fusion", ["penultimate", "output", "none"])
def test_the_camera_matters_unless_it_is_left_out(fusion, mask):
    head = PosedProjectionHead(C, small(pose_fusion=fusion), GHOST)
    features = random_features(B, V, K)
    views, projections = random_cameras()
    before = head(features, views, projections, mask)
    for changed in (
        head(features, 2 * views, projections, mask),
        head(features, views, 2 * projections, mask),
    ):
        assert before.equal(changed) == (fusion == "none")


def test_a_linear_code_at_the_output_moves_all_points_of_a_view_alike():
    """Why `penultimate` is the default: with `output` the camera adds one vector per view."""
    head = PosedProjectionHead(C, small(pose_fusion="output"), GHOST).eval()
    seen = []
    head.fuse.register_forward_hook(lambda *call: seen.append(call[2]))
    mask = torch.ones(B, V, K, dtype=torch.bool)
    for seed in (0, 1):
        head(random_features(B, V, K), *random_cameras(seed), mask)
    moved = seen[1] - seen[0]
    torch.testing.assert_close(moved, moved[:, :, :1].expand_as(moved))


@pytest.mark.parametrize("fusion", ["penultimate", "output", "none"])
def test_every_parameter_gets_a_gradient(fusion, mask):
    head = PosedProjectionHead(C, small(pose_fusion=fusion), GHOST)
    head(random_features(B, V, K), *random_cameras(), mask)[..., 0].sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        # A bias that a norm takes out again gets rounding noise, of some 1e-8.
        assert parameter.grad.abs().max() > 1e-6, name


def test_fusions_differ_only_in_the_code(mask):
    """So that leaving the pose out shows what the pose is worth, and not a layer less."""
    penultimate, none = (
        PosedProjectionHead(C, small(pose_fusion=fusion), GHOST)
        for fusion in ("penultimate", "none")
    )
    shapes = {name: value.shape for name, value in none.state_dict().items()}
    other = {
        name: value.shape
        for name, value in penultimate.state_dict().items()
        if not name.startswith("pose_encoder")
    }
    assert shapes.keys() == other.keys()
    assert other["fuse.linear.weight"] == (8, 8 + 4)
    assert shapes["fuse.linear.weight"] == (8, 8)


@pytest.mark.parametrize("fusion", ["penultimate", "output", "none"])
def test_embeddings_under_autocast_have_unit_length_in_float32(fusion, mask):
    posed = PosedProjectionHead(C, small(pose_fusion=fusion), GHOST)
    plain = ProjectionHead(C, small(), GHOST)
    features = random_features(B, V, K)
    with torch.autocast("cpu", torch.bfloat16):
        embedded = [posed(features, *random_cameras(), mask), plain(features, mask)]
    for vectors in embedded:
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(B, V, K))


def test_the_pose_code_keeps_its_precision_under_autocast():
    encoder, cameras = PoseEncoder(16), random_cameras()
    with torch.autocast("cpu", torch.bfloat16):
        code = encoder(*cameras)
    assert code.equal(encoder(*cameras))


def test_masked_features_leave_no_trace_in_the_others(mask):
    posed, plain = PosedProjectionHead(C, small(), GHOST), ProjectionHead(C, small(), GHOST)
    clean = random_features(B, V, K)
    dirty = torch.where(mask[..., None], clean, 1e3)
    cameras = random_cameras()
    assert posed(clean, *cameras, mask)[mask].equal(posed(dirty, *cameras, mask)[mask])
    assert plain(clean, mask)[mask].equal(plain(dirty, mask)[mask])


def test_a_zero_vector_stays_zero_with_a_finite_gradient():
    vectors = torch.zeros(2, 3, requires_grad=True)
    unit = to_unit_length(vectors)
    assert unit.eq(0).all()
    (grad,) = torch.autograd.grad(unit.sum(), vectors)
    assert grad.isfinite().all()


def test_the_pose_code_tells_cameras_apart():
    code = PoseEncoder(16)(*random_cameras())
    assert code.shape == (B, V, 16)
    assert len(code.flatten(0, 1).unique(dim=0)) == B * V
