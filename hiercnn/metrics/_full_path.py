"""Whether predictions of several levels are right together, and whether they are one path of the tree at all."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from hiercnn.errors import HierarchyError, ShapeError
from hiercnn.hierarchy import Cut, check_nested
from hiercnn.metrics._check import check_device, check_labels, check_some


class FullPath:
    """FPA and TICE of predictions made level by level, as by hypernym heads; streaming and mergeable.

    FPA is the share of samples that are right at all levels; samples whose label is coarser than a level are left out, since a part of
    their path is not known. TICE (tree inconsistency) is the share of samples, whatever their labels, whose predicted groups are not
    inside each other.

    Args:
        cuts: The levels, nested, coarse first; often `[head's cut, …, hierarchy.leaf_cut()]`.
        device: Where predictions and labels live.

    Raises:
        HierarchyError: No cuts, or one that does not refine the one before it.

    Source: Park et al., H-CAST (ICLR 2025).
    """

    def __init__(self, cuts: Sequence[Cut], device: torch.device | str = "cpu"):
        if not cuts:
            raise HierarchyError("FPA and TICE need at least one cut")
        check_nested(list(cuts))
        self._sizes = torch.tensor([len(cut) for cut in cuts], device=device)
        self._wanted = torch.tensor(np.stack([cut.label_groups for cut in cuts], 1), device=device)  # [N, L]
        self._above = torch.tensor(_groups_above(cuts), device=device)  # [L − 1, K]
        self._sums = torch.zeros(4, dtype=torch.int64, device=device)  # right, of known paths; no path, of samples

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add a batch: predicted group of each level [B, L] int64, as the cuts number them; labels [B] int64. Raises ShapeError."""
        self._check(predicted, labels)
        wanted = self._wanted[labels]
        known = (wanted >= 0).all(1)
        levels = torch.arange(len(self._above), device=labels.device)
        broken = (self._above[levels, predicted[:, 1:]] != predicted[:, :-1]).any(1)
        right = ((predicted == wanted).all(1) & known).sum()
        self._sums += torch.stack([right, known.sum(), broken.sum(), torch.full_like(right, len(labels))])

    def merge(self, other: "FullPath") -> None:
        """Add what another instance with the same cuts has counted."""
        self._sums += other._sums.to(self._sums.device)

    def compute(self) -> dict[str, float]:
        """Return {"fpa": share, "tice": share}, NaN where nothing was counted."""
        right, known, broken, samples = self._sums.tolist()
        return {"fpa": right / known if known else float("nan"), "tice": broken / samples if samples else float("nan")}

    def _check(self, predicted: Tensor, labels: Tensor) -> None:
        check_labels("labels", labels, len(labels), len(self._wanted), self._sums.device)
        if predicted.shape != (len(labels), len(self._sizes)) or predicted.dtype != torch.int64:
            wanted = f"[{len(labels)}, {len(self._sizes)}] int64, a group of each level"
            raise ShapeError(f"predicted: wanted {wanted}, got {list(predicted.shape)} {str(predicted.dtype).removeprefix('torch.')}")
        check_device("predicted", predicted, self._sums.device)
        if predicted.device.type == "cpu" and ((predicted < 0) | (predicted >= self._sizes)).any():
            raise ShapeError(f"predicted: a group does not exist; the levels have {self._sizes.tolist()} groups, numbered from 0")


def full_path(predicted: Tensor, labels: Tensor, cuts: Sequence[Cut]) -> dict[str, float]:
    """What `FullPath` computes, of predicted groups [B, L] and labels [B]. Raises ShapeError, HierarchyError, DataError (no samples)."""
    metric = FullPath(cuts, predicted.device)
    metric.update(predicted, labels)
    check_some(labels)
    return metric.compute()


def _groups_above(cuts: Sequence[Cut]) -> np.ndarray:
    """Group of each cut but the last that holds each group of the next one [L − 1, K], −1 where there is no such group."""
    table = np.full((len(cuts) - 1, max(map(len, cuts))), -1, dtype=np.int64)
    for row, (coarse, fine) in zip(table, pairwise(cuts), strict=True):
        row[fine.groups] = coarse.groups
    return table
