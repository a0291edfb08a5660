"""Hierarchical precision, recall and F: how much of the path to the label a prediction shares."""

import torch
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.metrics._check import check_labels, check_some
from hiercnn.ops import path_table


class HierarchicalF:
    """hP, hR and hF, streaming and mergeable, of predictions and labels that are classes or inner nodes.

    With α the nodes from below the root down to the prediction and β those down to the label, hP = |α ∩ β| / |α|, hR = |α ∩ β| / |β| and
    hF = 2 hP hR / (hP + hR): micro from sums over samples, macro as means of each sample's own values. The label is the whole truth: what
    is predicted below an inner label costs precision, so leave samples out whose label is only coarser than it could be. The root is no
    node of these: samples labelled with it are left out, and predicting it has precision 1 (nothing wrong is said), recall and F 0.

    Args:
        hierarchy: Its labels are what is predicted: classes 0 to C − 1, then inner nodes (see `Hierarchy.label`).
        device: Where predictions and labels live.

    Source: Kiritchenko et al., "Functional annotation of genes using hierarchical text categorization" (2005).
    """

    def __init__(self, hierarchy: Hierarchy, device: torch.device | str = "cpu"):
        self.num_labels = hierarchy.num_nodes
        self._paths = path_table(hierarchy.parents, hierarchy.depths, hierarchy.label_nodes)[:, 1:].to(device)  # [N, height]
        self._depths = torch.tensor(hierarchy.depths[hierarchy.label_nodes], device=device)  # [N]
        self._sums = torch.zeros(7, dtype=torch.float64, device=device)  # samples, |α ∩ β|, |α|, |β|, hP, hR, hF

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add a batch: predicted labels [B] int64, labels [B] int64. Raises ShapeError."""
        for name, values in {"predicted": predicted, "labels": labels}.items():
            check_labels(name, values, len(labels), self.num_labels, self._sums.device)
        ours, theirs = self._paths[labels], self._paths[predicted]
        shared, said, true = ((ours == theirs) & (ours >= 0)).sum(1), self._depths[predicted], self._depths[labels]
        precision = torch.where(said > 0, shared.double() / said, 1.0)
        rows = torch.stack(
            [torch.ones_like(true), shared, said, true, precision, shared.double() / true, 2 * shared.double() / (said + true)]
        )
        self._sums += torch.where(true > 0, rows, 0.0).sum(1)

    def merge(self, other: "HierarchicalF") -> None:
        """Add what another instance for the same hierarchy has counted."""
        self._sums += other._sums.to(self._sums.device)

    def compute(self) -> dict[str, dict[str, float]]:
        """Return {"micro": {"precision": hP, "recall": hR, "f": hF}, "macro": {the same}}, NaN where nothing was counted."""
        samples, shared, said, true, *means = self._sums.tolist()
        if not samples:
            return {kind: dict.fromkeys(("precision", "recall", "f"), float("nan")) for kind in ("micro", "macro")}
        micro = {"precision": shared / said if said else 1.0, "recall": shared / true, "f": 2 * shared / (said + true)}
        return {"micro": micro, "macro": {name: mean / samples for name, mean in zip(micro, means, strict=True)}}


def hierarchical_f(predicted: Tensor, labels: Tensor, hierarchy: Hierarchy) -> dict[str, dict[str, float]]:
    """What `HierarchicalF` computes, of predicted labels [B] and labels [B]. Raises ShapeError, DataError (no samples)."""
    metric = HierarchicalF(hierarchy, predicted.device)
    metric.update(predicted, labels)
    check_some(labels)
    return metric.compute()
