"""`picpoint flops`: parameters, FLOPs, memory and speed of every point encoder."""

import time

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cluster.import_weights import point_encoder_config
from picpoint.encoders.pointnext import PointNextConfig
from picpoint.model import PointEncoderConfig, build_point_encoder
from picpoint.ops.sampling import farthest_points, take_rows
from picpoint.weights.cost import TRANSFORMERS, encoder_cost, points_per_ball, saved_bytes

NUM_POINTS = 1024
_BATCH = 4
_ENCODERS = ("dgcnn", "pointnext_s", "pointnext_b", "pointnext_l", "pointnext_xl")


def main() -> int:
    """Print the table."""
    print(f"Encoders without heads, a cloud of {NUM_POINTS} points, forward.")
    print("GFLOPs of the usual form, and of ours: on a sphere, and at most (full balls).")
    print("MB kept: what a cloud leaves in memory for the backward pass.")
    print(
        f"{'encoder':28}{'M params':>10}{'usual':>8}{'ours':>8}{'at most':>9}"
        f"{'MB kept':>9}{'clouds/CPU-s':>14}"
    )
    generator = torch.Generator().manual_seed(0)
    points = normalize(torch.randn(_BATCH, NUM_POINTS, 3, generator=generator), dim=-1)
    points = take_rows(points, farthest_points(points, NUM_POINTS))
    for name in _ENCODERS:
        config = point_encoder_config([f"point_encoder={name}"])
        distinct = points_per_ball(config, points) if isinstance(config, PointNextConfig) else None
        cost = encoder_cost(config, NUM_POINTS, distinct)
        most = encoder_cost(config, NUM_POINTS).our_flops
        print(
            f"{name:28}{cost.parameters / 1e6:>10.2f}{cost.usual_flops / 1e9:>8.2f}"
            f"{cost.our_flops / 1e9:>8.2f}{most / 1e9:>9.2f}"
            f"{saved_bytes(build_point_encoder(config, ghost_batch=1), points) / 1e6:>9.1f}"
            f"{_clouds_per_cpu_s(config, points):>14.1f}"
        )
    print("published transformers")
    for method in TRANSFORMERS:
        print(f"{method.name:28}{method.parameters_m:>10}{method.gflops:>8}")
    return 0


def _clouds_per_cpu_s(config: PointEncoderConfig, points: Tensor) -> float:
    """Time a forward pass in evaluation: CPU time, of all threads together."""
    encoder = build_point_encoder(config, ghost_batch=1).eval()
    with torch.inference_mode():
        encoder(points)  # compiles kernels
        start_s = time.process_time()
        encoder(points)
    return len(points) / (time.process_time() - start_s)
