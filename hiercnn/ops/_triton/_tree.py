"""Families on CUDA: one program for each row and inner node, one launch for each height, so that children are ready before parents."""

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64  # children at once


@triton.jit
def family(inner, offsets):
    """Node, and first and last place among the children, of this program's family."""
    number = tl.program_id(1)
    return tl.load(inner + number), tl.load(offsets + number), tl.load(offsets + number + 1)


@triton.jit
def joined(high, total, z):
    """exp(high) total + Σ exp(z) in the same form; −inf is no score."""
    block_high = tl.max(z, axis=0)
    new = tl.maximum(high, block_high)
    known = tl.where(new == -float("inf"), 0.0, new)
    return new, total * tl.exp(high - known) + tl.sum(tl.exp(z - known), axis=0)


@triton.jit
def siblings_log_sum_exp(scores, children, start, stop, BLOCK: tl.constexpr):
    """Largest score of a family's children and log Σ exp(score − largest); `scores` is one row, without the root."""
    kind = tl.float64 if scores.dtype.element_ty == tl.float64 else tl.float32
    high = tl.full([], -float("inf"), kind)
    total = tl.zeros([], kind)
    for first in range(start, stop, BLOCK):
        place = first + tl.arange(0, BLOCK)
        child = tl.load(children + place, mask=place < stop, other=1)
        high, total = joined(high, total, tl.load(scores + child - 1, mask=place < stop, other=-float("inf")).to(kind))
    return tl.where(high == -float("inf"), 0.0, high), tl.log(total)


def heights(inner: Tensor, offsets: Tensor, counts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inner nodes and offsets of each height, from the leaves up."""
    first = 0
    for count in counts:
        yield inner[first : first + count], offsets[first : first + count + 1]
        first += count
