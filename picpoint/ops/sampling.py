"""Which points of each cloud stand for it best? Those farthest from one another, in that order."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from picpoint.ops.backend import backend_of
from picpoint.ops.farthest import farthest_order


@torch.no_grad()
def farthest_points(points: Float[Tensor, "B N 3"], count: int) -> Int64[Tensor, "B count"]:
    """Choose `count` points of each cloud, each the farthest from all before it.

    The first is the farthest from the cloud's mean, so the choice does not depend on the order in
    which the points come (but for points that are equally far). Computed in float32.

    Raises:
        ValueError: the clouds have fewer points.
    """
    if not 1 <= count <= points.shape[1]:
        raise ValueError(
            f"{count} of {points.shape[1]} points: ask for 1 to as many as a cloud has"
        )
    points = points.detach().float()
    from_mean = (points - points.mean(dim=1, keepdim=True)).square().sum(dim=-1)
    start = from_mean.argmax(dim=1)
    match backend_of(points):
        case "numba":
            orders = [
                torch.from_numpy(farthest_order(cloud.numpy(), count, first))
                for cloud, first in zip(points.contiguous(), start.tolist(), strict=True)
            ]
            return torch.stack(orders)
        case "triton":
            from picpoint.ops.triton_kernels import order_farthest

            return order_farthest(points, count, start)
        case "plain":
            return farthest_points_plain(points, count, start)


def farthest_points_plain(
    points: Float[Tensor, "B N 3"], count: int, start: Int64[Tensor, " B"]
) -> Int64[Tensor, "B count"]:
    """Do what `farthest_points` does in plain torch, from a given first point."""
    cloud = torch.arange(len(points), device=points.device)
    order = points.new_zeros(len(points), count, dtype=torch.int64)
    distance = points.new_full(points.shape[:2], torch.inf)
    chosen = start
    for step in range(count):
        order[:, step] = chosen
        squared = (points - points[cloud, chosen][:, None]).square().sum(dim=-1)
        distance = torch.minimum(distance, squared)
        distance[cloud, chosen] = -1
        chosen = distance.argmax(dim=1)
    return order


def take_rows(rows: Float[Tensor, "B N C"], index: Int64[Tensor, "B M"]) -> Float[Tensor, "B M C"]:
    """Take rows of each cloud."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
