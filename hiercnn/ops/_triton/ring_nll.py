"""`ring_nll` on CUDA: one program a row, which walks the leaves in the order of their ranks, a block at a time.

Of the nodes on a label's path few begin or end inside a given block, so most blocks lie in one ring and cost what cross-entropy costs;
the others find each leaf's ring by counting the ranges that hold it. Scores are read once forward and once backward.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiercnn.ops._triton._math import expm1, softplus


@triton.jit
def _path(target, starts, stops, row, L, LP: tl.constexpr):
    """Ranges of the nodes on the path of a row's label [LP]; behind the path's end they are empty."""
    label = tl.load(target + row)
    k = tl.arange(0, LP)
    lower = tl.load(starts + label * L + k, mask=k < L, other=0)
    upper = tl.load(stops + label * L + k, mask=k < L, other=0)
    return label, k, lower, upper


@triton.jit
def _edges_inside(lower, upper, first, last):
    """How many ranges begin or end inside (first, last)."""
    begins = (lower > first) & (lower < last) & (lower < upper)
    ends = (upper > first) & (upper < last) & (lower < upper)
    return tl.sum(begins.to(tl.int32) + ends.to(tl.int32))


@triton.jit
def _ring_of(lower, upper, rank):
    """Ring of each leaf rank [BLOCK]; −1 behind the last leaf."""
    holds = (lower[:, None] <= rank[None, :]) & (rank[None, :] < upper[:, None])
    return tl.sum(holds.to(tl.int32), axis=0) - 1


@triton.jit
def _log_sum_exp(top, total, keep):
    """log Σ over the kept rings of exp(top) total, for each row of keep [LP, LP]; −inf where nothing is kept."""
    kept = tl.where(keep, top[None, :], -float("inf"))
    high = tl.max(kept, axis=1)
    safe = tl.where(high == -float("inf"), 0.0, high)
    parts = tl.where(keep & (total[None, :] != 0), total[None, :] * tl.exp(top[None, :] - safe[:, None]), 0.0)
    return safe + tl.log(tl.sum(parts, axis=1))


@triton.jit
def _forward_kernel(
    logits, row_stride, target, order, starts, stops, weight, soft, loss, tops, slopes,
    C, L, LP: tl.constexpr, BLOCK: tl.constexpr, SOFT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label, k, lower, upper = _path(target, starts, stops, row, L, LP)
    kind = tops.dtype.element_ty
    top = tl.full([LP], -float("inf"), kind)  # of each ring: largest score,
    total = tl.zeros([LP], kind)  # Σ exp(score − top),
    plain = tl.zeros([LP], kind)  # Σ score − base, for soft labels
    base = tl.load(logits + row * row_stride).to(kind)
    for first in range(0, C, BLOCK):
        rank = first + tl.arange(0, BLOCK)
        inside = rank < C
        z = tl.load(logits + row * row_stride + tl.load(order + rank, mask=inside, other=0), mask=inside, other=-float("inf")).to(kind)
        if _edges_inside(lower, upper, first, tl.minimum(first + BLOCK, C)) == 0:
            here = k == tl.sum(((lower <= first) & (first < upper)).to(tl.int32)) - 1  # [LP], one ring
            high = tl.max(z, axis=0)
            safe = tl.where(high == -float("inf"), 0.0, high)
            sums = tl.where(here, tl.sum(tl.exp(z - safe), axis=0), 0.0)
            highs = tl.where(here, high, -float("inf"))
            if SOFT:
                plain += tl.where(here, tl.sum(tl.where(inside, z - base, 0.0), axis=0), 0.0)
        else:
            mine = _ring_of(lower, upper, rank)[None, :] == k[:, None]  # [LP, BLOCK]
            highs = tl.max(tl.where(mine, z[None, :], -float("inf")), axis=1)
            safes = tl.where(highs == -float("inf"), 0.0, highs)
            shift = tl.sum(tl.where(mine, safes[:, None], 0.0), axis=0)
            sums = tl.sum(tl.where(mine, tl.exp(z - shift)[None, :], 0.0), axis=1)
            if SOFT:
                plain += tl.sum(tl.where(mine, (z - base)[None, :], 0.0), axis=1)
        new = tl.maximum(top, highs)
        known = tl.where(new == -float("inf"), 0.0, new)
        total = total * tl.exp(top - known) + sums * tl.exp(tl.where(highs == -float("inf"), 0.0, highs) - known)
        top = new

    # What is left is as small as the path is long: float64, so that differences of scores keep their digits.
    on_path = (k >= 1) & (k < L)
    w = tl.where(on_path, tl.load(weight + label * L + k, mask=k < L, other=0.0), 0.0).to(tl.float64)
    highest = tl.max(top, axis=0)
    t, s = (top - highest).to(tl.float64), total.to(tl.float64)
    within = _log_sum_exp(t, s, (k[None, :] >= k[:, None]) & (k[None, :] < L))  # in_k
    beyond = _log_sum_exp(t, s, (k[None, :] < k[:, None]) & (k[None, :] < L))  # out_k
    gap = beyond - within
    nll = tl.where(w != 0, softplus(gap), 0.0)
    value = tl.sum(w * nll, axis=0)
    all_leaves = tl.sum(tl.where(k == 0, within, 0.0), axis=0)  # in_0
    soft_total = 0.0
    if SOFT:
        shares = tl.where(k < L, tl.load(soft + label * L + k, mask=k < L, other=0.0), 0.0).to(tl.float64)
        below = (upper - lower).to(tl.float64)
        next_below = tl.sum(tl.where(k[None, :] == k[:, None] + 1, below[None, :], 0.0), axis=1)
        sizes = below - next_below
        soft_total = tl.sum(shares * sizes, axis=0)
        distances = sizes * (all_leaves + (highest - base).to(tl.float64)) - plain.to(tl.float64)
        value += tl.sum(tl.where(shares != 0, shares * distances, 0.0), axis=0)
    after = tl.sum(tl.where(k[None, :] > k[:, None], w[None, :], 0.0), axis=1)  # Σ_{k > r} w_k
    held = (k[None, :] <= k[:, None]) & (w[None, :] != 0)
    share = tl.where(held, tl.exp(tl.where(held, t[:, None] - within[None, :], 0.0)), 0.0)  # exp(top_r − in_k), at most 1
    slope = tl.exp(t - all_leaves) * (soft_total + after) + tl.sum(share * (w * expm1(-nll))[None, :], axis=1)
    tl.store(loss + row, value.to(kind))
    tl.store(tops + row * L + k, top, mask=k < L)
    tl.store(slopes + row * L + k, slope.to(kind), mask=k < L)


@triton.jit
def _backward_kernel(
    grad, grad_stride, logits, row_stride, target, order, starts, stops, soft, tops, slopes, out,
    C, L, LP: tl.constexpr, BLOCK: tl.constexpr, SOFT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    label, k, lower, upper = _path(target, starts, stops, row, L, LP)
    kind = tops.dtype.element_ty
    upstream = tl.load(grad + row * grad_stride).to(kind)
    top = tl.load(tops + row * L + k, mask=k < L, other=0.0)
    top = tl.where(top == -float("inf"), 0.0, top)
    slope = tl.load(slopes + row * L + k, mask=k < L, other=0.0) * upstream
    minus = tl.zeros([LP], kind)
    if SOFT:
        minus = tl.load(soft + label * L + k, mask=k < L, other=0.0).to(kind) * upstream
    rank = first + tl.arange(0, BLOCK)
    inside = rank < C
    column = tl.load(order + rank, mask=inside, other=0)
    z = tl.load(logits + row * row_stride + column, mask=inside, other=-float("inf")).to(kind)
    if _edges_inside(lower, upper, first, tl.minimum(first + BLOCK, C)) == 0:
        here = k == tl.sum(((lower <= first) & (first < upper)).to(tl.int32)) - 1
        found = tl.exp(z - tl.sum(tl.where(here, top, 0.0), axis=0)) * tl.sum(tl.where(here, slope, 0.0), axis=0)
        if SOFT:
            found -= tl.sum(tl.where(here, minus, 0.0), axis=0)
    else:
        mine = _ring_of(lower, upper, rank)[None, :] == k[:, None]
        found = tl.exp(z - tl.sum(tl.where(mine, top[:, None], 0.0), axis=0)) * tl.sum(tl.where(mine, slope[:, None], 0.0), axis=0)
        if SOFT:
            found -= tl.sum(tl.where(mine, minus[:, None], 0.0), axis=0)
    tl.store(out + row * C + column, found.to(out.dtype.element_ty), mask=inside)


def forward(logits: Tensor, target, order, starts, stops, weight, soft) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss [B], memory that is not used [B, C] (a CPU keeps the gradient there), top and slope of each ring [B, L]."""
    (rows, classes), levels = logits.shape, starts.shape[1]
    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    loss = logits.new_empty(rows, dtype=kind)
    tops, slopes = (logits.new_empty(rows, levels, dtype=kind) for _ in range(2))
    if rows:
        sizes = {"C": classes, "L": levels, "LP": triton.next_power_of_2(levels), "BLOCK": _block(classes), "SOFT": soft is not None}
        tables = (table.contiguous() for table in (target, order, starts, stops, weight))
        _forward_kernel[(rows,)](
            logits, logits.stride(0), *tables, weight if soft is None else soft.contiguous(), loss, tops, slopes, **sizes, num_warps=8
        )  # fmt: skip
    return loss, torch.empty_like(logits, dtype=kind), tops, slopes


def backward(grad: Tensor, logits: Tensor, target, order, starts, stops, soft, _, top, slope) -> Tensor:
    """Gradient of the logits [B, C]."""
    (rows, classes), levels = logits.shape, starts.shape[1]
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    block = _block(classes)
    if rows:
        sizes = {"C": classes, "L": levels, "LP": triton.next_power_of_2(levels), "BLOCK": block, "SOFT": soft is not None}
        tables = (table.contiguous() for table in (target, order, starts, stops))
        _backward_kernel[(rows, triton.cdiv(classes, block))](
            grad, grad.stride(0), logits, logits.stride(0), *tables, top if soft is None else soft.contiguous(), top, slope, out, **sizes
        )
    return out


def _block(classes: int) -> int:
    return min(1024, max(16, triton.next_power_of_2(classes)))
