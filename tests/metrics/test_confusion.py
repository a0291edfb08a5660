"""Nodes and groups of a confusion matrix against plain loops over its images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_trees import several_classes, trees

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy, builtin
from hiercnn.metrics import between_groups, lca_profile, mistakes, node_counts


def images_of(tree: Hierarchy, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and predictions [n], and their confusion matrix."""
    labels, predicted = np.random.default_rng(seed).integers(tree.num_classes, size=(2, 40))
    confusion = np.zeros([tree.num_classes] * 2, dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return labels, predicted, confusion


@given(trees(), st.integers(0, 99))
def test_counts_of_nodes_are_loops_over_images(tree, seed):
    labels, predicted, confusion = images_of(tree, seed)
    counts = node_counts(confusion, tree)
    for node in range(tree.num_nodes):
        below = set(tree.leaves(node).tolist())
        pairs = [(a in below, p in below) for a, p in zip(labels.tolist(), predicted.tolist(), strict=True)]
        assert counts.hits[node] == sum(a and p for a, p in pairs)
        assert counts.actual[node] == sum(a for a, _ in pairs)
        assert counts.predicted[node] == sum(p for _, p in pairs)


@given(trees(), st.integers(0, 99))
def test_recall_never_falls_towards_the_root(tree, seed):
    counts = node_counts(images_of(tree, seed)[2], tree)
    assert counts.recall[0] == counts.precision[0] == counts.f1[0] == 1
    hits_below = np.zeros(tree.num_nodes, dtype=np.int64)
    np.add.at(hits_below, tree.parents[1:], counts.hits[1:])
    assert (counts.hits >= hits_below).all()


def test_shares_that_do_not_exist():
    tree = Hierarchy(["root", "a", "b", "c"], [-1, 0, 0, 0])
    counts = node_counts([[3, 1, 0], [2, 0, 0], [0, 0, 0]], tree)
    np.testing.assert_equal(counts.recall, [1, 3 / 4, 0, np.nan])
    np.testing.assert_equal(counts.precision, [1, 3 / 5, 0, np.nan])
    np.testing.assert_equal(counts.f1, [1, 6 / 9, 0, np.nan])


@given(trees().filter(several_classes), st.integers(0, 99))
def test_the_profile_is_that_of_mistakes(tree, seed):
    labels, predicted, confusion = images_of(tree, seed)
    profile = lca_profile(confusion, tree)
    assert profile.sum() == (labels != predicted).sum()
    assert profile[0] == 0
    scores = torch.nn.functional.one_hot(torch.tensor(predicted), tree.num_classes).double()
    severity = mistakes(scores, torch.tensor(labels), tree)["severity"]
    if severity is not None:
        assert profile @ np.arange(tree.height + 1) / profile.sum() == pytest.approx(severity)


def test_groups_are_a_matrix_product():
    tree = builtin("cifar100")
    cut, confusion = tree.cut(groups=20), images_of(tree, 3)[2]
    one_hot = np.eye(len(cut), dtype=np.int64)[cut.groups]
    np.testing.assert_array_equal(between_groups(confusion, cut.groups), one_hot.T @ confusion @ one_hot)


@pytest.mark.parametrize("call", [node_counts, lca_profile])
def test_a_matrix_of_other_classes(call):
    with pytest.raises(ShapeError, match=r"confusion: wanted \[10, 10\], a row and a column a class, got \[3, 3\]"):
        call(np.zeros((3, 3)), builtin("cifar10"))
