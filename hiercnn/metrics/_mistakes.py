"""How far off predictions are, in the tree: HD@k and mistake severity."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.metrics._check import check_scores, check_whole
from hiercnn.metrics._levels import check_ks
from hiercnn.ops import path_table


class Mistakes:
    """HD@k and mistake severity, streaming and mergeable; read severity beside top-1, alone it can be gamed.

    HD@k is the mean distance between the label and the k most likely classes (of equal scores the first; all classes where there are fewer
    than k). Severity is the mean distance of the most likely class over mistakes. Samples labelled with an inner node are left out. Scores
    that are NaN make the result NaN.

    Args:
        hierarchy: Its classes are the logits.
        device: Where logits and labels live.
        ks: Which HD@k.
        distance: `lca` edges from the lowest common ancestor down to the deepest class below it, as published figures have it (so
            `Hierarchy.distances` times the height of the tree); `path`, `wup` or `information` as in `Hierarchy.distances`.

    Raises:
        ShapeError: A k below 1. HierarchyError: An unknown distance.

    Source: Bertinetto et al., "Making better mistakes" (CVPR 2020).
    """

    def __init__(self, hierarchy: Hierarchy, device: torch.device | str = "cpu", *, ks: Sequence[int] = (1, 5, 20), distance: str = "lca"):
        hierarchy.distances(0, 0, distance)  # refuses unknown names
        self.num_classes, self.num_labels, self.ks = hierarchy.num_classes, hierarchy.num_nodes, check_ks(ks)
        self.distance = distance
        self._paths = path_table(hierarchy.parents, hierarchy.depths, hierarchy.leaf_nodes).to(device)  # [C, height + 1]
        self._value = torch.tensor(_value_of_lca(hierarchy, distance), dtype=torch.float64, device=device)  # [N]
        self._depths = torch.tensor(hierarchy.depths[hierarchy.leaf_nodes], device=device)  # [C]
        self._sums = torch.zeros(3 + len(self.ks), dtype=torch.float64, device=device)  # samples, mistakes, distance, of the top k

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: leaf logits [B, C], labels [B] int64. Raises ShapeError."""
        check_scores(logits, self.num_classes, labels, self.num_labels, self._sums.device)
        is_leaf = labels < self.num_classes
        leaf = torch.where(is_leaf, labels, 0)
        number = torch.where(logits.amax(1).isnan(), torch.nan, 1.0).double() * is_leaf
        most = [min(k, self.num_classes) for k in self.ks]
        guesses = top_classes(logits, max(most))
        apart = self._between(leaf, guesses) * number[:, None]  # [B, k]
        mistakes = (guesses[:, 0] != leaf) * number
        tops = [apart[:, :k].sum() / k for k in most]
        self._sums += torch.stack([is_leaf.sum(), mistakes.sum(), apart[:, 0].sum(), *tops])

    def merge(self, other: "Mistakes") -> None:
        """Add what another instance for the same hierarchy, ks and distance has counted."""
        self._sums += other._sums.to(self._sums.device)

    def compute(self) -> dict[str, float | None]:
        """Return {"top1": share right, "hd1" (and each other k): mean over samples, "severity": mean over mistakes, None without any}."""
        samples, mistakes, distance, *tops = self._sums.tolist()
        means = {f"hd{k}": top / samples if samples else float("nan") for k, top in zip(self.ks, tops, strict=True)}
        top1 = (samples - mistakes) / samples if samples else float("nan")
        return {"top1": top1, **means, "severity": distance / mistakes if mistakes else None}

    def _between(self, leaf: Tensor, guesses: Tensor) -> Tensor:
        """Distances of classes [B] and [B, k], float64 [B, k]."""
        ours, theirs = self._paths[leaf][:, None], self._paths[guesses]  # [B, 1, height + 1], [B, k, height + 1]
        depth = ((ours == theirs) & (ours >= 0)).sum(2) - 1  # paths agree down to the common ancestor and never again
        value = self._value[ours[:, 0].gather(1, depth)]
        if self.distance in ("lca", "information"):
            return value
        both = self._depths[leaf][:, None] + self._depths[guesses]
        if self.distance == "path":
            return both - 2 * value
        return torch.where(leaf[:, None] == guesses, 0.0, 1 - 2 * value / both.clamp(min=1))


def mistakes(
    scores: Tensor, labels: Tensor, hierarchy: Hierarchy, *, ks: Sequence[int] = (1, 5, 20), distance: str = "lca"
) -> dict[str, float | None]:
    """What `Mistakes` computes, of leaf scores [B, C] and labels [B]. Raises ShapeError, HierarchyError, DataError (no samples, NaN)."""
    metric = Mistakes(hierarchy, scores.device, ks=ks, distance=distance)
    metric.update(scores, labels)
    check_whole(scores)
    return metric.compute()


def top_classes(scores: Tensor, k: int) -> Tensor:
    """The k classes with the highest scores, highest first [B, k]; of equal scores those with the lower numbers, which topk leaves open."""
    if k == 1:
        return scores.argmax(1, keepdim=True)
    best = scores.topk(min(k + 1, scores.shape[1]))
    found = best.indices[:, :k].sort(1).values
    found = found.gather(1, scores.gather(1, found).sort(dim=1, descending=True, stable=True).indices)
    if k < scores.shape[1]:
        open_rows = best.values[:, k - 1] == best.values[:, k]  # the last one taken has an equal that was not
        found[open_rows] = scores[open_rows].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return found


def _value_of_lca(hierarchy: Hierarchy, distance: str) -> np.ndarray:
    """What a distance needs to know of a common ancestor [N]: height, information, else depth."""
    if distance == "lca":
        return hierarchy.heights
    if distance == "information":
        return np.log2(hierarchy.stops - hierarchy.starts) / np.log2(max(hierarchy.num_classes, 2))
    return hierarchy.depths
