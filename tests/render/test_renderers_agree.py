"""The renderers draw the same: Kaolin (by its double) and CUDA (simulated) against the CPU's.

Marked `kaolin` and `gpu`, the same tests run against the real ones.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import agreement
import kaolin_double
import numpy as np
import pytest

from picpoint.geometry.cameras import Cameras
from picpoint.geometry.clouds import sample_surface
from picpoint.geometry.visibility import visible_points
from picpoint.render import rasterizer
from picpoint.render.look import build_look
from picpoint.render.meshes import Mesh
from picpoint.render.rasterizer import RasterizerConfig, Rendering, px_per_unit
from picpoint.render.renderer import Renderer, build_renderer

ROOT = Path(__file__).parents[2]
MESHES = agreement.meshes()
PLAIN = RasterizerConfig(supersampling=1)
Draw = Callable[..., list[Rendering]]


@pytest.fixture(
    params=["double", pytest.param("real", marks=[pytest.mark.kaolin, pytest.mark.gpu])]
)
def draw_by_kaolin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Draws meshes by Kaolin: by its double on the CPU, or by itself on a GPU."""
    from picpoint.render import kaolin_renderer

    if request.param == "double":
        kaolin_double.install(monkeypatch)
        device = "cpu"
    else:
        if missing := kaolin_renderer.what_is_missing("kaolin"):
            pytest.skip(missing)
        device = "cuda"

    def draw(meshes: list[Mesh], cameras: Cameras, config=agreement.CONFIG, **settings):
        scenes = [
            kaolin_renderer.Scene(mesh.vertices, build_look(mesh, px_per_unit(cameras)))
            for mesh in meshes
        ]
        return kaolin_renderer.draw_scenes(scenes, cameras, config, device=device, **settings)

    return draw


@pytest.fixture(scope="module")
def simulated_arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What the CUDA renderer gives in the simulator, as simulated_cuda.py writes it."""
    file = tmp_path_factory.mktemp("cuda") / "drawn.npz"
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": paths}
    script = Path(__file__).with_name("simulated_cuda.py")
    subprocess.run([sys.executable, script, file], env=environment, check=True)
    with np.load(file) as drawn:
        return dict(drawn)


@pytest.fixture(scope="module")
def simulated(simulated_arrays: dict[str, np.ndarray]) -> dict[str, Rendering]:
    """The renderings of the simulator by kind of mesh."""
    fields = ("colour", "coverage", "depth", "face_id")
    return {
        name: Rendering(**{field: simulated_arrays[f"{name} {field}"] for field in fields})
        for name in MESHES
    }


def check_agreement(
    mesh: Mesh, cameras: Cameras, other: Rendering, faces: float, depths: float
) -> None:
    """Compare with the CPU's rendering: faces as a share of covered pixels, depths relatively."""
    own = Renderer("cpu", agreement.CONFIG).render(mesh, cameras)
    covered = (own.face_id >= 0) | (other.face_id >= 0)
    same = own.face_id == other.face_id
    assert covered.any()
    assert same[covered].mean() >= faces
    both = same & covered
    np.testing.assert_allclose(other.depth[both], own.depth[both], rtol=depths)
    assert np.isinf(other.depth[other.face_id < 0]).all()
    assert (own.coverage == other.coverage).mean() >= faces
    # Rounding moves a channel by one at most, where all of a pixel's samples show the same.
    fine = agreement.CONFIG.supersampling
    views, size = own.coverage.shape[:2]
    whole = same.reshape(views, size, fine, size, fine).all(axis=(2, 4))
    assert np.abs(own.colour[whole].astype(int) - other.colour[whole]).max() <= 1
    seen = [
        visible_points(
            sample_surface(mesh.vertices, mesh.faces, 400, seed=1).points,
            cameras.view_matrices,
            cameras.projection_matrices,
            cameras.size_px,
            mesh.vertices,
            mesh.faces,
            rendering.face_id,
        )
        for rendering in (own, other)
    ]
    assert 2 * (seen[0] & seen[1]).sum() >= 0.99 * (seen[0].sum() + seen[1].sum()) > 0


@pytest.mark.parametrize("kind", MESHES)
def test_kaolin_agrees_with_the_cpu(kind: str, draw_by_kaolin: Draw) -> None:
    cameras = agreement.some_views([0, 5, 9, 12], 64)
    (rendering,) = draw_by_kaolin([MESHES[kind]], cameras)
    check_agreement(MESHES[kind], cameras, rendering, faces=0.999, depths=1e-4)


@pytest.mark.parametrize("kind", ["cube", "stairs", "two planes"])
def test_kaolin_s_faces_and_depths_are_exact_at_full_size(kind: str, draw_by_kaolin: Draw) -> None:
    # Without 1/w the cube's depths would be off by up to 0.09; a flip would show on the stairs, and
    # a wrong sign of z on the planes.
    cameras = agreement.some_views([0, 4, 7, 11, 18], 224)
    mesh = agreement.cube() if kind == "cube" else MESHES[kind]
    (drawn,) = draw_by_kaolin([mesh], cameras, PLAIN)
    own = rasterizer.render(mesh, cameras, PLAIN)
    covered = (own.face_id >= 0) | (drawn.face_id >= 0)
    same = own.face_id == drawn.face_id
    assert same[covered].mean() >= 0.9999
    # The CPU's vertices are snapped to 1/4096 px, which a face seen edge-on makes the most of.
    error = np.abs(drawn.depth[covered & same] / own.depth[covered & same] - 1)
    assert np.quantile(error, 0.999) < 1e-5
    assert error.max() < 1e-4


def test_chunks_and_company_do_not_change_what_kaolin_draws(draw_by_kaolin: Draw) -> None:
    cameras = agreement.some_views([1, 3, 8], 48)
    kinds = ["textured", "stairs", "two planes", "open", "tiny"]
    together = draw_by_kaolin([MESHES[kind] for kind in kinds], cameras)
    for kind, one in zip(kinds, together, strict=True):
        (alone,) = draw_by_kaolin([MESHES[kind]], cameras, chunk_bytes=1)
        for field in ("colour", "coverage", "depth", "face_id"):
            np.testing.assert_array_equal(getattr(one, field), getattr(alone, field))


def test_kaolin_refuses_a_face_behind_the_camera_as_the_cpu_does(draw_by_kaolin: Draw) -> None:
    cameras = agreement.some_views([1, 3], 32)
    far_off = MESHES["stairs"].vertices.copy()
    far_off[MESHES["stairs"].faces[7, 0]] = 50 * cameras.positions[1]
    broken = replace(MESHES["stairs"], vertices=far_off)
    with pytest.raises(ValueError, match="normalise it into the unit sphere") as own:
        rasterizer.render(broken, cameras, agreement.CONFIG)
    with pytest.raises(ValueError, match="normalise it into the unit sphere") as other:
        draw_by_kaolin([MESHES["open"], broken], cameras, chunk_bytes=1)
    assert str(own.value) == str(other.value)


@pytest.mark.parametrize("kind", MESHES)
def test_simulated_cuda_gives_the_cpu_s_faces_and_depths_bit_for_bit(
    kind: str, simulated: dict[str, Rendering]
) -> None:
    cameras = agreement.some_views([2, 13], 32)
    check_agreement(MESHES[kind], cameras, simulated[kind], faces=1.0, depths=0.0)


def test_simulated_cuda_shares_edges_and_ties_as_the_cpu_does(
    simulated_arrays: dict[str, np.ndarray],
) -> None:
    raster = agreement.centred()
    keys = np.empty((raster.side_px, raster.side_px + 8), np.int64)
    rasterizer._fill_keys(raster.faces, raster.snapped, raster.inverse_depth, keys)
    assert len(np.unique(keys[:, : raster.side_px])) > 10
    np.testing.assert_array_equal(simulated_arrays["keys"], keys[:, : raster.side_px])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", MESHES)
def test_cuda_agrees_with_the_cpu(kind: str) -> None:
    from picpoint.render import cuda_renderer

    if missing := cuda_renderer.what_is_missing():
        pytest.skip(missing)
    cameras = agreement.some_views([0, 5, 9, 12], 224)
    rendering = build_renderer("cuda", agreement.CONFIG).render(MESHES[kind], cameras)
    check_agreement(MESHES[kind], cameras, rendering, faces=0.9999, depths=1e-5)
