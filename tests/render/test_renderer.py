"""Which renderer draws: what a name stands for, and what is said where it cannot draw."""

import importlib.util
import subprocess
import sys
from typing import get_args

import agreement
import kaolin_double
import pytest

from cluster.exit_codes import exit_code
from picpoint.render import cuda_renderer, kaolin_renderer, rasterizer, renderer
from picpoint.render.capture import CaptureConfig, capture
from picpoint.render.renderer import (
    Backend,
    Renderer,
    RendererMissingError,
    RendererName,
    build_renderer,
    resolve_renderer,
)


@pytest.mark.parametrize(
    ("device", "present", "chosen"),
    [
        (True, {"kaolin", "cuda"}, "kaolin"),
        (True, {"cuda"}, "cuda"),
        (True, {"nvdiffrast"}, "cpu"),
        (False, {"kaolin", "cuda"}, "cpu"),
    ],
)
def test_auto_is_the_first_that_is_present(monkeypatch, device, present, chosen):
    def kaolin_lacks(name: str) -> str:
        return "" if name in present else "not here"

    monkeypatch.setattr(renderer, "has_cuda_device", lambda: device)
    monkeypatch.setattr(kaolin_renderer, "what_is_missing", kaolin_lacks)
    monkeypatch.setattr(
        cuda_renderer, "what_is_missing", lambda: "" if "cuda" in present else "not here"
    )
    assert resolve_renderer("auto") == chosen


def test_every_name_but_auto_stands_for_itself():
    assert {*get_args(RendererName)} == {*get_args(Backend), "auto"}
    assert resolve_renderer("cpu") == "cpu"


def test_a_renderer_that_is_missing_says_how_to_get_it_in_one_line(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "kaolin"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kaolin", None)
    with pytest.raises(RendererMissingError, match=r"renderer kaolin: .*kaolin\.readthedocs") as it:
        build_renderer("kaolin", agreement.CONFIG)
    code, line = exit_code(it.value)
    assert code == 3
    assert "\n" not in line
    kaolin_double.install(monkeypatch)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RendererMissingError, match=r"renderer kaolin: .*NVIDIA GPU only"):
        resolve_renderer("kaolin")
    with pytest.raises(RendererMissingError, match="renderer cuda: torch sees no NVIDIA GPU"):
        resolve_renderer("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RendererMissingError, match=r"nvdiffrast: .*non-commercial use only"):
        resolve_renderer("nvdiffrast")


@pytest.mark.parametrize("backend", ["cpu", "kaolin", "nvdiffrast"])
def test_the_face_draws_what_the_backend_does(monkeypatch, backend):
    rasterizers = []

    def draw_scenes(scenes, cameras, config, rasterizer):
        rasterizers.append(rasterizer)
        return on_gpu(scenes, cameras, config, rasterizer, device="cpu")

    kaolin_double.install(monkeypatch)
    on_gpu = kaolin_renderer.draw_scenes
    monkeypatch.setattr(kaolin_renderer, "draw_scenes", draw_scenes)
    cameras = agreement.some_views([3], 32)
    mesh = agreement.meshes()["stairs"]
    own = rasterizer.render(mesh, cameras, agreement.CONFIG)
    drawn = Renderer(backend, agreement.CONFIG).render(mesh, cameras)
    assert (drawn.face_id == own.face_id).mean() > 0.999
    assert rasterizers == ([] if backend == "cpu" else [backend])


def test_a_sample_is_drawn_by_the_renderer_of_its_config(monkeypatch):
    mesh = agreement.meshes()["stairs"]
    assert CaptureConfig().renderer == "auto"
    asked = []

    def build(name, config):
        asked.append(name)
        return Renderer("cpu", config)

    monkeypatch.setattr("picpoint.render.capture.build_renderer", build)
    capture(mesh, "a", "", CaptureConfig(num_points=64, renderer="kaolin"))
    assert asked == ["kaolin"]
    monkeypatch.undo()
    monkeypatch.setattr(cuda_renderer, "what_is_missing", lambda: "not here")
    with pytest.raises(RendererMissingError, match="renderer cuda: not here"):
        capture(mesh, "a", "", CaptureConfig(num_points=64, renderer="cuda"))


def test_drawing_on_a_cpu_loads_no_torch():
    script = (
        "import sys, numpy as np;"
        "from picpoint.geometry.rigs import RigConfig, build_cameras;"
        "from picpoint.render import renderer, rasterizer;"
        "from picpoint.render.meshes import Material, Mesh;"
        "mesh = Mesh(np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32)[None],"
        " np.zeros(1, np.int32), (Material((1, 1, 1)),), np.zeros((1, 3, 2), np.float32));"
        "renderer.has_cuda_device = lambda: False;"
        "draw = renderer.build_renderer('auto', rasterizer.RasterizerConfig());"
        "print(draw.render(mesh, build_cameras(RigConfig())).face_id.max(), 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0", "False"]
