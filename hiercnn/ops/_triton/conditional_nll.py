"""`conditional_nll` on CUDA: one program a row, which walks the path and reads the siblings of its nodes alone."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiercnn.ops._triton._math import expm1, softplus
from hiercnn.ops._triton._tree import BLOCK, joined


@triton.jit
def _forward_kernel(
    scores, target, place, children, offsets, paths, weight, loss, factors, N, L, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    scores += row * (N - 1)
    label = tl.load(target + row)
    kind = factors.dtype.element_ty
    value = tl.zeros([], tl.float64)
    for k in range(1, L):
        node = tl.load(paths + label * L + k)
        if node > 0:
            number = tl.load(place + tl.load(paths + label * L + k - 1))
            start, stop = tl.load(offsets + number), tl.load(offsets + number + 1)
            score = tl.load(scores + node - 1).to(tl.float64)
            high, total = tl.full([], -float("inf"), kind), tl.zeros([], kind)
            for first in range(start, stop, BLOCK):
                there = first + tl.arange(0, BLOCK)
                child = tl.load(children + there, mask=there < stop, other=1)
                others = (there < stop) & (child != node)
                high, total = joined(high, total, tl.load(scores + child - 1, mask=others, other=-float("inf")).to(kind))
            w = tl.load(weight + label * L + k).to(tl.float64)
            if w != 0:
                if high > -float("inf"):
                    nll = softplus(high.to(tl.float64) + tl.log(total.to(tl.float64)) - score)
                    nll = tl.where(score == float("inf"), float("nan"), nll)
                else:  # an only child, no number at all, or siblings that cannot be
                    nll = tl.where(total == 0, 0.0 * score, score + total)
                value += w * nll
                tl.store(factors + (row * L + k) * 3, (w * expm1(-nll)).to(kind))
                tl.store(
                    factors + (row * L + k) * 3 + 2,
                    (w * tl.exp(tl.where(high > -float("inf"), high.to(tl.float64), 0.0) - score - nll)).to(kind),
                )
            tl.store(factors + (row * L + k) * 3 + 1, high)
    tl.store(loss + row, value.to(kind))


@triton.jit
def _backward_kernel(
    grad, grad_stride, scores, target, place, children, offsets, paths, factors, out, N, L, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    scores += row * (N - 1)
    out += row * (N - 1)
    label = tl.load(target + row)
    kind = factors.dtype.element_ty
    upstream = tl.load(grad + row * grad_stride).to(kind)
    for k in range(1, L):
        node = tl.load(paths + label * L + k)
        if node > 0:
            number = tl.load(place + tl.load(paths + label * L + k - 1))
            start, stop = tl.load(offsets + number), tl.load(offsets + number + 1)
            high, factor = tl.load(factors + (row * L + k) * 3 + 1), tl.load(factors + (row * L + k) * 3 + 2) * upstream
            high = tl.where(high == -float("inf"), 0.0, high)
            mine = tl.load(factors + (row * L + k) * 3) * upstream
            for first in range(start, stop, BLOCK):
                there = first + tl.arange(0, BLOCK)
                child = tl.load(children + there, mask=there < stop, other=1)
                others = (there < stop) & (child != node)
                z = tl.load(scores + child - 1, mask=others, other=-float("inf")).to(kind)
                found = tl.where(child == node, mine, tl.exp(z - high) * factor)
                tl.store(out + child - 1, found.to(out.dtype.element_ty), mask=there < stop)


def _places(inner: Tensor, nodes: int) -> Tensor:
    """Number of each inner node in the order of `inner` [N]."""
    place = inner.new_zeros(nodes)
    place[inner] = torch.arange(len(inner), device=inner.device)
    return place


def forward(scores: Tensor, target, inner, children, offsets, paths, weight) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B], memory that is not used [B, N − 1] (a CPU keeps the gradient there), own, top and slope of each node [B, L, 3]."""
    kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
    scores, (rows, levels) = scores.contiguous(), (len(scores), paths.shape[1])
    loss, factors = scores.new_empty(rows, dtype=kind), scores.new_zeros(rows, levels, 3, dtype=kind)
    if rows:
        tables = (target, _places(inner, len(children) + 1), children, offsets, paths.contiguous(), weight.contiguous())
        _forward_kernel[(rows,)](scores, *tables, loss, factors, len(children) + 1, levels, BLOCK=BLOCK)
    return loss, torch.empty_like(scores, dtype=kind), factors


def backward(grad: Tensor, scores: Tensor, target, inner, children, offsets, paths, _, factors) -> Tensor:
    """Gradient of the scores [B, N − 1]."""
    out, scores = torch.zeros_like(scores, memory_format=torch.contiguous_format), scores.contiguous()
    if len(scores):
        tables = (target, _places(inner, len(children) + 1), children, offsets, paths.contiguous())
        sizes = (len(children) + 1, paths.shape[1])
        _backward_kernel[(len(scores),)](grad, grad.stride(0), scores, *tables, factors, out, *sizes, BLOCK=BLOCK)
    return out
