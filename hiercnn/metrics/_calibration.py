"""Whether probabilities mean what they say, level by level: expected calibration error and Brier score."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.metrics._check import check_scores, check_whole


class Calibration:
    """ECE and Brier score at every cut and the leaf, from leaf logits, streaming and mergeable.

    The probability of a group is the sum of its leaves'; the group predicted is the most probable one (the first of equal ones), which need
    not be that of the most likely leaf. With its probability as the confidence, ECE = Σ_b |right_b − confidence_b| / samples over
    bins ((b − 1) / bins, b / bins] of equal width. Brier = mean Σ_g (p_g − [g is right])², from 0 to 2. Samples labelled with an inner node
    count at the cuts at or above it. Logits that are NaN make the result NaN.

    Args:
        hierarchy: Its classes are the logits.
        cuts: The cuts to report; the leaves are always added.
        device: Where logits and labels live.
        bins: Number of bins of the ECE.

    Raises:
        ShapeError: No bins.

    Source: Guo et al., "On calibration of modern neural networks" (ICML 2017); Brier, "Verification of forecasts" (1950).
    """

    def __init__(self, hierarchy: Hierarchy, cuts: Sequence[Cut] = (), device: torch.device | str = "cpu", *, bins: int = 15):
        if bins < 1:
            raise ShapeError(f"bins: wanted 1 or more, got {bins}")
        cuts = [cut for cut in cuts if cut.name != "leaf"] + [hierarchy.leaf_cut()]
        self.names, self.bins = [cut.name for cut in cuts], bins
        self.num_classes, self.num_labels = hierarchy.num_classes, hierarchy.num_nodes
        self._sizes = [len(cut) for cut in cuts]
        self._groups = [torch.tensor(cut.label_groups, device=device) for cut in cuts]
        self._bins = torch.zeros(len(cuts), bins, dtype=torch.float64, device=device)  # right − confidence
        self._sums = torch.zeros(len(cuts), 2, dtype=torch.float64, device=device)  # Brier, samples

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: leaf logits [B, C], labels [B] int64. Raises ShapeError."""
        check_scores(logits, self.num_classes, labels, self.num_labels, self._sums.device)
        p = logits.double().softmax(1)
        for level, (groups, size) in enumerate(zip(self._groups, self._sizes, strict=True)):
            wanted = groups[labels]
            known = wanted >= 0
            q = p if level == len(self._groups) - 1 else p.new_zeros(len(p), size).index_add_(1, groups[: self.num_classes], p)  # [B, K]
            confidence, predicted = q.max(1)
            place = (confidence * self.bins).ceil().sub(1).nan_to_num(0).long().clamp(0, self.bins - 1)
            self._bins[level].index_add_(0, place, ((predicted == wanted).double() - confidence) * known)
            own = q.gather(1, wanted.clamp(min=0)[:, None])[:, 0]
            brier = q.square().sum(1) - 2 * own + 1
            self._sums[level] += torch.stack([(brier * known).sum(), known.sum()])

    def merge(self, other: "Calibration") -> None:
        """Add what another instance with the same cuts and bins has counted."""
        self._bins += other._bins.to(self._bins.device)
        self._sums += other._sums.to(self._sums.device)

    def compute(self) -> dict[str, object]:
        """Return {"ece": {cut: …, "leaf": …}, "brier": {the same}, "bins": number}, NaN where nothing was counted."""
        brier, samples = self._sums.unbind(1)
        ece = self._bins.abs().sum(1) / samples
        columns = {"ece": ece.tolist(), "brier": (brier / samples).tolist()}
        return {key: dict(zip(self.names, values, strict=True)) for key, values in columns.items()} | {"bins": self.bins}


def calibration(scores: Tensor, labels: Tensor, hierarchy: Hierarchy, cuts: Sequence[Cut] = (), *, bins: int = 15) -> dict[str, object]:
    """What `Calibration` computes, of leaf logits [B, C] and labels [B]. Raises ShapeError, DataError (no samples, NaN)."""
    metric = Calibration(hierarchy, cuts, scores.device, bins=bins)
    metric.update(scores, labels)
    check_whole(scores.softmax(1))  # of +∞, or −∞ alone, no probabilities follow either
    return metric.compute()
