"""Agglomerative clustering by rounds: all pairs that are each other's nearest are merged at once.

For a reducible linkage a merged cluster is no nearer to a third one than the nearer of its parts was. So two mutual nearest neighbours
stay that whatever is merged beside them, and the order of merges does not matter (Bruynooghe 1978; Murtagh 1983): the merges, sorted by
height, are the dendrogram of the sequential algorithm. A round is one pass over the table of distances, by `ops.merge_clusters`. Of 1,000
random vectors average, complete and ward linkage take 30 to 45 rounds, single linkage, which grows chains, 400; so this is for devices that
are fast at such passes, and a CPU uses scipy. The table is made smaller whenever half of it is merged.

A cluster is called by its smallest member. Of several nearest neighbours the one of the smallest number counts, which makes the result
the same on every call also where distances are tied.
"""

import numpy as np
import torch
from torch import Tensor

from hiercnn.errors import DataError
from hiercnn.ops import merge_clusters

NO_DISTANCES = "distances: wanted a symmetric table of finite numbers"


def agglomerate(distances: Tensor, method: str, *, overwrite: bool = False) -> np.ndarray:
    """Merges of K clusters in scipy's format [K − 1, 4], float64: two clusters, height, size.

    Args:
        distances: [K, K], symmetric; on any device.
        method: `single`, `complete`, `average` or `ward` (of euclidean distances).
        overwrite: Whether the distances may be written to. Then at most 2 K² numbers exist on CUDA, about 2.5 K² on a CPU; else K² more.

    Raises:
        DataError: Distances that are no numbers, or not symmetric.
    """
    table = distances if overwrite and distances.is_contiguous() else distances.clone(memory_format=torch.contiguous_format)
    if method == "ward":
        table.square_()
    names, merged = torch.arange(len(table), device=table.device), []
    sizes, alive = torch.ones_like(names, dtype=table.dtype), torch.ones_like(names, dtype=torch.bool)
    partner, heights = torch.full_like(names, -1), torch.zeros_like(sizes)
    nearest, distance = merge_clusters(table, partner, heights, sizes, alive, method)
    left = len(table)
    while left > 1:
        rows = torch.arange(len(table), device=table.device)
        first = torch.nonzero(alive & (nearest[nearest] == rows) & (rows < nearest))[:, 0]
        if not len(first):
            raise DataError(NO_DISTANCES)
        second = nearest[first]
        merged.append(torch.stack([names[first].to(table.dtype), names[second].to(table.dtype), distance[first]]))
        partner.fill_(-1)[first], heights[first], alive[second] = second, distance[first], False
        nearest, distance = merge_clusters(table, partner, heights, sizes, alive, method)
        sizes[first] += sizes[second]
        left -= len(first)
        if left <= len(table) // 2:
            kept = torch.nonzero(alive)[:, 0]
            nearest, distance = (alive.cumsum(0) - 1)[nearest[kept]], distance[kept]
            table, names, sizes, alive = table[kept][:, kept], names[kept], sizes[kept], alive[kept]
            partner, heights = partner[: len(kept)], heights[: len(kept)]
    first, second, heights = torch.cat(merged, 1).double().cpu().numpy() if merged else np.empty((3, 0))
    if not np.isfinite(heights).all():
        raise DataError(NO_DISTANCES)
    return in_scipy_s_order(first.astype(int), second.astype(int), np.sqrt(heights) if method == "ward" else heights)


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
