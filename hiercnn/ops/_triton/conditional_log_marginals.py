"""`conditional_log_marginals` on CUDA: softmaxes over siblings from the root down, their gradients from the leaves up."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiercnn.ops._triton._tree import BLOCK, family, heights, siblings_log_sum_exp


@triton.jit
def _down(scores, values, inner, children, offsets, N, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    scores += row * (N - 1)
    values += row * N
    node, start, stop = family(inner, offsets)
    high, log_total = siblings_log_sum_exp(scores, children, start, stop, BLOCK)
    above = tl.load(values + node)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        child = tl.load(children + place, mask=place < stop, other=1)
        score = tl.load(scores + child - 1, mask=place < stop, other=0.0).to(high.dtype)
        tl.store(values + child, ((score - high) - log_total) + above, mask=place < stop)


@triton.jit
def _up(scores, below, out, inner, children, offsets, N, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    scores += row * (N - 1)
    out += row * (N - 1)
    below += row * N
    node, start, stop = family(inner, offsets)
    high, log_total = siblings_log_sum_exp(scores, children, start, stop, BLOCK)
    total = tl.zeros([], high.dtype)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        child = tl.load(children + place, mask=place < stop, other=1)
        total += tl.sum(tl.load(below + child, mask=place < stop, other=0.0), axis=0)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        child = tl.load(children + place, mask=place < stop, other=1)
        score = tl.load(scores + child - 1, mask=place < stop, other=-float("inf")).to(high.dtype)
        mine = tl.load(below + child, mask=place < stop, other=0.0)
        found = mine - tl.exp((score - high) - log_total) * total
        tl.store(out + child - 1, found.to(out.dtype.element_ty), mask=place < stop)
    tl.store(below + node, tl.load(below + node) + total)


def forward(scores: Tensor, inner, children, offsets, counts) -> Tensor:
    """Log-probabilities [B, N]."""
    kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
    scores = scores.contiguous()
    values = scores.new_zeros(len(scores), len(children) + 1, dtype=kind)
    for parents, edges in reversed(list(heights(inner, offsets, counts))) if len(scores) else ():
        _down[(len(scores), len(parents))](scores, values, parents, children, edges, values.shape[1], BLOCK=BLOCK)
    return values


def backward(grad: Tensor, scores: Tensor, inner, children, offsets, counts) -> Tensor:
    """Gradient of the scores [B, N − 1]."""
    below, scores = grad.clone(memory_format=torch.contiguous_format), scores.contiguous()
    out = torch.empty_like(scores)
    for parents, edges in heights(inner, offsets, counts) if len(grad) else ():
        _up[(len(grad), len(parents))](scores, below, out, parents, children, edges, grad.shape[1], BLOCK=BLOCK)
    return out
