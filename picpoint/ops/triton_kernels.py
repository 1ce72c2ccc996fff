"""How are balls searched, edges reduced and farthest points chosen on CUDA? In Triton.

The same functions as the plain forms beside their callers. They are tested in Triton's interpreter
(TRITON_INTERPRET=1), which runs the programs below on a CPU, one after the other. Triton launches
on the current GPU, wherever its arguments lie; so theirs is made the current one.
"""

# Triton gives the arguments of a program their types; annotations would mislead.
# ruff: noqa: ANN001, ANN202
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportIndexIssue=false

from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_POINTS = 128  # looked at together in a ball search
_CHANNELS = 128  # reduced together


def search_balls(
    points: Tensor, centres: Tensor, squared_radius: float, k: int
) -> tuple[Tensor, Tensor]:
    """Give index (B, M, k) and number (B, M) of the first points in each ball; int64."""
    num_clouds, num_centres, _ = centres.shape
    index = torch.empty(num_clouds, num_centres, k, dtype=torch.int64, device=points.device)
    distinct = torch.empty(num_clouds, num_centres, dtype=torch.int64, device=points.device)
    with torch.cuda.device_of(points):
        _search_balls[(num_clouds * num_centres,)](
            points.contiguous(),
            centres.contiguous(),
            index,
            distinct,
            squared_radius,
            points.shape[1],
            num_centres,
            k,
            _POINTS,
        )
    return index, distinct


@triton.jit
def _search_balls(
    points,
    centres,
    index,
    distinct,
    squared_radius,
    num_points,
    num_centres,
    k,
    block: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    cloud = program // num_centres
    x = tl.load(centres + program * 3)
    y = tl.load(centres + program * 3 + 1)
    z = tl.load(centres + program * 3 + 2)
    found = 0
    first = num_points
    for start in range(0, num_points, block):
        rows = start + tl.arange(0, block)
        there = rows < num_points
        place = points + (cloud * num_points + rows) * 3
        dx = tl.load(place, mask=there, other=0.0) - x
        dy = tl.load(place + 1, mask=there, other=0.0) - y
        dz = tl.load(place + 2, mask=there, other=0.0) - z
        inside = there & (dx * dx + dy * dy + dz * dz < squared_radius)
        slot = found + tl.cumsum(inside.to(tl.int32), axis=0) - 1
        tl.store(index + program * k + slot, rows.to(tl.int64), mask=inside & (slot < k))
        first = tl.minimum(first, tl.min(tl.where(inside, rows, num_points), axis=0))
        found += tl.sum(inside.to(tl.int32), axis=0)
    first = tl.where(first < num_points, first, 0)
    found = tl.maximum(tl.minimum(found, k), 1)
    for start in range(0, k, block):
        slot = start + tl.arange(0, block)
        # The first slot is written again, for a ball that holds no point.
        filled = (slot < k) & ((slot >= found) | (slot == 0))
        tl.store(index + program * k + slot, slot.to(tl.int64) * 0 + first, mask=filled)
    tl.store(distinct + program, found.to(tl.int64))


def order_farthest(points: Tensor, count: int, start: Tensor) -> Tensor:
    """Give the rows (B, count) of farthest points, from the rows `start` (B); int64."""
    num_clouds, num_points, _ = points.shape
    order = torch.empty(num_clouds, count, dtype=torch.int64, device=points.device)
    block = triton.next_power_of_2(num_points)
    with torch.cuda.device_of(points):
        _order_farthest[(num_clouds,)](points.contiguous(), start, order, num_points, count, block)
    return order


@triton.jit
def _order_farthest(points, start, order, num_points, count, block: tl.constexpr):
    cloud = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, block)
    there = rows < num_points
    place = points + (cloud * num_points + rows) * 3
    x = tl.load(place, mask=there, other=0.0)
    y = tl.load(place + 1, mask=there, other=0.0)
    z = tl.load(place + 2, mask=there, other=0.0)
    distance = tl.where(there, float("inf"), -2.0)
    chosen = tl.load(start + cloud).to(tl.int32)
    for step in range(count):
        tl.store(order + cloud * count + step, chosen.to(tl.int64))
        here = rows == chosen
        dx = x - tl.sum(tl.where(here, x, 0.0), axis=0)
        dy = y - tl.sum(tl.where(here, y, 0.0), axis=0)
        dz = z - tl.sum(tl.where(here, z, 0.0), axis=0)
        distance = tl.minimum(distance, dx * dx + dy * dy + dz * dz)
        distance = tl.where(there, tl.where(here, -1.0, distance), -2.0)
        chosen = tl.argmax(distance, axis=0).to(tl.int32)


def reduce_edges(
    near: Tensor, own: Tensor, index: Tensor, distinct: Tensor, sign: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give extreme (B, M, C), and total and squares (B, C) float64, of the edges near_j + own_i.

    An empty `sign` asks for no extreme.
    """
    return cast(tuple[Tensor, Tensor, Tensor], _Edges.apply(near, own, index, distinct, sign))


class _Edges(torch.autograd.Function):
    """The programs as a torch function."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        near: Tensor,
        own: Tensor,
        index: Tensor,
        distinct: Tensor,
        sign: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        near, own, index, distinct = (x.contiguous() for x in (near, own, index, distinct))
        num_clouds, num_centres, width = own.shape
        wanted = len(sign) > 0
        extreme = near.new_empty(own.shape if wanted else (num_clouds, num_centres, 0))
        slot = torch.empty(extreme.shape, dtype=torch.uint8, device=near.device)
        sums = torch.zeros(2, num_clouds, width, dtype=torch.float64, device=near.device)
        grid = (num_clouds * num_centres, triton.cdiv(width, _CHANNELS))
        with torch.cuda.device_of(near):
            _reduce_edges[grid](
                near,
                own,
                index,
                distinct,
                sign,
                extreme,
                slot,
                sums[0],
                sums[1],
                near.shape[1],
                num_centres,
                index.shape[-1],
                width,
                wanted,
                _CHANNELS,
            )
        ctx.save_for_backward(near, own, index, distinct, slot)
        ctx.set_materialize_grads(False)
        return extreme, sums[0], sums[1]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad_extreme: Tensor | None,
        grad_total: Tensor | None,
        grad_squares: Tensor | None,
    ) -> tuple[Tensor, Tensor, None, None, None]:
        near, own, index, distinct, slot = ctx.saved_tensors
        by_total, by_squares = (
            near.new_zeros(len(near), near.shape[-1]) if grad is None else grad.to(near)
            for grad in (grad_total, grad_squares)
        )
        wanted = grad_extreme is not None and slot.shape[-1] > 0
        given = grad_extreme.contiguous() if grad_extreme is not None else near.new_empty(0)
        grad_near, grad_own = torch.zeros_like(near), torch.empty_like(own)
        num_clouds, num_centres, width = own.shape
        grid = (num_clouds * num_centres, triton.cdiv(width, _CHANNELS))
        with torch.cuda.device_of(near):
            _spread_edges[grid](
                near,
                own,
                index,
                distinct,
                slot,
                given,
                by_total.contiguous(),
                by_squares.contiguous(),
                grad_near,
                grad_own,
                near.shape[1],
                num_centres,
                index.shape[-1],
                width,
                wanted,
                _CHANNELS,
            )
        return grad_near, grad_own, None, None, None


@triton.jit
def _reduce_edges(
    near,
    own,
    index,
    distinct,
    sign,
    extreme,
    slot,
    total,
    squares,
    num_points,
    num_centres,
    k,
    width,
    wanted: tl.constexpr,
    block: tl.constexpr,
):
    centre = tl.program_id(0).to(tl.int64)
    cloud = centre // num_centres
    channel = tl.program_id(1) * block + tl.arange(0, block)
    there = channel < width
    own_row = tl.load(own + centre * width + channel, mask=there, other=0.0)
    count = tl.load(distinct + centre).to(tl.int32)
    best = own_row * 0 + float("-inf")
    best_slot = channel * 0
    summed = own_row.to(tl.float64) * 0
    squared = own_row.to(tl.float64) * 0
    if wanted:
        direction = tl.load(sign + channel, mask=there, other=1.0)
    for j in range(count):
        row = cloud * num_points + tl.load(index + centre * k + j)
        edge = tl.load(near + row * width + channel, mask=there, other=0.0) + own_row
        times = tl.where(j == 0, k + 1 - count, 1)
        wide = edge.to(tl.float64)
        summed += times * wide
        squared += times * wide * wide
        if wanted:
            signed = edge * direction
            better = (signed > best) | (signed != signed)
            best = tl.where(better, signed, best)
            best_slot = tl.where(better, j, best_slot)
    if wanted:
        tl.store(extreme + centre * width + channel, best * direction, mask=there)
        tl.store(slot + centre * width + channel, best_slot.to(tl.uint8), mask=there)
    tl.atomic_add(total + cloud * width + channel, summed, mask=there)
    tl.atomic_add(squares + cloud * width + channel, squared, mask=there)


@triton.jit
def _spread_edges(
    near,
    own,
    index,
    distinct,
    slot,
    given,
    by_total,
    by_squares,
    grad_near,
    grad_own,
    num_points,
    num_centres,
    k,
    width,
    wanted: tl.constexpr,
    block: tl.constexpr,
):
    centre = tl.program_id(0).to(tl.int64)
    cloud = centre // num_centres
    channel = tl.program_id(1) * block + tl.arange(0, block)
    there = channel < width
    own_row = tl.load(own + centre * width + channel, mask=there, other=0.0)
    constant = tl.load(by_total + cloud * width + channel, mask=there, other=0.0)
    twice = 2 * tl.load(by_squares + cloud * width + channel, mask=there, other=0.0)
    count = tl.load(distinct + centre).to(tl.int32)
    summed = own_row * 0
    if wanted:
        grad_best = tl.load(given + centre * width + channel, mask=there, other=0.0)
        best_slot = tl.load(slot + centre * width + channel, mask=there, other=0).to(tl.int32)
    for j in range(count):
        row = cloud * num_points + tl.load(index + centre * k + j)
        edge = tl.load(near + row * width + channel, mask=there, other=0.0) + own_row
        times = tl.where(j == 0, k + 1 - count, 1)
        grad = times * (constant + twice * edge)
        if wanted:
            grad += tl.where(best_slot == j, grad_best, 0.0)
        tl.atomic_add(grad_near + row * width + channel, grad, mask=there)
        summed += grad
    tl.store(grad_own + centre * width + channel, summed, mask=there)
