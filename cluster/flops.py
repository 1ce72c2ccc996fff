"""`picpoint flops`: parameters, FLOPs and clouds per second of every point encoder."""

import time

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cluster.import_weights import point_encoder_config
from picpoint.encoders.pointnext import PointNextConfig
from picpoint.model import PointEncoderConfig, build_point_encoder
from picpoint.ops.sampling import farthest_points, take_rows
from picpoint.weights.cost import TRANSFORMERS, encoder_cost, points_per_ball

NUM_POINTS = 1024
_BATCH = 4
_ENCODERS = ("dgcnn", "pointnext_s", "pointnext_b", "pointnext_l", "pointnext_xl")


def main() -> int:
    """Print the table."""
    threads = torch.get_num_threads()
    print(
        f"Encoders without heads; {_BATCH} random clouds of {NUM_POINTS} points on a sphere, "
        f"forward, on {threads} thread{'s' * (threads > 1)}"
    )
    print(f"{'encoder':28}{'M params':>10}{'GFLOPs':>10}{'ours':>8}{'clouds/s':>10}")
    generator = torch.Generator().manual_seed(0)
    points = normalize(torch.randn(_BATCH, NUM_POINTS, 3, generator=generator), dim=-1)
    points = take_rows(points, farthest_points(points, NUM_POINTS))
    for name in _ENCODERS:
        config = point_encoder_config([f"point_encoder={name}"])
        distinct = points_per_ball(config, points) if isinstance(config, PointNextConfig) else None
        cost = encoder_cost(config, NUM_POINTS, distinct)
        print(
            f"{name:28}{cost.parameters / 1e6:>10.2f}{cost.usual_flops / 1e9:>10.2f}"
            f"{cost.our_flops / 1e9:>8.2f}{_clouds_per_s(config, points):>10.1f}"
        )
    print("published transformers")
    for method in TRANSFORMERS:
        print(f"{method.name:28}{method.parameters_m:>10}{method.gflops:>10}")
    return 0


def _clouds_per_s(config: PointEncoderConfig, points: Tensor) -> float:
    """Time a forward pass in evaluation, on this machine."""
    encoder = build_point_encoder(config, ghost_batch=1).eval()
    with torch.inference_mode():
        encoder(points)  # compiles kernels
        start_s = time.perf_counter()
        encoder(points)
    return len(points) / (time.perf_counter() - start_s)
