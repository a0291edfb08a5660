"""Agreement of trees and partitions: known answers on noise and on made trees, and scikit-learn's scores."""

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from hiercnn.clustering import (
    cluster,
    cophenetic_correlation,
    fowlkes_mallows_curve,
    partition_agreement,
    tree_correlation,
    tree_distances,
    vector_distances,
)
from hiercnn.errors import DataError, ShapeError
from hiercnn.hierarchy import builtin, from_nested


def noise(seed: int, classes: int = 100, size: int = 128) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(classes, size))


def of_tree(seed: int, size: int = 128) -> np.ndarray:
    """Means with an offset for every node of CIFAR-100's tree above a class."""
    tree = builtin("cifar100")
    offsets = np.random.default_rng(seed).normal(size=(tree.num_nodes, size))
    return np.stack([offsets[tree.ancestors(int(node))].sum(0) for node in tree.leaf_nodes])


# --- Known answers --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linkage", ["average", "complete"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_noise_agrees_with_no_tree_however_faithful_its_dendrogram_is(linkage, metric):
    wanted = tree_distances(builtin("cifar100"))
    for seed in range(3):
        distances = vector_distances(noise(seed), metric)
        dendrogram = cluster(distances, linkage)
        found = tree_correlation(dendrogram.cophenetic(), wanted, permutations=99)
        assert abs(found.pearson) < 0.1
        assert cophenetic_correlation(dendrogram, distances) > 0.15


def test_noise_is_rarely_significant():
    wanted = tree_distances(builtin("cifar100"))
    p = [tree_correlation(cluster(vector_distances(noise(seed))).cophenetic(), wanted, permutations=99, seed=seed).p for seed in range(20)]
    assert min(p) >= 0.01
    assert 0.2 < np.mean(p) < 0.8


def test_a_tree_is_found_again():
    wanted = tree_distances(builtin("cifar100"))
    for seed in range(3):
        found = tree_correlation(cluster(vector_distances(of_tree(seed))).cophenetic(), wanted)
        assert found.pearson > 0.9
        assert found.p == 0.001


def test_superclasses_are_found_again():
    tree = builtin("cifar100")
    groups = cluster(vector_distances(of_tree(0))).groups(20)
    assert partition_agreement(groups, tree.cut(groups=20).groups).ari > 0.7
    random = partition_agreement(cluster(vector_distances(noise(0))).groups(20), tree.cut(groups=20).groups)
    assert abs(random.ari) < 0.1
    assert abs(random.ami) < 0.1


# --- Against loops --------------------------------------------------------------------------------------------------------------------


@given(st.integers(3, 9), st.integers(0, 999))
def test_correlations_are_scipys(count, seed):
    one, other = np.random.default_rng(seed).normal(size=(2, count * (count - 1) // 2))
    found = tree_correlation(one, other, permutations=0)
    assert found.pearson == pytest.approx(pearsonr(one, other)[0], abs=1e-9)
    assert found.spearman == pytest.approx(spearmanr(one, other)[0], abs=1e-9)
    assert np.isnan(found.p)


@given(st.integers(3, 7), st.integers(0, 999), st.integers(1, 30))
@settings(max_examples=30)
def test_mantel_counts_permutations_of_the_classes(count, seed, permutations):
    one, other = np.random.default_rng(seed).normal(size=(2, count * (count - 1) // 2))
    square, rng, as_high = np.zeros((count, count)), np.random.default_rng(seed), 1
    square[np.triu_indices(count, 1)] = other
    square += square.T
    for _ in range(permutations):
        order = rng.permutation(count)
        moved = [square[order[i], order[j]] for i, j in combinations(range(count), 2)]
        as_high += pearsonr(one, moved)[0] >= pearsonr(one, other)[0] - 1e-9
    assert tree_correlation(one, other, permutations=permutations, seed=seed).p == pytest.approx(as_high / (permutations + 1))


def test_tree_distances_are_pairs_in_scipys_order():
    tree = from_nested({"a": ["x", "y"], "b": ["z"]}, ["z", "x", "y"])
    assert tree_distances(tree, "path").tolist() == [4, 4, 2]  # z-x, z-y, x-y


def test_the_same_partition_by_other_numbers():
    found = partition_agreement(np.array([0, 0, 1, 2]), np.array([5, 5, 3, 4]))
    assert found == pytest.approx((1, 1, 1, 1))


def test_purity_is_the_share_of_each_group_s_largest_part():
    assert partition_agreement(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2])).purity == pytest.approx(3 / 5)


def test_fowlkes_mallows_curve():
    one, other = (cluster(vector_distances(noise(seed, classes=12))) for seed in (0, 1))
    assert fowlkes_mallows_curve(one, one) == pytest.approx(np.ones(10))
    curve = fowlkes_mallows_curve(one, other)
    assert curve[2] == pytest.approx(partition_agreement(one.groups(4), other.groups(4)).fowlkes_mallows)
    assert (curve < 1).all()


# --- Bad input ------------------------------------------------------------------------------------------------------------------------


def test_a_tree_of_one_level_correlates_with_nothing():
    found = tree_correlation(np.ones(10), np.arange(10.0))
    assert all(np.isnan(found))


@pytest.mark.parametrize(
    ("one", "other", "error", "message"),
    [
        (np.ones(3), np.ones(6), ShapeError, "distances: wanted two of [K (K - 1) / 2], one a pair of classes, got [3] and [6]"),
        (np.ones(4), np.ones(4), ShapeError, "got [4] and [4]"),
        (np.ones((3, 3)), np.ones((3, 3)), ShapeError, "got [3, 3] and [3, 3]"),
        (np.ones(1), np.ones(1), DataError, "two trees of 2 classes cannot be told apart; three are needed at least"),
        (np.array([1, np.nan, 2]), np.ones(3), DataError, "distances that are not finite"),
    ],
)
def test_bad_distances(one, other, error, message):
    with pytest.raises(error, match=re.escape(message)):
        tree_correlation(one, other)


def test_partitions_of_other_classes():
    with pytest.raises(ShapeError, match=re.escape("groups: wanted two of [K], one number a class, got [2] and [3]")):
        partition_agreement(np.array([0, 1]), np.array([0, 1, 2]))


def test_dendrograms_of_other_classes():
    one, other = (cluster(vector_distances(noise(0, classes=count))) for count in (5, 6))
    with pytest.raises(ShapeError, match="dendrograms of 5 and 6 classes cannot be compared"):
        fowlkes_mallows_curve(one, other)
