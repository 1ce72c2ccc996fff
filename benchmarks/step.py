"""How long does an encoder take, and how much memory, against the form it is usually written in?

    python -m benchmarks.step            batch 32, float32 (and bfloat16 in hardware); a record
    python -m benchmarks.step --quick    batch 4, float32, under a minute

Both forms have the same parameters and see the same clouds, in turns, on one core. Times are CPU
time, medians over the rounds; memory is what the peak of the resident set rose by. The last line of
stdout is one JSON object: `vs_plain` is how many times faster forward and backward together are,
`memory_vs_plain` the share of the plain form's peak.
"""

import argparse
import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.plain_dgcnn import plain_dgcnn
from benchmarks.record import write_record
from picpoint.batch import PointFeatures
from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig

NUM_POINTS = 1024

Forward = Callable[[Float[Tensor, "B N 3"]], PointFeatures]


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one form of an encoder costs.

    Attributes:
        forward_s: CPU time of a forward pass in training mode, per cloud.
        step_s: CPU time of forward and backward, per cloud.
        peak_bytes: rise of the resident set's peak in forward and backward.
    """

    forward_s: float
    step_s: float
    peak_bytes: int


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small batch, float32, no record")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    batch, rounds = (4, 3) if quick else (32, 3)
    results = {"dgcnn": compare_dgcnn(batch, rounds, bfloat16=False)}
    if not quick:
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():  # emulated, it would take an hour
            results["dgcnn_bfloat16"] = compare_dgcnn(batch, rounds, bfloat16=True)
        path = write_record("step", results, ("torch", "numba", "numpy"))
        print(f"written: {path}")
    print(json.dumps(results))


def compare_dgcnn(batch: int, rounds: int, bfloat16: bool) -> dict[str, float]:
    """Measure the published DGCNN in both forms, in turns."""
    torch.manual_seed(0)
    encoder = Dgcnn(DgcnnConfig(), ghost_batch=batch)
    points = torch.nn.functional.normalize(torch.randn(batch, NUM_POINTS, 3), dim=-1)
    forms: dict[str, Forward] = {
        "ours": encoder,
        "plain": lambda clouds: plain_dgcnn(encoder, clouds),
    }
    costs = {name: [] for name in forms}
    for round_number in range(rounds + 1):
        for name, forward in forms.items():
            cost = _measure(encoder, forward, points, bfloat16)
            if round_number:  # the first compiles kernels and warms up
                costs[name].append(cost)
    ours, plain = (_median(costs[name]) for name in ("ours", "plain"))
    for name, cost in (("ours", ours), ("plain", plain)):
        print(
            f"dgcnn {name:5} {'bf16' if bfloat16 else 'fp32'} batch {batch}: "
            f"forward {cost.forward_s * 1e3:.1f} ms, forward + backward {cost.step_s * 1e3:.1f} ms "
            f"a cloud, peak {cost.peak_bytes / 2**20:.0f} MiB"
        )
    return {
        "vs_plain": round(plain.step_s / ours.step_s, 2),
        "forward_vs_plain": round(plain.forward_s / ours.forward_s, 2),
        "memory_vs_plain": round(ours.peak_bytes / plain.peak_bytes, 3),
        "clouds_per_s": round(1 / ours.step_s, 2),
        **{f"plain_{key}": value for key, value in asdict(plain).items()},
        **asdict(ours),
    }


def _measure(
    encoder: Dgcnn, forward: Forward, points: Float[Tensor, "B N 3"], bfloat16: bool
) -> StepCost:
    """Run one step and take its time and memory."""
    encoder.zero_grad(set_to_none=True)
    base_bytes = _reset_peak()
    start_s = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        features = forward(points)
    forward_s = time.process_time() - start_s
    upstream = [torch.ones_like(part) for part in (features.local, features.pooled)]
    start_s = time.process_time()
    torch.autograd.backward((features.local, features.pooled), upstream)
    backward_s = time.process_time() - start_s
    return StepCost(
        forward_s=forward_s / len(points),
        step_s=(forward_s + backward_s) / len(points),
        peak_bytes=_status_bytes("VmHWM") - base_bytes,
    )


def _median(costs: list[StepCost]) -> StepCost:
    """Take the median of each figure."""
    return StepCost(
        forward_s=statistics.median(cost.forward_s for cost in costs),
        step_s=statistics.median(cost.step_s for cost in costs),
        peak_bytes=int(statistics.median(cost.peak_bytes for cost in costs)),
    )


def _reset_peak() -> int:
    """Give freed memory back to Linux, forget the peak, and tell what is resident now."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    """Read a memory figure of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kilobytes) * 1024


if __name__ == "__main__":
    main()
