"""How well two trees, or two partitions, agree."""

from typing import NamedTuple

import numpy as np

from hiercnn.clustering._dendrogram import Dendrogram
from hiercnn.clustering._distances import ClassDistances
from hiercnn.errors import DataError, ShapeError
from hiercnn.hierarchy import Hierarchy


class TreeCorrelation(NamedTuple):
    """Agreement of two tables of distances between classes.

    Attributes:
        pearson, spearman: Correlation over pairs of classes.
        p: Share of random orders of the classes, the given one among them, whose Pearson correlation is as high (Mantel's test, one-sided).
    """

    pearson: float
    spearman: float
    p: float


def tree_distances(tree: Hierarchy, distance: str = "lca") -> np.ndarray:
    """Distances in a tree for all pairs of classes in scipy's order [K (K − 1) / 2]; `distance` is one of `Hierarchy.distances`."""
    first, second = np.triu_indices(tree.num_classes, 1)
    return tree.distances(first, second, distance)


def tree_correlation(one: np.ndarray, other: np.ndarray, *, permutations: int = 999, seed: int = 0) -> TreeCorrelation:
    """Correlation of two trees, each given by its distances for all pairs of classes [K (K − 1) / 2].

    Heights of merges are `Dendrogram.cophenetic()`, distances in a hierarchy `tree_distances(tree)`; both in the same order of classes.

    Args:
        one, other: Distances. A tree whose distances are all the same correlates with nothing: NaN.
        permutations: Random orders of the classes; 0 for none, which makes p NaN.
        seed: Of these.

    Raises:
        ShapeError: Distances of different numbers of classes. DataError: fewer than three classes, or distances that are not finite.

    Source: Mantel (1967).
    """
    one, other = (np.asarray(x, dtype=np.float64) for x in (one, other))
    count = round((1 + np.sqrt(1 + 8 * one.size)) / 2)
    if one.ndim != 1 or one.shape != other.shape or count * (count - 1) // 2 != one.size:
        raise ShapeError(f"distances: wanted two of [K (K - 1) / 2], one a pair of classes, got {list(one.shape)} and {list(other.shape)}")
    if count < 3:
        raise DataError(f"two trees of {count} classes cannot be told apart; three are needed at least")
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise DataError("distances that are not finite")
    if permutations < 0:
        raise DataError(f"permutations: wanted 0 or more, got {permutations}")
    from scipy.stats import rankdata

    ranks = (rankdata(x) for x in (one, other))
    pearson = _pearson(one, other)
    return TreeCorrelation(pearson, _pearson(*ranks), _mantel(one, other, count, pearson, permutations, seed))


def cophenetic_correlation(dendrogram: Dendrogram, distances: ClassDistances) -> float:
    """Correlation of a dendrogram's heights with the distances that it was made from: how faithful it is to these.

    It says nothing of agreement with another tree; on pure noise it is 0.2 to 0.6.

    Source: Sokal and Rohlf (1962).
    """
    return _pearson(dendrogram.cophenetic(), distances.condensed())


class PartitionAgreement(NamedTuple):
    """Agreement of a partition with a given one.

    Attributes:
        ari, ami: Rand index and mutual information, adjusted for chance: 0 at random, 1 for the same partition.
        purity: Share of classes whose group's most frequent given group is theirs; not adjusted for chance.
        fowlkes_mallows: Geometric mean of precision and recall of pairs that are together.
    """

    ari: float
    ami: float
    purity: float
    fowlkes_mallows: float


def partition_agreement(groups: np.ndarray, given: np.ndarray) -> PartitionAgreement:
    """Agreement of two partitions of the same classes, each a group number a class [K]. Raises ShapeError unless they are."""
    groups, given = np.asarray(groups), np.asarray(given)
    if groups.ndim != 1 or groups.shape != given.shape or not len(groups):
        raise ShapeError(f"groups: wanted two of [K], one number a class, got {list(groups.shape)} and {list(given.shape)}")
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, fowlkes_mallows_score
    from sklearn.metrics.cluster import contingency_matrix

    purity = contingency_matrix(given, groups).max(0).sum() / len(groups)
    return PartitionAgreement(*(float(score(given, groups)) for score in (adjusted_rand_score, adjusted_mutual_info_score)), float(purity),
                              float(fowlkes_mallows_score(given, groups)))  # fmt: skip


def fowlkes_mallows_curve(one: Dendrogram, other: Dendrogram) -> np.ndarray:
    """Fowlkes–Mallows index of the two partitions into 2, 3, … K − 1 groups [K − 2]. Source: Fowlkes and Mallows (1983)."""
    if one.num_classes != other.num_classes:
        raise ShapeError(f"dendrograms of {one.num_classes} and {other.num_classes} classes cannot be compared")
    from sklearn.metrics import fowlkes_mallows_score

    return np.array([fowlkes_mallows_score(one.groups(count), other.groups(count)) for count in range(2, one.num_classes)])


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / scale) if scale > 0 else float("nan")


def _mantel(one: np.ndarray, other: np.ndarray, count: int, found: float, permutations: int, seed: int) -> float:
    """Permuting classes leaves mean and variance of the distances as they are, so products are enough."""
    if not permutations or np.isnan(found):
        return float("nan")
    from scipy.spatial.distance import squareform

    rng, square = np.random.default_rng(seed), squareform(other - other.mean())
    first, second = np.triu_indices(count, 1)
    centred = one - one.mean()
    wanted = centred @ square[first, second] - 1e-12 * np.linalg.norm(centred) * np.linalg.norm(square)  # but for rounding
    orders = (rng.permutation(count) for _ in range(permutations))
    as_high = sum(centred @ square[order[first], order[second]] >= wanted for order in orders)
    return (1 + int(as_high)) / (1 + permutations)
