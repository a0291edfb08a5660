"""`merge_clusters` on CUDA: one program for each row that is alive updates it in place and finds its nearest cluster, in one pass.

A program writes the columns of clusters that are alive, each of which it alone reads, and reads those of partners, which nobody writes; so
it needs no copy of the table.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
METHODS = {"single": 0, "complete": 1, "average": 2, "ward": 3}


@triton.jit
def _merged(ak, bk, ab, a, b, k, METHOD: tl.constexpr):
    """Distance of a + b to k."""
    if METHOD == 0:
        return tl.minimum(ak, bk)
    if METHOD == 1:
        return tl.maximum(ak, bk)
    if METHOD == 2:
        return (a * ak + b * bk) / (a + b)
    return ((a + k) * ak + (b + k) * bk - k * ab) / (a + b + k)


@triton.jit
def _merge_kernel(table, rows, partner, heights, sizes, alive, nearest, distance, K, METHOD: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.load(rows + tl.program_id(0))
    second = tl.load(partner + i)
    second = tl.where(second >= 0, second, i)
    size, second_size, height = tl.load(sizes + i), tl.load(sizes + second), tl.load(heights + i)
    best = tl.full([BLOCK], float("inf"), table.dtype.element_ty)
    where = tl.full([BLOCK], 0, tl.int64)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK).to(tl.int64)
        live = tl.load(alive + k, mask=k < K, other=0) != 0
        k_second = tl.load(partner + k, mask=live, other=-1)
        k_second = tl.where(k_second >= 0, k_second, k)
        k_size, k_second_size = tl.load(sizes + k, mask=live, other=1), tl.load(sizes + k_second, mask=live, other=1)
        k_height = tl.load(heights + k, mask=live, other=0)
        straight = tl.load(table + i * K + k, mask=live, other=float("inf"))
        mine = tl.load(table + second * K + k, mask=live, other=float("inf"))
        theirs = tl.load(table + i * K + k_second, mask=live, other=float("inf"))
        across = tl.load(table + second * K + k_second, mask=live, other=float("inf"))
        # the cluster of the smaller number is merged first, whichever of the two is the row
        lower = i < k
        one_pair, other_pair = tl.where(lower, second - i, k_second - k) > 0, tl.where(lower, k_second - k, second - i) > 0
        one, one_second = tl.where(lower, size, k_size), tl.where(lower, second_size, k_second_size)
        other, other_second = tl.where(lower, k_size, size), tl.where(lower, k_second_size, second_size)
        one_height, other_height = tl.where(lower, height, k_height), tl.where(lower, k_height, height)
        second_to_first, first_to_second = tl.where(lower, mine, theirs), tl.where(lower, theirs, mine)
        to_first = tl.where(one_pair, _merged(straight, second_to_first, one_height, one, one_second, other, METHOD), straight)
        to_second = tl.where(one_pair, _merged(first_to_second, across, one_height, one, one_second, other_second, METHOD), first_to_second)
        whole = tl.where(one_pair, one + one_second, one)
        found = tl.where(other_pair, _merged(to_first, to_second, other_height, other, other_second, whole, METHOD), to_first)
        tl.store(table + i * K + k, found, mask=live & (one_pair | other_pair))
        closer = live & (k != i) & (found < best)
        best, where = tl.where(closer, found, best), tl.where(closer, k, where)
    least = tl.min(best, axis=0)
    tl.store(distance + i, least)
    tl.store(nearest + i, tl.min(tl.where(best == least, where, K), axis=0))


def forward(table: Tensor, partner: Tensor, heights: Tensor, sizes: Tensor, alive: Tensor, method: str) -> tuple[Tensor, Tensor]:
    nearest, distance = torch.zeros_like(partner), torch.full_like(heights, torch.inf)
    rows = torch.nonzero(alive)[:, 0]
    if len(rows):
        vectors = [vector.contiguous() for vector in (partner, heights, sizes, alive.to(torch.int8))]
        block = min(BLOCK, triton.next_power_of_2(len(table)))
        _merge_kernel[(len(rows),)](table, rows, *vectors, nearest, distance, len(table), METHOD=METHODS[method], BLOCK=block)
    return nearest, distance
