"""What is predicted at every threshold: the sequences behind `OperatingCurve` and `RiskCoverage`."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hiercnn.errors import DataError, HierarchyError, ShapeError, did_you_mean
from hiercnn.hierarchy import Hierarchy
from hiercnn.metrics._check import check_device, check_labels, check_numbers, check_range, check_scores
from hiercnn.ops import path_table

RULES = ("threshold", "climbing")


class Sweep:
    """Of each sample, what a decision rule predicts as its threshold falls from above 1 to 0: more and more specific nodes.

    A curve over all thresholds is not a sum, so the sequences are kept, in the main memory: 12 bytes a step (its confidence and its node)
    and 16 a sample. That is exact, and merging is putting them one behind the other. A sequence has no more steps than the tree has levels
    (climbing) or different numbers of leaves below a node (threshold), in practice about five to fifteen.

    Rules, on the node probabilities q that leaf logits give: `threshold` predicts the most informative node with q ≥ t (the most probable
    of several, then the one with the lower label), `climbing` the lowest node on the path to the most likely leaf with q ≥ t. At t = 0 both
    predict the most likely leaf. Only children are as informative as their parent and are predicted instead of it.

    Samples labelled with a node that holds all classes are left out: whatever is predicted, their label has nothing to say.
    """

    def __init__(self, hierarchy: Hierarchy, rule: str, device: torch.device | str = "cpu"):
        if rule not in RULES:
            raise HierarchyError(f"unknown decision rule '{rule}'; choose one of {', '.join(RULES)}{did_you_mean(rule, RULES)}")
        self.hierarchy, self.rule = hierarchy, rule
        labels, children = hierarchy.label_nodes, np.bincount(hierarchy.parents[1:], minlength=hierarchy.num_nodes)
        sizes = (hierarchy.stops - hierarchy.starts)[labels]
        self._telling = torch.tensor(_telling(hierarchy), device=device)  # of each label
        self._information = torch.tensor(-np.log2(sizes), device=device)  # of each label, up to a constant
        self._leaf_order, self._starts, self._stops = (
            torch.tensor(table, device=device) for table in (hierarchy.leaf_order, hierarchy.starts[labels], hierarchy.stops[labels])
        )
        self._paths = torch.tensor(_paths_up(hierarchy, children != 1), device=device)  # labels above each class, −1 before it
        branching = np.flatnonzero(children[labels] > 1)
        inner = branching[np.argsort(sizes[branching], kind="stable")]
        self._inner = torch.tensor(inner, device=device)  # labels of nodes with several children, few leaves first
        self._runs = np.unique(sizes[inner], return_counts=True)[1].tolist()  # how many of them have equally many leaves
        self._parts: list[tuple[np.ndarray, ...]] = []  # confidence and label of each step; steps and label of each sample

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: leaf logits [B, C], labels [B] int64. Raises ShapeError; DataError if a logit is NaN or infinite upwards."""
        check_scores(logits, self.hierarchy.num_classes, labels, self.hierarchy.num_nodes, self._telling.device)
        p = logits.double().softmax(1)
        check_numbers(p)
        leaf = logits.argmax(1, keepdim=True)
        sums = F.pad(p[:, self._leaf_order].cumsum(1), (1, 0))  # leaves of a node are neighbours in this order
        q, predicted = self._climbing(p, sums, leaf) if self.rule == "climbing" else self._threshold(p, sums, leaf)
        before = F.pad(q, (1, 0), value=-torch.inf).cummax(1).values[:, :-1]
        there = q > before  # predicted at some threshold: all that are more specific are less probable
        self._keep(q.flip(1), predicted.flip(1), there.flip(1), labels)

    def update_sequences(self, predicted: Tensor, confidence: Tensor, labels: Tensor) -> None:
        """Add a batch of sequences from any other rule.

        Args:
            predicted: Labels of the nodes predicted, coarse ones first [B, S] int64, −1 behind the end; the first one is predicted at
                thresholds above its confidence too (put the root first if the rule may abstain).
            confidence: The highest threshold at which each is predicted [B, S], floats, never rising along a row.
            labels: [B] int64.

        Raises:
            ShapeError: Sizes, types, devices or labels that do not fit.
            DataError: An empty sequence, NaN, a confidence that rises or a node with more leaves than the one before it.
        """
        self._check(predicted, confidence, labels)
        there = predicted >= 0
        information = self._information[predicted.clamp(min=0)]
        pairs = there[:, 1:]
        wrong = {
            "is empty, or has a gap": ~there[:, 0] | (pairs & ~there[:, :-1]).any(1),
            "has a confidence that is no number": (confidence.isnan() & there).any(1),
            "has a confidence that rises": ((confidence.diff(dim=1) > 0) & pairs).any(1),
            "has a node less specific than the one before it": ((information.diff(dim=1) < 0) & pairs).any(1),
        }
        for what, rows in wrong.items():
            if rows.any():
                raise DataError(f"predicted: the sequence of sample {rows.nonzero()[0].item()} of this batch {what}")
        self._keep(confidence.double(), predicted, there, labels)

    def merge(self, other: "Sweep") -> None:
        """Add the sequences that another instance for the same hierarchy has kept."""
        self._parts += other._parts

    def __len__(self) -> int:
        """Samples kept."""
        return sum(len(lengths) for _, _, lengths, _ in self._parts)

    def _threshold(self, p: Tensor, sums: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable node of each number of leaves, from the leaf up: probabilities and labels [B, S]."""
        q = (sums[:, self._stops[self._inner]] - sums[:, self._starts[self._inner]]).clamp(max=1)
        best = [run.max(1, keepdim=True) for run in q.split(self._runs, dim=1)] if self._runs else []
        labels = [of_run[one.indices] for of_run, one in zip(self._inner.split(self._runs), best, strict=True)] if best else []
        return torch.cat([p.gather(1, leaf), *(one.values for one in best)], 1), torch.cat([leaf, *labels], 1)

    def _climbing(self, p: Tensor, sums: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
        """From the leaf up to the root: probabilities, −inf in front of the leaf where the path is shorter, and labels [B, S]."""
        path = self._paths[leaf[:, 0]]
        there, labels = path >= 0, path.clamp(min=0)
        q = (sums.gather(1, self._stops[labels]) - sums.gather(1, self._starts[labels])).clamp(max=1)
        return torch.where(labels == leaf, p.gather(1, leaf), q).masked_fill(~there, -torch.inf), labels

    def _keep(self, confidence: Tensor, predicted: Tensor, there: Tensor, labels: Tensor) -> None:
        there = there & self._telling[labels][:, None]
        lengths = there.sum(1)
        kept = (confidence[there], predicted[there].int(), lengths[lengths > 0], labels[lengths > 0])
        self._parts.append(tuple(part.cpu().numpy() for part in kept))

    def _check(self, predicted: Tensor, confidence: Tensor, labels: Tensor) -> None:
        device, count = self._telling.device, self.hierarchy.num_nodes
        check_labels("labels", labels, len(labels), count, device)
        if predicted.ndim != 2 or predicted.shape[:1] != labels.shape or predicted.shape[1] < 1 or predicted.dtype != torch.int64:
            raise ShapeError(f"predicted: wanted int64 [{len(labels)}, S], got {list(predicted.shape)} {predicted.dtype}")
        if confidence.shape != predicted.shape or not confidence.is_floating_point():
            raise ShapeError(f"confidence: wanted floats {list(predicted.shape)}, got {list(confidence.shape)} {confidence.dtype}")
        check_device("predicted", predicted, device)
        check_device("confidence", confidence, device)
        check_range("predicted", predicted, -1, count)

    def _steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All that is kept: confidence, predicted node and labelled node of each step [S], and the first step of each sample."""
        if not self._parts:
            none = np.zeros(0, dtype=np.int64)
            return np.zeros(0), none, none, none
        confidence, predicted, lengths, labels = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        nodes = self.hierarchy.label_nodes
        return confidence, nodes[predicted], nodes[np.repeat(labels, lengths)], np.cumsum(lengths) - lengths

    def _means(self, confidence: np.ndarray, first: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Mean over samples of values of the steps [S] at every threshold [T], from above the highest down; "threshold" beside them."""
        later = np.ones(len(confidence), dtype=bool)
        later[first] = False
        order = np.argsort(-confidence[later], kind="stable")
        thresholds = confidence[later][order]
        last = np.append(thresholds[1:] != thresholds[:-1], True)[: len(thresholds)]  # of equal thresholds
        found = {"threshold": np.append(np.inf, thresholds[last])}
        for name, value in values.items():
            change = np.diff(value, prepend=0.0)[later][order].cumsum()
            found[name] = (value[first].sum() + np.append(0.0, change[last])) / max(len(first), 1)
        return found


def _paths_up(hierarchy: Hierarchy, counts: np.ndarray) -> np.ndarray:
    """Labels from each class up to the root [C, height + 1], −1 before the class and for nodes that do not count [N]."""
    nodes = path_table(hierarchy.parents, hierarchy.depths, hierarchy.leaf_nodes).numpy()[:, ::-1]
    return np.where((nodes >= 0) & counts[nodes], np.argsort(hierarchy.label_nodes)[nodes], -1)


def _telling(hierarchy: Hierarchy) -> np.ndarray:
    """Whether each label says anything: it is a class, or does not hold all of them [N]."""
    sizes = (hierarchy.stops - hierarchy.starts)[hierarchy.label_nodes]
    return (np.arange(hierarchy.num_nodes) < hierarchy.num_classes) | (sizes < hierarchy.num_classes)
