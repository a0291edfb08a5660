"""How far off mistakes are, in the tree."""

import torch
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.ops import path_table


class Mistakes:
    """HD@1 and mistake severity, streaming and mergeable; read severity beside top-1, alone it can be gamed.

    The distance is the LCA height: edges from the lowest common ancestor of label and prediction down to the deepest class below it.
    Samples labelled with an inner node are left out.

    Args:
        hierarchy: Its classes are the logits.
        device: Where logits and labels live.

    Source: Bertinetto et al., "Making better mistakes" (CVPR 2020).
    """

    def __init__(self, hierarchy: Hierarchy, device: torch.device | str = "cpu"):
        self.num_classes = hierarchy.num_classes
        self._paths = path_table(hierarchy.parents, hierarchy.depths, hierarchy.leaf_nodes).to(device)  # [C, height + 1]
        self._heights = torch.tensor(hierarchy.heights, dtype=torch.float64, device=device)
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # distance, mistakes, samples

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: leaf logits [B, C], labels [B] int64."""
        is_leaf = labels < self.num_classes
        predicted, labels = logits.argmax(1), torch.where(is_leaf, labels, 0)
        ours, theirs = self._paths[labels], self._paths[predicted]
        depth = ((ours == theirs) & (ours >= 0)).sum(1) - 1  # paths agree down to the common ancestor and never again
        distance = self._heights[ours.gather(1, depth[:, None])[:, 0]] * is_leaf
        self._sums += torch.stack([distance.sum(), ((predicted != labels) & is_leaf).sum(), is_leaf.sum()])

    def merge(self, other: "Mistakes") -> None:
        """Add what another instance for the same hierarchy has counted."""
        self._sums += other._sums.to(self._sums.device)

    def compute(self) -> dict[str, float | None]:
        """Return {"hd1": mean distance over samples, "severity": mean distance over mistakes, None without any}."""
        distance, mistakes, samples = self._sums.tolist()
        return {"hd1": distance / samples if samples else float("nan"), "severity": distance / mistakes if mistakes else None}
