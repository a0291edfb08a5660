"""`path_sum` on CUDA: from the root down; its gradient from the leaves up."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiercnn.ops._triton._tree import BLOCK, family, heights


@triton.jit
def _down(values, sums, inner, children, offsets, N, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    values += row * (N - 1)
    sums += row * N
    node, start, stop = family(inner, offsets)
    above = tl.load(sums + node)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        child = tl.load(children + place, mask=place < stop, other=1)
        tl.store(sums + child, above + tl.load(values + child - 1, mask=place < stop, other=0.0).to(above.dtype), mask=place < stop)


@triton.jit
def _up(below, inner, children, offsets, N, BLOCK: tl.constexpr):
    below += tl.program_id(0).to(tl.int64) * N
    node, start, stop = family(inner, offsets)
    total = tl.zeros([], below.dtype.element_ty)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        child = tl.load(children + place, mask=place < stop, other=1)
        total += tl.sum(tl.load(below + child, mask=place < stop, other=0.0), axis=0)
    tl.store(below + node, total)


def forward(values: Tensor, leaf_nodes, inner, children, offsets, counts) -> Tensor:
    """Sums [B, C]."""
    kind = torch.float64 if values.dtype == torch.float64 else torch.float32
    values = values.contiguous()
    sums = values.new_zeros(len(values), len(children) + 1, dtype=kind)
    for parents, edges in reversed(list(heights(inner, offsets, counts))) if len(values) else ():
        _down[(len(values), len(parents))](values, sums, parents, children, edges, sums.shape[1], BLOCK=BLOCK)
    return sums[:, leaf_nodes]


def backward(grad: Tensor, leaf_nodes, inner, children, offsets, counts) -> Tensor:
    """Gradient of the values [B, N − 1]."""
    below = grad.new_zeros(len(grad), len(children) + 1)
    below[:, leaf_nodes] = grad
    for parents, edges in heights(inner, offsets, counts) if len(grad) else ():
        _up[(len(grad), len(parents))](below, parents, children, edges, below.shape[1], BLOCK=BLOCK)
    return below[:, 1:].contiguous()
