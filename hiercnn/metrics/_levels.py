"""Accuracy at every level of the hierarchy, streaming and mergeable."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hiercnn.hierarchy import Cut


class LevelAccuracy:
    """Top-1, top-5 and negative log-likelihood of the leaf, and accuracy per cut.

    The group predicted at a cut is the group of the most likely leaf. Samples labelled with an inner node count at the cuts that lie at
    or above it, and nowhere else.

    Args:
        num_classes: Leaf classes C.
        cuts: The cuts to report, coarse first; the leaves are always added.
        device: Where logits and labels live.
    """

    def __init__(self, num_classes: int, cuts: Sequence[Cut], device: torch.device | str = "cpu"):
        self.num_classes = num_classes
        self.names = [cut.name for cut in cuts if cut.name != "leaf"]
        groups = [cut.label_groups for cut in cuts if cut.name != "leaf"]
        self._groups = [torch.tensor(g, device=device) for g in groups]
        self._sums = torch.zeros(3 + len(groups), 2, dtype=torch.float64, device=device)  # rows top1, top5, nll, cuts; [sum, count]

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: leaf logits [B, C], labels [B] int64."""
        is_leaf = labels < self.num_classes
        predicted = logits.argmax(1)  # the first of equal scores, here and in `Mistakes`
        hit = (predicted == labels) & is_leaf
        top = (logits.topk(min(5, self.num_classes), dim=1).indices == labels[:, None]).any(1) & is_leaf
        nll = F.cross_entropy(logits.float(), torch.where(is_leaf, labels, -100), reduction="none")
        rows = [(hit, is_leaf), (top | hit, is_leaf), (nll, is_leaf)]
        for groups in self._groups:
            wanted = groups[labels]
            rows.append(((groups[predicted] == wanted) & (wanted >= 0), wanted >= 0))
        self._sums += torch.stack([torch.stack([value.double().sum(), known.double().sum()]) for value, known in rows])

    def merge(self, other: "LevelAccuracy") -> None:
        """Add what another instance with the same cuts has counted."""
        self._sums += other._sums.to(self._sums.device)

    def compute(self) -> dict[str, object]:
        """Return {"accuracy": {cut: share, "leaf": share}, "top5": share, "nll": nats, "images": leaf-labelled images}."""
        values = (self._sums[:, 0] / self._sums[:, 1]).tolist()
        accuracy = dict(zip(self.names, values[3:], strict=True)) | {"leaf": values[0]}
        return {"accuracy": accuracy, "top5": values[1], "nll": values[2], "images": int(self._sums[0, 1])}
