"""One round of agglomerative clustering: `merge_clusters`. Many pairs of clusters are merged at once, and every cluster's nearest is found.

The distance of a merged cluster a + b to k follows from those of its parts (Lance and Williams 1967). Between two merged clusters that of
the smaller number is merged first, so that the table stays symmetric to the last bit: clusters that are each other's nearest by one row are
so by the other.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.ops._check import check_device

# distance of a + b to k, of d(a, k), d(b, k), d(a, b) and the sizes of a, b, k; ward's distances are squared
Update = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
UPDATES: dict[str, Update] = {
    "single": lambda ak, bk, ab, a, b, k: torch.minimum(ak, bk),
    "complete": lambda ak, bk, ab, a, b, k: torch.maximum(ak, bk),
    "average": lambda ak, bk, ab, a, b, k: (a * ak + b * bk) / (a + b),
    "ward": lambda ak, bk, ab, a, b, k: ((a + k) * ak + (b + k) * bk - k * ab) / (a + b + k),
}


def merge_clusters(table: Tensor, partner: Tensor, heights: Tensor, sizes: Tensor, alive: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """Merge pairs of clusters in a table of distances, and find the nearest cluster of each.

    Args:
        table: Distances [K, K], float32 or float64, symmetric. Rows and columns of merged clusters are written, those of clusters that are
            not alive have no meaning any more, and the diagonal is not read.
        partner: The larger-numbered cluster that a cluster is merged with [K], int64; −1 for the others, the partners themselves included.
        heights: Distance of each pair, at its first cluster [K].
        sizes: Classes of each cluster before [K], as numbers of the table's type.
        alive: Clusters that are there afterwards [K], bool.
        method: `single`, `complete`, `average` or `ward` (squared distances).

    Returns:
        Nearest other cluster of each that is alive [K], int64, the first of several, and its distance [K]; where a cluster is not alive, or
        alone, they have no meaning.

    Raises:
        ShapeError: Sizes, types or devices that do not fit; an unknown method.
    """
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ShapeError(f"table: wanted [K, K], got {list(table.shape)}")
    if table.dtype not in (torch.float32, torch.float64):
        raise ShapeError(f"table: wanted float32 or float64, got {str(table.dtype).removeprefix('torch.')}")
    if not table.is_contiguous():
        raise ShapeError("table: wanted contiguous rows, since it is written; pass table.contiguous()")
    kinds = {"partner": torch.int64, "heights": table.dtype, "sizes": table.dtype, "alive": torch.bool}
    for (name, kind), vector in zip(kinds.items(), (partner, heights, sizes, alive), strict=True):
        if vector.shape != table.shape[:1] or vector.dtype != kind:
            kind, got = (str(one).removeprefix("torch.") for one in (kind, vector.dtype))
            raise ShapeError(f"{name}: wanted {kind} [{len(table)}], got {got} {list(vector.shape)}")
        check_device(name, vector, table)
    if method not in UPDATES:
        raise ShapeError(f"method: wanted one of {', '.join(UPDATES)}, got {method!r}")
    return torch.ops.hiercnn.merge_clusters(table, partner, heights, sizes, alive, method)


@torch.library.custom_op("hiercnn::merge_clusters", mutates_args=("table",), device_types="cpu")
def _forward(table: Tensor, partner: Tensor, heights: Tensor, sizes: Tensor, alive: Tensor, method: str) -> tuple[Tensor, Tensor]:
    if not len(table):
        return partner.clone(), heights.clone()
    update, first = UPDATES[method], torch.nonzero(partner >= 0)[:, 0]
    second = partner[first]
    between, a, b = heights[first], sizes[first], sizes[second]
    rows = update(table[first], table[second], between[:, None], a[:, None], b[:, None], sizes)  # to the old clusters
    pairs = update(rows[:, first], rows[:, second], between, a, b, (a + b)[:, None]).triu(1)  # to the other merged ones
    table[first] = rows
    table[:, first] = rows.T
    table[first[:, None], first] = pairs + pairs.T
    table.fill_diagonal_(torch.inf)
    table[:, ~alive] = torch.inf
    nearest = table.argmin(1)  # the first of several
    return nearest, table.gather(1, nearest[:, None])[:, 0]


@_forward.register_kernel("cuda")
def _(table, partner, heights, sizes, alive, method):
    from hiercnn.ops._triton import merge_clusters as triton

    return triton.forward(table, partner, heights, sizes, alive, method)


@_forward.register_fake
def _(table, partner, heights, sizes, alive, method):
    return torch.empty_like(partner), torch.empty_like(heights)
