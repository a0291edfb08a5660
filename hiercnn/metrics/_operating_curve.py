"""How right against how specific, over all thresholds: the operating curve and the numbers that sum it up."""

import numpy as np
import torch
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.metrics._check import check_whole
from hiercnn.metrics._sweep import Sweep


class OperatingCurve(Sweep):
    """Correct against information recall as the threshold falls; AC, AP and recall at 95 % correct. Streaming and mergeable.

    The information of a node is I(v) = −log2(|leaves(v)| / C) bits. Of a sample with label y and predicted node v, u their lowest common
    ancestor: *correct* if u is v or y, *recall* I(u)/I(y), *precision* I(u)/I(v), *exact* if v is y; 0/0 is 1. Below an inner label nobody
    knows, so a v below y is cut back to y, which makes all four 1. A point of the curve is their mean over samples at one threshold.

    AC is the area below correct(r) = the most correct of all points with a recall of r or more, over r from 0 to 1 (no point: 0); AP that
    of precision, AC exact that over the share of exact predictions instead of recall. Recall at 95 % correct is the highest recall of the
    points that are correct in 95 % of samples or more (0 without one).

    Of memory and of samples left out, see `Sweep`.

    Args:
        hierarchy: Its classes are the logits.
        rule: `threshold`, as published, or `climbing`.
        device: Where logits and labels live.

    Source: Valmadre, "Hierarchical classification at multiple operating points" (NeurIPS 2022), with its released code's areas.
    """

    def __init__(self, hierarchy: Hierarchy, rule: str = "threshold", device: torch.device | str = "cpu"):
        super().__init__(hierarchy, rule, device)

    def curve(self) -> dict[str, np.ndarray]:
        """Return {"threshold", "correct", "recall", "precision", "exact"}, each [T], thresholds falling from +inf."""
        confidence, predicted, wanted, first = self._steps()
        sizes = self.hierarchy.stops - self.hierarchy.starts
        information = np.log2(self.hierarchy.num_classes) - np.log2(sizes)
        common = self.hierarchy.lca(predicted, wanted)
        predicted = np.where(common == wanted, wanted, predicted)
        values = {
            "correct": (common == predicted).astype(np.float64),
            "recall": _ratio(information[common], information[wanted]),
            "precision": _ratio(information[common], information[predicted]),
            "exact": (predicted == wanted).astype(np.float64),
        }
        return self._means(confidence, first, values)

    def compute(self) -> dict[str, float]:
        """Return {"ac", "ap", "ac_exact", "recall_at_95", "images"}, shares and the samples that were counted; NaN without any."""
        images = len(self)
        if not images:
            return dict.fromkeys(("ac", "ap", "ac_exact", "recall_at_95"), float("nan")) | {"images": 0}
        curve = self.curve()
        good = curve["correct"] >= 0.95 - 1e-12  # sums of shares are off by a rounding
        return {
            "ac": _area(curve["recall"], curve["correct"]),
            "ap": _area(curve["recall"], curve["precision"]),
            "ac_exact": _area(curve["exact"], curve["correct"]),
            "recall_at_95": float(curve["recall"][good].max(initial=0.0)),
            "images": images,
        }


def operating_curve(scores: Tensor, labels: Tensor, hierarchy: Hierarchy, rule: str = "threshold") -> dict[str, float]:
    """What `OperatingCurve` computes, of leaf logits [B, C] and labels [B]. Raises ShapeError, HierarchyError, DataError."""
    metric = OperatingCurve(hierarchy, rule, scores.device)
    metric.update(scores, labels)
    check_whole(scores)
    return metric.compute()


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.ones_like(part), where=whole > 0)


def _area(recall: np.ndarray, value: np.ndarray) -> float:
    """Area below the highest value at a recall or beyond it."""
    order = np.argsort(recall, kind="stable")
    highest = np.maximum.accumulate(value[order][::-1])[::-1]
    return float(np.diff(recall[order], prepend=0.0) @ highest)
