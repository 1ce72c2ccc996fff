"""Which renderer draws, and what can all of them do? The one face of the renderers.

    cpu           the z-buffer of picpoint/render/rasterizer.py; always there
    cuda          the same z-buffer on an NVIDIA GPU, by numba-cuda and torch
    kaolin        NVIDIA Kaolin's rasterizer
    nvdiffrast    Kaolin's face of nvdiffrast, whose licence allows non-commercial use only

All give the same faces, depths and colours up to rounding. What a renderer needs is imported when
it draws: the CPU's needs neither torch nor CUDA.
"""

import ctypes
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32

from picpoint.geometry.cameras import Cameras
from picpoint.render import rasterizer
from picpoint.render.look import Look, build_look
from picpoint.render.meshes import Mesh
from picpoint.render.rasterizer import RasterizerConfig, Rendering, px_per_unit

Backend = Literal["cpu", "cuda", "kaolin", "nvdiffrast"]
RendererName = Literal["auto", "cpu", "cuda", "kaolin", "nvdiffrast"]


class RendererMissingError(RuntimeError):
    """A renderer cannot draw on this machine; the message says what it lacks and the remedy."""


@dataclass(frozen=True, slots=True)
class Renderer:
    """A renderer that can draw here; see `build_renderer`.

    Attributes:
        backend: what draws.
        config: sampling and background.
    """

    backend: Backend
    config: RasterizerConfig

    def render(self, mesh: Mesh, cameras: Cameras) -> Rendering:
        """Draw a mesh from every camera; see `draw`."""
        return self.draw(mesh.vertices, build_look(mesh, px_per_unit(cameras)), cameras)

    def draw(self, vertices: Float32[np.ndarray, "n 3"], look: Look, cameras: Cameras) -> Rendering:
        """Draw faces from every camera.

        Args:
            vertices: world frame; in the unit sphere for the rigs of `build_cameras`.
            look: faces and their appearance.
            cameras: where from, and how large.

        Raises:
            ValueError: a face reaches behind a camera or far outside its picture (there is no
                clipping), the raster is larger than 2,048 px, or a camera is orthographic and the
                renderer not the CPU's.
        """
        if self.backend != "cpu" and cameras.is_orthographic.any():
            raise ValueError(
                f"renderer {self.backend}: draws in perspective only; renderer=cpu draws "
                "orthographic views"
            )
        if self.backend in ("kaolin", "nvdiffrast") and not _share_one_symmetric_lens(cameras):
            raise ValueError(
                f"renderer {self.backend}: has one field of view, the same across and up, for all "
                "views; renderer=cpu and renderer=cuda take any projection matrices"
            )
        match self.backend:
            case "cpu":
                return rasterizer.draw(vertices, look, cameras, self.config)
            case "cuda":
                from picpoint.render import cuda_renderer

                return cuda_renderer.draw(vertices, look, cameras, self.config)
            case "kaolin" | "nvdiffrast":
                from picpoint.render import kaolin_renderer

                scene = kaolin_renderer.Scene(vertices, look)
                (rendering,) = kaolin_renderer.draw_scenes(
                    [scene], cameras, self.config, rasterizer=self.backend
                )
                return rendering


def _share_one_symmetric_lens(cameras: Cameras) -> bool:
    """Whether Kaolin's camera, which knows a field of view only, stands for all of these."""
    lens = cameras.projection_matrices[:, :2]
    symmetric = np.zeros_like(lens[0])
    symmetric[0, 0] = symmetric[1, 1] = lens[0, 1, 1]
    return bool((lens == symmetric).all())


def build_renderer(name: RendererName, config: RasterizerConfig) -> Renderer:
    """Give the renderer of a name.

    Raises:
        RendererMissingError: it cannot draw on this machine.
    """
    return Renderer(resolve_renderer(name), config)


def resolve_renderer(name: RendererName) -> Backend:
    """Say which renderer a name stands for on this machine.

    `auto` is the first that is present of kaolin, cuda and cpu; never nvdiffrast, for its licence.

    Raises:
        RendererMissingError: the one that is named cannot draw here.
    """
    if name == "auto":
        if not has_cuda_device():  # asked first, because asking Kaolin loads torch
            return "cpu"
        present: tuple[Backend, ...] = ("kaolin", "cuda")
        for backend in present:
            if not _lacks(backend):
                return backend
        return "cpu"
    if lack := _lacks(name):
        raise RendererMissingError(f"renderer {name}: {lack}; renderer=cpu draws everywhere")
    return name


def has_cuda_device() -> bool:
    """Ask the driver, not torch, whether this process may use an NVIDIA GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


def _lacks(backend: Backend) -> str:
    """Say what a renderer lacks on this machine and how to get it; "" if nothing."""
    match backend:
        case "cpu":
            return ""
        case "cuda":
            from picpoint.render import cuda_renderer

            return cuda_renderer.what_is_missing()
        case "kaolin" | "nvdiffrast":
            from picpoint.render import kaolin_renderer

            return kaolin_renderer.what_is_missing(backend)
