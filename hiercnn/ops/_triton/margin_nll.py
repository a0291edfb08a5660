"""`margin_nll` on CUDA: one program a row; a node is right if it is on the label's path."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiercnn.ops._triton._math import expm1, softplus
from hiercnn.ops._triton._tree import joined


@triton.jit
def _shifted(scores, row_stride, row, path, node, column, inside, margin, kind: tl.constexpr):
    """Scores + margin where they are wrong [BLOCK]; −inf at the label itself and outside."""
    z = tl.load(scores + row * row_stride + column, mask=inside & (column + 1 != node), other=-float("inf")).to(kind)
    right = tl.max((path[:, None] == column[None, :] + 1).to(tl.int32), axis=0) > 0
    return tl.where(right, z, z + margin)


@triton.jit
def _forward_kernel(
    scores, row_stride, target, paths, margin, loss, factors, M, L, LP: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, LP)
    path = tl.load(paths + tl.load(target + row) * L + k, mask=k < L, other=-1)
    node = tl.max(path, axis=0)
    kind = factors.dtype.element_ty
    high, total = tl.full([], -float("inf"), kind), tl.zeros([], kind)
    for first in range(0, M, BLOCK):
        column = first + tl.arange(0, BLOCK)
        high, total = joined(high, total, _shifted(scores, row_stride, row, path, node, column, column < M, margin, kind))
    high = tl.where(high == -float("inf"), 0.0, high)
    known = node > 0
    score = tl.load(scores + row * row_stride + node - 1, mask=known, other=0.0).to(tl.float64)
    value = softplus(
        tl.where(total == 0.0, -float("inf"), high.to(tl.float64) + tl.log(tl.where(total == 0.0, 1.0, total.to(tl.float64)))) - score
    )
    value = tl.where(known, tl.where(score == float("inf"), float("nan"), value), 0.0)
    tl.store(loss + row, value.to(kind))
    tl.store(factors + row * 3, expm1(-value).to(kind))
    tl.store(factors + row * 3 + 1, high)
    tl.store(factors + row * 3 + 2, tl.where(known, tl.exp(high.to(tl.float64) - score - value), 0.0).to(kind))


@triton.jit
def _backward_kernel(
    grad, grad_stride, scores, row_stride, target, paths, margin, factors, out, M, L, LP: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, LP)
    path = tl.load(paths + tl.load(target + row) * L + k, mask=k < L, other=-1)
    node = tl.max(path, axis=0)
    kind = factors.dtype.element_ty
    upstream = tl.load(grad + row * grad_stride).to(kind)
    own, high, slope = tl.load(factors + row * 3), tl.load(factors + row * 3 + 1), tl.load(factors + row * 3 + 2)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    z = _shifted(scores, row_stride, row, path, node, column, column < M, margin, kind)
    found = tl.where(column + 1 == node, own, tl.exp(z - high) * slope) * upstream
    tl.store(out + row * M + column, found.to(out.dtype.element_ty), mask=column < M)


def forward(scores: Tensor, target, paths, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B], memory that is not used [B, N − 1] (a CPU keeps the gradient there), own, top and slope [B, 3]."""
    (rows, columns), levels = scores.shape, paths.shape[1]
    kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    loss, factors = scores.new_empty(rows, dtype=kind), scores.new_empty(rows, 3, dtype=kind)
    if rows:
        sizes = {"M": columns, "L": levels, "LP": triton.next_power_of_2(levels), "BLOCK": _block(columns)}
        _forward_kernel[(rows,)](scores, scores.stride(0), target, paths.contiguous(), margin, loss, factors, **sizes)
    return loss, torch.empty_like(scores, dtype=kind), factors


def backward(grad: Tensor, scores: Tensor, target, paths, margin: float, _, factors: Tensor) -> Tensor:
    """Gradient of the scores [B, N − 1]."""
    (rows, columns), levels = scores.shape, paths.shape[1]
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    out = torch.empty_like(scores, memory_format=torch.contiguous_format)
    if rows and columns:
        sizes = {"M": columns, "L": levels, "LP": triton.next_power_of_2(levels), "BLOCK": _block(columns)}
        grid = (rows, triton.cdiv(columns, sizes["BLOCK"]))
        _backward_kernel[grid](grad, grad.stride(0), scores, scores.stride(0), target, paths.contiguous(), margin, factors, out, **sizes)
    return out


def _block(columns: int) -> int:
    return min(512, max(16, triton.next_power_of_2(columns)))
