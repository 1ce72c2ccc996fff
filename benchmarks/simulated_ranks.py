"""How would a step go on many GPUs? Arithmetic on a measured step, message sizes and bandwidths.

Not a measurement, and every number that is assumed stands in `Fabric`. The model, per step:

    compute     as measured on one rank, whose share of the global batch stays the same
    contrast    global InfoNCE of a rank's rows against all rows: grows with the number of ranks
    gradients   a ring all-reduce: 2 (R - 1) hops, each 1 / R of the bytes through the slowest link
    rows        an all-gather of pooled embeddings and its reduce-scatter backward: (R - 1) / R each
    statistics  an all-reduce of the BatchNorm sums

Nothing is overlapped, no rank is slower than another, and data come in time: the first makes the
figures worse than a real step, the others better.
"""

from dataclasses import asdict, dataclass

from benchmarks.record import Json


@dataclass(frozen=True, slots=True)
class Fabric:
    """What is assumed of the machines.

    Attributes:
        gpus_per_node: ranks that reach each other over the fast link.
        within_node_bytes_per_s: of a GPU to others of its node (NVLink 4: 450e9 each way).
        between_nodes_bytes_per_s: of a GPU to other nodes (a 400 Gb/s adapter each: 50e9).
        hop_s: latency of one message between nodes.
        matmul_flops_per_s: that the similarity matrix is computed at, on a GPU.
        speedup: of a GPU over the measured step; None to take the measured step as it is.
    """

    gpus_per_node: int = 8
    within_node_bytes_per_s: float = 450e9
    between_nodes_bytes_per_s: float = 50e9
    hop_s: float = 10e-6
    matmul_flops_per_s: float = 100e12
    speedup: float | None = None


@dataclass(frozen=True, slots=True)
class RankStep:
    """One rank's step, as measured.

    Attributes:
        compute_s: all but communication.
        shapes: that a rank has.
        views: pictures of a shape.
        latent_width: of an embedding.
        gradient_bytes: of all trainable parameters.
        statistics_bytes: of the BatchNorm sums.
    """

    compute_s: float
    shapes: int
    views: int
    latent_width: int
    gradient_bytes: int
    statistics_bytes: int

    @property
    def row_bytes(self) -> int:
        """Of what a rank gathers from another: float32 embeddings of shapes and pictures."""
        return 4 * self.shapes * (1 + self.views) * self.latent_width


def simulate(step: RankStep, fabric: Fabric, num_ranks: int) -> dict[str, Json]:
    """Give the parts of a step in seconds, its efficiency against one rank, and the throughput."""
    compute_s = step.compute_s / (fabric.speedup or 1.0)
    contrast_s = _contrast_s(step, fabric, num_ranks)
    parts = {
        "compute_s": compute_s,
        "contrast_s": contrast_s,
        "gradients_s": all_reduce_s(step.gradient_bytes, fabric, num_ranks),
        # An all-gather and a reduce-scatter are the halves of an all-reduce of all rows.
        "rows_s": all_reduce_s(num_ranks * step.row_bytes, fabric, num_ranks),
        "statistics_s": all_reduce_s(step.statistics_bytes, fabric, num_ranks),
    }
    step_s = sum(parts.values())
    alone_s = compute_s + _contrast_s(step, fabric, 1)
    return {
        "ranks": num_ranks,
        "global_batch": num_ranks * step.shapes,
        **parts,
        "step_s": step_s,
        "efficiency": alone_s / step_s,
        "samples_per_s": num_ranks * step.shapes / step_s,
    }


def all_reduce_s(num_bytes: int, fabric: Fabric, num_ranks: int) -> float:
    """Give the time of a ring all-reduce; the slowest link of the ring sets its pace."""
    if num_ranks == 1:
        return 0.0
    within = num_ranks <= fabric.gpus_per_node
    bandwidth = fabric.within_node_bytes_per_s if within else fabric.between_nodes_bytes_per_s
    num_hops = 2 * (num_ranks - 1)
    return num_hops / num_ranks * num_bytes / bandwidth + num_hops * fabric.hop_s


def _contrast_s(step: RankStep, fabric: Fabric, num_ranks: int) -> float:
    """Products of a rank's rows with all rows, in both directions, forward and twice backward."""
    rows, all_rows = step.shapes, num_ranks * step.shapes * step.views
    flops = 2 * 3 * 2 * rows * all_rows * step.latent_width
    return flops / fabric.matmul_flops_per_s


def table(
    step: RankStep, fabric: Fabric, ranks: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
) -> dict[str, Json]:
    """Give the simulated steps beside all that they rest on."""
    return {
        "is": "simulated, weak scaling: a rank's share stays, the global batch grows",
        "not_modelled": "overlap, stragglers, data, restarts",
        "assumed": asdict(fabric),
        "measured": asdict(step) | {"row_bytes": step.row_bytes},
        "steps": [simulate(step, fabric, number) for number in ranks],
    }
