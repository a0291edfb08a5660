"""Are hypernyms learnt before hyponyms? Accuracy of groups against what leaf accuracy and group sizes give by chance."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiercnn.errors import DataError, ShapeError


class HypernymScores(NamedTuple):
    """How well groups are predicted by a leaf classifier; shares 0..1.

    Attributes:
        greedy: Images whose predicted class lies in the right group; never below leaf accuracy.
        corrected: (greedy − q) / (1 − q), q the share of the largest group: 0 for guessing it.
        residual: Images with the right group among those with a wrong class; NaN if no class is wrong.
        null: The same if wrong classes were drawn evenly from all others.
        lift: residual / null.
    """

    greedy: float
    corrected: float
    residual: float
    null: float
    lift: float


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> np.ndarray:
    """Images by actual (rows) and predicted class [K, K], int64, from classes [n] each."""
    counts = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).cpu().numpy()


def hypernym_scores(confusion: np.ndarray, groups: np.ndarray) -> HypernymScores:
    """Scores of a partition of the classes, which the confusion matrix alone decides, so random partitions cost next to nothing.

    Args:
        confusion: Images by actual and predicted class [K, K].
        groups: Group of each class [K], from 0 on, such as `Cut.groups`.

    Raises:
        ShapeError: Sizes that do not fit. DataError: no images.
    """
    confusion, groups = np.asarray(confusion), np.asarray(groups)
    if confusion.ndim != 2 or confusion.shape != (len(groups), len(groups)):
        raise ShapeError(f"confusion: wanted [{len(groups)}, {len(groups)}], a row and a column a class, got {list(confusion.shape)}")
    total, hits = confusion.sum(), np.trace(confusion)
    if not total:
        raise DataError("a confusion matrix without images has no accuracy")
    same = groups[:, None] == groups
    inside = (confusion * same).sum()
    largest = np.bincount(groups, weights=confusion.sum(1)).max() / total
    errors = confusion.sum(1) - np.diagonal(confusion)
    others = np.bincount(groups)[groups] - 1  # of the same group
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = (inside - hits) / np.float64(errors.sum())
        null = (errors * others).sum() / np.float64(errors.sum()) / (len(groups) - 1)
        corrected = (inside / total - largest) / np.float64(1 - largest)
        return HypernymScores(*(float(x) for x in (inside / total, corrected, residual, null, residual / null)))


def sum_rule_hits(logits: Tensor, labels: Tensor, groups: Tensor) -> int:
    """Images whose most probable group, by summed probabilities of its classes, is the right one; logits [B, K], labels [B], groups [K]."""
    return int(_sum_rule_hits(logits.float().softmax(1), labels, groups))


def _sum_rule_hits(probabilities: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    sums = probabilities.new_zeros(len(labels), int(groups.max()) + 1).index_add_(1, groups, probabilities)
    return (sums.argmax(1) == groups[labels]).sum()


class LogitStatistics:
    """What hypernym accuracy needs of leaf logits that come in batches: the confusion matrix, and right answers of the sum rule.

    Args:
        num_classes: K.
        partitions: {cut: partitions [K] of the classes, that of the cut first}.

    Attributes:
        confusion: Images by actual and predicted class [K, K].
    """

    def __init__(self, num_classes: int, partitions: Mapping[str, Sequence[np.ndarray]]):
        self.partitions = dict(partitions)
        self.confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
        self._hits = {name: np.zeros(len(several), dtype=np.int64) for name, several in partitions.items()}

    def update(self, logits: Tensor, labels: Tensor) -> "LogitStatistics":
        """Add logits [B, K] of images of classes [B]."""
        self.confusion += confusion_matrix(logits.argmax(1), labels, len(self.confusion))
        probabilities = logits.float().softmax(1)
        for name, several in self.partitions.items():
            groups = [torch.tensor(each, device=logits.device) for each in several]
            self._hits[name] += torch.stack([_sum_rule_hits(probabilities, labels, each) for each in groups]).cpu().numpy()
        return self

    def sum_rule(self, cut: str) -> list[float]:
        """Share of images whose most probable group is the right one, of every partition of a cut."""
        return (self._hits[cut] / self.confusion.sum()).tolist()


def first_reaching(values: np.ndarray, share: float, *, from_start: bool = False) -> int | None:
    """Index of the first of values [T] that has come so far: share · last, or from the first value on, whichever way the curve goes.

    Args:
        values: A curve over training.
        share: τ, 0 to 1.
        from_start: Measure the way from the first value to the last (t90) rather than from 0 (t_τ of relative accuracy).

    Returns:
        None for a curve that has no last value, does not move where its way is measured, or ends below 0 where that is from 0.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values) or not np.isfinite(values[-1]):
        return None
    way = values - values[0] if from_start else values
    if way[-1] == 0 or (way[-1] < 0 and not from_start):
        return None
    reached = np.flatnonzero(way / way[-1] >= share)
    return int(reached[0]) if len(reached) else None
