"""What a confusion matrix says of the nodes and groups of a tree."""

from typing import NamedTuple

import numpy as np

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy


class NodeCounts(NamedTuple):
    """Images of every node of a tree, int64 [N] each.

    Attributes:
        hits: Images of classes below the node that are predicted as some class below it.
        actual: Images of classes below it.
        predicted: Images that are predicted as a class below it.
    """

    hits: np.ndarray
    actual: np.ndarray
    predicted: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """hits / actual [N]; NaN for a node without images."""
        return _ratio(self.hits, self.actual)

    @property
    def precision(self) -> np.ndarray:
        """hits / predicted [N]; NaN for a node that is never predicted."""
        return _ratio(self.hits, self.predicted)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of both [N]; NaN for a node that is neither labelled nor predicted."""
        return _ratio(2 * self.hits, self.actual + self.predicted)


def node_counts(confusion: np.ndarray, tree: Hierarchy) -> NodeCounts:
    """Count every node's images from those by actual and predicted class [C, C]. Raises ShapeError unless it is of the tree's classes."""
    confusion = _checked(confusion, tree.num_classes)
    hits = np.zeros(tree.num_nodes, dtype=np.int64)
    actual, predicted = np.nonzero(confusion)
    np.add.at(hits, tree.lca(tree.leaf_nodes[actual], tree.leaf_nodes[predicted]), confusion[actual, predicted])
    for node in range(tree.num_nodes - 1, 0, -1):  # children come after their parent
        hits[tree.parents[node]] += hits[node]
    return NodeCounts(hits, *(_below(confusion.sum(axis), tree) for axis in (1, 0)))


def between_groups(confusion: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Images by actual and predicted group [K, K], from those by class [C, C] and the group of each class [C]."""
    confusion, groups = _checked(confusion, len(groups)), np.asarray(groups)
    found = np.zeros([int(groups.max()) + 1] * 2, dtype=np.int64)
    np.add.at(found, (groups[:, None], groups), confusion)
    return found


def lca_profile(confusion: np.ndarray, tree: Hierarchy) -> np.ndarray:
    """Errors by the height of the lowest common ancestor of label and prediction, int64 [height + 1]; their mean height is the severity."""
    confusion = _checked(confusion, tree.num_classes)
    actual, predicted = np.nonzero(confusion * ~np.eye(len(confusion), dtype=bool))
    heights = tree.heights[tree.lca(tree.leaf_nodes[actual], tree.leaf_nodes[predicted])]
    return np.bincount(heights, weights=confusion[actual, predicted], minlength=tree.height + 1).astype(np.int64)


def _below(images: np.ndarray, tree: Hierarchy) -> np.ndarray:
    """Of every node [N], from the images of each class [C]."""
    before = np.concatenate([[0], np.cumsum(images[tree.leaf_order])])
    return before[tree.stops] - before[tree.starts]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _checked(confusion: np.ndarray, classes: int) -> np.ndarray:
    confusion = np.asarray(confusion)
    if confusion.shape != (classes, classes):
        raise ShapeError(f"confusion: wanted [{classes}, {classes}], a row and a column a class, got {list(confusion.shape)}")
    return confusion
