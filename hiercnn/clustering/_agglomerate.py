"""Agglomerative clustering by rounds: all pairs that are each other's nearest are merged at once.

For a reducible linkage a merged cluster is no nearer to a third one than the nearer of its parts was. So two mutual nearest neighbours
stay that whatever is merged beside them, and the order of merges does not matter (Bruynooghe 1978; Murtagh 1983): the merges, sorted by
height, are the dendrogram of the sequential algorithm. A round costs a few passes over the table of distances, and there are few rounds,
so this is for devices that are fast at such passes; a CPU uses scipy.

A cluster is called by its smallest member. Of several nearest neighbours the one of the smallest number counts, which makes the result
the same on every call also where distances are tied.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# distance of a merged pair (a, b) to k, of d(a, k), d(b, k), d(a, b) and the sizes of a, b, k (Lance and Williams 1967); ward's are squared
Update = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
UPDATES: dict[str, Update] = {
    "single": lambda ak, bk, ab, a, b, k: torch.minimum(ak, bk),
    "complete": lambda ak, bk, ab, a, b, k: torch.maximum(ak, bk),
    "average": lambda ak, bk, ab, a, b, k: (a * ak + b * bk) / (a + b),
    "ward": lambda ak, bk, ab, a, b, k: ((a + k) * ak + (b + k) * bk - k * ab) / (a + b + k),
}


def agglomerate(distances: Tensor, method: str) -> np.ndarray:
    """Merges of K clusters in scipy's format [K − 1, 4], float64: two clusters, height, size.

    Args:
        distances: [K, K], symmetric; on any device. One copy is made, so that 2 K² numbers are the most there are.
        method: `single`, `complete`, `average` or `ward` (of euclidean distances).
    """
    table = distances.square() if method == "ward" else distances.clone()
    table.fill_diagonal_(torch.inf)
    names = torch.arange(len(table), device=table.device)
    sizes = torch.ones(len(table), dtype=table.dtype, device=table.device)
    merged = []
    while len(table) > 1:
        first, second = _mutual_pairs(table)
        heights = table[first, second]
        merged.append(torch.stack([names[first].to(table.dtype), names[second].to(table.dtype), heights]).cpu())
        _merge(table, sizes, first, second, UPDATES[method])
        kept = torch.ones(len(table), dtype=torch.bool, device=table.device).index_fill_(0, second, False)
        table, names, sizes = table[kept][:, kept], names[kept], sizes[kept]
    first, second, heights = torch.cat(merged, 1).double().numpy() if merged else np.empty((3, 0))
    return in_scipy_s_order(first.astype(int), second.astype(int), np.sqrt(heights) if method == "ward" else heights)


def _mutual_pairs(table: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of all pairs of mutual nearest neighbours, the smaller first."""
    nearest = table.argmin(1)  # the first of several
    rows = torch.arange(len(table), device=table.device)
    first = torch.nonzero((nearest[nearest] == rows) & (rows < nearest))[:, 0]
    return first, nearest[first]


def _merge(table: Tensor, sizes: Tensor, first: Tensor, second: Tensor, update: Update) -> None:
    """Put the distances of merged pairs into the rows and columns of the first of each; those of the second have no meaning any more."""
    between, a, b = table[first, second], sizes[first], sizes[second]
    rows = update(table[first], table[second], between[:, None], a[:, None], b[:, None], sizes)  # to the old clusters
    pairs = update(rows[:, first], rows[:, second], between, a, b, (a + b)[:, None])  # to the other merged ones
    sizes[first] += b
    table[first] = rows
    table[:, first] = rows.T
    table[first[:, None], first] = pairs
    table[first, first] = torch.inf


def in_scipy_s_order(first: np.ndarray, second: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Merges of clusters that are called by one of their members, parts before wholes, as scipy's linkage matrix [K − 1, 4]."""
    count = len(first) + 1
    heights, top, owner = heights.copy(), np.zeros(count), np.arange(count)
    for number, (one, other) in enumerate(zip(first, second, strict=True)):  # rounding must not put a whole below its parts
        heights[number] = max(heights[number], top[one], top[other])
        top[one] = top[other] = heights[number]
    merges, size = np.empty((count - 1, 4)), np.ones(count)
    for row, number in enumerate(np.argsort(heights, kind="stable")):
        one, other = first[number], second[number]
        size[one] += size[other]
        merges[row] = *sorted((owner[one], owner[other])), heights[number], size[one]
        owner[one] = count + row
    return merges
