"""Hierarchical selective prediction: risk against coverage over all thresholds, and the area below it."""

import numpy as np
import torch
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.metrics._check import check_whole
from hiercnn.metrics._sweep import Sweep


class RiskCoverage(Sweep):
    """Risk against coverage as the threshold falls, and the area below that curve, hAURC. Streaming and mergeable.

    Coverage of a predicted node is 1 − log2 |leaves(v)| / log2 C: 0 for the root, 1 for a leaf (and 1 if there is one class). Risk is the
    share of samples whose predicted node is not the label or above it; below an inner label nobody knows, so a node there is no error.
    Both are means over all samples at one threshold. hAURC is the area by trapezoids up to the highest coverage, from no coverage at no
    risk, which predicting the root always has: lower is better.

    Of memory and of samples left out, see `Sweep`.

    Args:
        hierarchy: Its classes are the logits.
        rule: `climbing`, as published, or `threshold`.
        device: Where logits and labels live.

    Source: Goren, Galil & El-Yaniv, "Hierarchical selective classification" (NeurIPS 2024).
    """

    def __init__(self, hierarchy: Hierarchy, rule: str = "climbing", device: torch.device | str = "cpu"):
        super().__init__(hierarchy, rule, device)

    def curve(self) -> dict[str, np.ndarray]:
        """Return {"threshold", "risk", "coverage"}, each [T], thresholds falling from +inf and coverage rising."""
        confidence, predicted, wanted, first = self._steps()
        sizes = self.hierarchy.stops - self.hierarchy.starts
        common = self.hierarchy.lca(predicted, wanted)
        values = {
            "risk": ((common != predicted) & (common != wanted)).astype(np.float64),
            "coverage": 1 - np.log2(sizes[predicted]) / np.log2(max(self.hierarchy.num_classes, 2)),
        }
        return self._means(confidence, first, values)

    def compute(self) -> dict[str, float]:
        """Return {"haurc", "risk" and "coverage" at threshold 0, "images"}: samples that were counted; NaN without any."""
        images = len(self)
        if not images:
            return dict.fromkeys(("haurc", "risk", "coverage"), float("nan")) | {"images": 0}
        curve = self.curve()
        risk, coverage = np.append(0.0, curve["risk"]), np.append(0.0, curve["coverage"])
        area = np.diff(coverage) @ (risk[1:] + risk[:-1]) / 2
        return {"haurc": float(area), "risk": float(risk[-1]), "coverage": float(coverage[-1]), "images": images}


def risk_coverage(scores: Tensor, labels: Tensor, hierarchy: Hierarchy, rule: str = "climbing") -> dict[str, float]:
    """What `RiskCoverage` computes, of leaf logits [B, C] and labels [B]. Raises ShapeError, HierarchyError, DataError."""
    metric = RiskCoverage(hierarchy, rule, scores.device)
    metric.update(scores, labels)
    check_whole(scores)
    return metric.compute()
