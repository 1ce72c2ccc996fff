"""What do the encoders cost, against the usual form and against other packages' encoders?

    python -m benchmarks.step            batch 32, float32 (and bfloat16 in hardware); a record
    python -m benchmarks.step --quick    small batches, float32, under a minute

All forms have the same parameters and see the same clouds, of demo shapes, in turns, on one core:

    plain               every edge built, multiplied and normalised (benchmarks/plain_*.py)
    torch_pointcloud    torch-pointcloud as it is: PointNeXt without edges that only fill up a ball
    torch_pointcloud_filled, openpoints   (full runs) with these edges, as published and as ours

The other packages are given our neighbours and our sampling (benchmarks/peer_*.py), so they pay no
more for searching than we do. Times are CPU time, medians over the rounds; memory is what the peak
of the resident set rose by. The last line of stdout is one JSON object: `vs_X` is how many times
faster ours is than X forward and backward together, `memory_vs_X` the share of X's peak; null where
X is not installed (extra `bench`).
"""

import argparse
import importlib.util
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.memory import reset_peak, status_bytes
from benchmarks.peer_openpoints import openpoints_dgcnn, openpoints_pointnext
from benchmarks.peer_torch_pointcloud import (
    Peer,
    torch_pointcloud_dgcnn,
    torch_pointcloud_pointnext,
)
from benchmarks.plain_dgcnn import plain_dgcnn
from benchmarks.plain_pointnext import plain_pointnext
from benchmarks.record import write_record
from picpoint.assets import DEMO_SHAPES
from picpoint.batch import PointFeatures
from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import POINTNEXT_S, PointNext
from picpoint.geometry.clouds import fit_unit_sphere, sample_surface
from picpoint.ops.farthest import farthest_order
from picpoint.ops.precision import has_bfloat16
from picpoint.render.sources import list_shapes

NUM_POINTS = 1024
_DENSE_POINTS = 8192  # of which the leading ones in farthest-point order make a cloud
_PACKAGES = ("torch", "numba", "numpy", "torch-pointcloud", "torch-geometric", "openpoints")

Forward = Callable[[Float[Tensor, "B N 3"]], PointFeatures]


@dataclass(frozen=True, slots=True)
class Form:
    """One way to compute an encoder, and the module that holds its parameters."""

    module: nn.Module
    forward: Forward


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
    parser.add_argument("--quick", action="store_true", help="small batches, float32, no record")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")  # those of other packages
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clouds = demo_clouds(4 if quick else 32)
    results = {
        # Other forms of DGCNN take seconds a cloud.
        "dgcnn": compare("dgcnn", clouds[:1] if quick else clouds, quick),
        "pointnext_s": compare("pointnext_s", clouds, quick),
    }
    if not quick:
        if has_bfloat16(torch.device("cpu")):  # emulated, it would take an hour
            for name in ("dgcnn", "pointnext_s"):
                results[f"{name}_bfloat16"] = compare(name, clouds, quick, bfloat16=True)
        path = write_record("step", results, _PACKAGES)
        print(f"written: {path}")
    print(json.dumps(results))


def demo_clouds(count: int) -> Float[Tensor, "B N 3"]:
    """Sample the surfaces of demo shapes, spread over the pack, in farthest-point order."""
    shapes = list_shapes(DEMO_SHAPES)
    clouds: list[np.ndarray] = []
    for shape in shapes[:: len(shapes) // count][:count]:
        mesh = shape.read_mesh()
        vertices = fit_unit_sphere(mesh.vertices, mesh.faces).apply(mesh.vertices)
        dense = sample_surface(vertices, mesh.faces, _DENSE_POINTS, seed=0).points
        clouds.append(dense[farthest_order(dense, NUM_POINTS)])
    return torch.from_numpy(np.stack(clouds))


def forms_of(name: str, ghost_batch: int, quick: bool) -> dict[str, Form]:
    """Build an encoder and the other forms of it that are at hand."""
    forms: dict[str, Form] = {}
    peers: dict[str, Callable[[], Peer]] = {}
    match name:
        case "dgcnn":
            dgcnn = Dgcnn(DgcnnConfig(), ghost_batch)
            forms["ours"] = Form(dgcnn, dgcnn)
            forms["plain"] = Form(dgcnn, lambda clouds: plain_dgcnn(dgcnn, clouds))
            peers["torch_pointcloud"] = lambda: torch_pointcloud_dgcnn(dgcnn)
            peers["openpoints"] = lambda: openpoints_dgcnn(dgcnn)
        case "pointnext_s":
            pointnext = PointNext(POINTNEXT_S, ghost_batch)
            forms["ours"] = Form(pointnext, pointnext)
            forms["plain"] = Form(pointnext, lambda clouds: plain_pointnext(pointnext, clouds))
            peers["torch_pointcloud"] = lambda: torch_pointcloud_pointnext(pointnext, False)
            peers["openpoints"] = lambda: openpoints_pointnext(pointnext)
            peers["torch_pointcloud_filled"] = lambda: torch_pointcloud_pointnext(pointnext, True)
        case _:
            raise ValueError(f"{name}: no such encoder; there are dgcnn and pointnext_s")
    for peer, build in peers.items():
        package = "openpoints" if peer == "openpoints" else "torch_pointcloud"
        if quick and peer != "torch_pointcloud":
            continue
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: pip install 'picpoint[bench]'")
            continue
        built = build()
        forms[peer] = Form(built.module, built.forward)
    return forms


def compare(
    name: str, clouds: Float[Tensor, "B N 3"], quick: bool, bfloat16: bool = False
) -> dict[str, float | None]:
    """Measure all forms of an encoder, in turns."""
    forms = forms_of(name, len(clouds), quick)
    if bfloat16:  # others do not autocast throughout
        forms = {form: forms[form] for form in ("ours", "plain")}
    costs: dict[str, list[StepCost]] = {form: [] for form in forms}
    for round_number in range(3 if quick else 4):
        for form in forms:
            cost = _measure(forms[form], clouds, bfloat16)
            if round_number:  # the first compiles kernels and warms up
                costs[form].append(cost)
    medians = {form: _median(measured) for form, measured in costs.items()}
    for form, cost in medians.items():
        print(
            f"{name} {form:23} {'bf16' if bfloat16 else 'fp32'} batch {len(clouds)}: "
            f"forward {cost.forward_s * 1e3:.1f} ms, forward + backward {cost.step_s * 1e3:.1f} ms "
            f"a cloud, peak {cost.peak_bytes / 2**20:.0f} MiB"
        )
    return _ratios(medians)


def _ratios(costs: Mapping[str, StepCost]) -> dict[str, float | None]:
    """Hold the other forms against ours."""
    ours = costs["ours"]
    ratios: dict[str, float | None] = {"vs_torch_pointcloud": None}
    for form, cost in costs.items():
        if form != "ours":
            ratios[f"vs_{form}"] = round(cost.step_s / ours.step_s, 2)
            ratios[f"forward_vs_{form}"] = round(cost.forward_s / ours.forward_s, 2)
            ratios[f"memory_vs_{form}"] = round(ours.peak_bytes / cost.peak_bytes, 3)
    ratios["clouds_per_s"] = round(1 / ours.step_s, 2)
    for form, cost in costs.items():
        prefix = "" if form == "ours" else f"{form}_"
        ratios[f"{prefix}forward_s"] = cost.forward_s
        ratios[f"{prefix}step_s"] = cost.step_s
        ratios[f"{prefix}peak_bytes"] = cost.peak_bytes
    return ratios


def _measure(form: Form, points: Float[Tensor, "B N 3"], bfloat16: bool) -> StepCost:
    """Run one step and take its time and memory."""
    form.module.zero_grad(set_to_none=True)
    base_bytes = reset_peak()
    start_s = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        features = form.forward(points)
    forward_s = time.process_time() - start_s
    upstream = [torch.ones_like(part) for part in (features.local, features.pooled)]
    start_s = time.process_time()
    torch.autograd.backward((features.local, features.pooled), upstream)
    backward_s = time.process_time() - start_s
    return StepCost(
        forward_s=forward_s / len(points),
        step_s=(forward_s + backward_s) / len(points),
        peak_bytes=status_bytes("VmHWM") - base_bytes,
    )


def _median(costs: list[StepCost]) -> StepCost:
    """Take the median of each figure."""
    return StepCost(
        forward_s=statistics.median(cost.forward_s for cost in costs),
        step_s=statistics.median(cost.step_s for cost in costs),
        peak_bytes=int(statistics.median(cost.peak_bytes for cost in costs)),
    )


if __name__ == "__main__":
    main()
