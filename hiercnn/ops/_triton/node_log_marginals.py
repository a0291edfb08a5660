"""`node_log_marginals` on CUDA. V_v is kept as the largest score below v and the small rest, which loses no digits."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiercnn.ops._triton._tree import BLOCK, family, heights


@triton.jit
def _up(top, rest, inner, children, offsets, N, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * N
    node, start, stop = family(inner, offsets)
    high = tl.full([], -float("inf"), top.dtype.element_ty)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        child = tl.load(children + place, mask=place < stop, other=0)
        high = tl.maximum(high, tl.max(tl.load(top + row + child, mask=place < stop, other=-float("inf")), axis=0))
    known = tl.where(high == -float("inf"), 0.0, high)
    total = tl.zeros([], top.dtype.element_ty)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        child = tl.load(children + place, mask=place < stop, other=0)
        score = tl.load(top + row + child, mask=place < stop, other=-float("inf"))
        total += tl.sum(tl.exp((score - known) + tl.load(rest + row + child, mask=place < stop, other=0.0)), axis=0)
    tl.store(top + row + node, high)
    tl.store(rest + row + node, tl.log(total))


@triton.jit
def _down(grad, top, rest, inner, children, offsets, N, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * N
    node, start, stop = family(inner, offsets)
    above, high, log_total = tl.load(grad + row + node), tl.load(top + row + node), tl.load(rest + row + node)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        child = tl.load(children + place, mask=place < stop, other=0)
        score = tl.load(top + row + child, mask=place < stop, other=-float("inf"))
        inside = tl.load(rest + row + child, mask=place < stop, other=0.0)
        mine = tl.load(grad + row + child, mask=place < stop, other=0.0)
        share = tl.where(score == -float("inf"), 0.0, tl.exp((score - high) + (inside - log_total)))
        tl.store(grad + row + child, mine + above * share, mask=place < stop)


def _log_sums(logits: Tensor, leaf_nodes, inner, children, offsets, counts) -> tuple[Tensor, Tensor]:
    rows, nodes = len(logits), len(children) + 1
    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    top, rest = logits.new_zeros(rows, nodes, dtype=kind), logits.new_zeros(rows, nodes, dtype=kind)
    top[:, leaf_nodes] = logits.to(kind)
    for parents, edges in heights(inner, offsets, counts) if rows else ():
        _up[(rows, len(parents))](top, rest, parents, children, edges, nodes, BLOCK=BLOCK)
    return top, rest


def forward(logits: Tensor, leaf_nodes, inner, children, offsets, counts) -> Tensor:
    """Log-probabilities [B, N]."""
    top, rest = _log_sums(logits, leaf_nodes, inner, children, offsets, counts)
    return (top - top[:, :1]) + (rest - rest[:, :1])


def backward(grad: Tensor, logits: Tensor, leaf_nodes, inner, children, offsets, counts) -> Tensor:
    """Gradient of the logits [B, C]."""
    top, rest = _log_sums(logits, leaf_nodes, inner, children, offsets, counts)
    grad = grad.clone(memory_format=torch.contiguous_format)
    grad[:, 0] -= grad.sum(1)
    for parents, edges in reversed(list(heights(inner, offsets, counts))) if len(grad) else ():
        _down[(len(grad), len(parents))](grad, top, rest, parents, children, edges, grad.shape[1], BLOCK=BLOCK)
    return grad[:, leaf_nodes].to(logits.dtype)
