"""Top-k and accuracy at every level of the hierarchy, streaming and mergeable."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.metrics._check import check_scores, check_whole


class LevelAccuracy:
    """Top-1, top-k and negative log-likelihood of the leaf, and accuracy per cut, over samples and over groups.

    The group predicted at a cut is the group of the most likely leaf; of equal scores the first counts as the highest. Samples labelled
    with an inner node count at the cuts that lie at or above it, and nowhere else. Scores that are NaN make the result NaN.

    Args:
        num_classes: Leaf classes C.
        cuts: The cuts to report, coarse first; the leaves are always added.
        device: Where logits and labels live.
        ks: Which top-k; all classes where there are fewer than k.

    Raises:
        ShapeError: A k below 1.
    """

    def __init__(self, num_classes: int, cuts: Sequence[Cut], device: torch.device | str = "cpu", *, ks: Sequence[int] = (5,)):
        self._num_labels = len(cuts[0].label_groups) if cuts else torch.iinfo(torch.int64).max  # inner nodes are not known without
        cuts = [cut for cut in cuts if cut.name != "leaf"]
        self.num_classes, self.ks = num_classes, check_ks(ks)
        self.names = [cut.name for cut in cuts]
        self._groups = [torch.tensor(cut.label_groups, device=device) for cut in cuts]
        self._sizes = [len(cut) for cut in cuts] + [num_classes]
        self._hits = torch.zeros(sum(self._sizes), 2, dtype=torch.float64, device=device)  # of each group: right, samples
        self._sums = torch.zeros(1 + len(self.ks), dtype=torch.float64, device=device)  # of leaf-labelled samples: nll, in the top k

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: leaf logits [B, C], labels [B] int64. Raises ShapeError."""
        check_scores(logits, self.num_classes, labels, self._num_labels, self._sums.device)
        best, predicted = logits.max(1)  # the first of equal scores, here and in `Mistakes`
        number = torch.where(best.isnan(), torch.nan, 1.0).double()
        is_leaf = labels < self.num_classes
        leaf = torch.where(is_leaf, labels, 0)
        nll = F.cross_entropy(logits.float(), torch.where(is_leaf, labels, -100), reduction="none")
        before = self._classes_before(logits, leaf)
        tops = [((before < k) & is_leaf) * number for k in self.ks]
        self._sums += torch.stack([nll.double().sum(), *(top.sum() for top in tops)])
        at, wanted = 0, [groups[labels] for groups in self._groups] + [torch.where(is_leaf, labels, -1)]
        guessed = [groups[predicted] for groups in self._groups] + [predicted]
        for size, want, guess in zip(self._sizes, wanted, guessed, strict=True):
            known = want >= 0
            rows = torch.stack([((guess == want) & known) * number, known.double()], 1)
            self._hits[at : at + size].index_add_(0, want.clamp(min=0), rows)
            at += size

    def merge(self, other: "LevelAccuracy") -> None:
        """Add what another instance with the same cuts has counted."""
        self._hits += other._hits.to(self._hits.device)
        self._sums += other._sums.to(self._sums.device)

    def compute(self) -> dict[str, object]:
        """Return shares, NaN where nothing was counted.

        {"accuracy": {cut: share of samples, …, "leaf": share}, "macro_accuracy": {the same as the mean over groups with samples},
        "top5": share (and each other k), "nll": nats, "images": leaf-labelled images}
        """
        levels = dict(zip([*self.names, "leaf"], self._hits.split(self._sizes), strict=True))
        images = levels["leaf"][:, 1].sum()
        nll, *tops = (self._sums / images).tolist()
        return {
            "accuracy": {name: (hits[:, 0].sum() / hits[:, 1].sum()).item() for name, hits in levels.items()},
            "macro_accuracy": {name: _macro(hits) for name, hits in levels.items()},
            **{f"top{k}": top for k, top in zip(self.ks, tops, strict=True)},
            "nll": nll,
            "images": int(images),
        }

    def _classes_before(self, logits: Tensor, leaf: Tensor) -> Tensor:
        """Classes that are more likely than the right one [B]; of equal ones, those with a lower number."""
        own, classes = logits.gather(1, leaf[:, None]), torch.arange(self.num_classes, device=leaf.device)
        return ((logits > own) | ((logits == own) & (classes < leaf[:, None]))).sum(1)


def level_accuracy(
    scores: Tensor, labels: Tensor, hierarchy: Hierarchy, cuts: Sequence[Cut] = (), *, ks: Sequence[int] = (1, 5)
) -> dict[str, object]:
    """What `LevelAccuracy` computes, of leaf scores [B, C] and labels [B]. Raises ShapeError, DataError (no samples, NaN)."""
    metric = LevelAccuracy(hierarchy.num_classes, [*cuts, hierarchy.leaf_cut()], scores.device, ks=ks)
    metric.update(scores, labels)
    check_whole(scores)
    return metric.compute()


def check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """The numbers k as a tuple; raises ShapeError if one is below 1 or there is none."""
    if not ks or min(ks) < 1:
        raise ShapeError(f"ks: wanted one k or several, each 1 or more, got {list(ks)}")
    return tuple(ks)


def _macro(hits: Tensor) -> float:
    present = hits[hits[:, 1] > 0]
    return (present[:, 0] / present[:, 1]).mean().item()
