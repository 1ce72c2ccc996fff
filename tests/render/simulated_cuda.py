"""Draws the meshes of agreement.py with the CUDA renderer in numba's simulator, in a process of
its own, because numba chooses between simulator and GPU when it is loaded."""

import sys

import agreement
import numpy as np
import torch

from picpoint.render import cuda_renderer
from picpoint.render.renderer import build_renderer

if __name__ == "__main__":
    # The simulator starts a thread of Python for each: fewer, and their number changes nothing.
    cuda_renderer._THREADS_PER_FACE, cuda_renderer._VERTICES_PER_BLOCK = 2, 8
    # One view at a time, as where memory is short.
    cuda_renderer._CHUNK_BYTES = 1
    renderer = build_renderer("cuda", agreement.CONFIG)
    cameras = agreement.some_views([2, 13], 32)
    drawn = {}
    for name, mesh in agreement.meshes().items():
        rendering = renderer.render(mesh, cameras)
        for field in ("colour", "coverage", "depth", "face_id"):
            drawn[f"{name} {field}"] = getattr(rendering, field)
    raster = agreement.centred()
    keys = cuda_renderer._fill_keys(
        torch.from_numpy(raster.faces),
        torch.from_numpy(raster.snapped[None]),
        torch.from_numpy(raster.inverse_depth[None]),
        raster.side_px,
    )
    drawn["keys"] = keys[0].numpy()
    np.savez(sys.argv[1], **drawn)
