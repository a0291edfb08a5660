"""`path_sum` against loops over paths, and the tables of a tree that the operators read."""

import re
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.cases import (
    CASES,
    FLAT,
    UNEVEN,
    Case,
    Operator,
    SevenTests,
    assert_is_the_loop,
    assert_same,
    both_kernels,
    large_case,
    moved_nodes,
    node_columns,
    nodes_of,
    path_of,
    paths_of,
    random_cases,
)
from random_trees import trees
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.ops import node_log_marginals, path_sum

FEW = settings(max_examples=25)


def loop(tree: Hierarchy, values: Tensor, labels: Tensor) -> Tensor:
    columns = [[node - 1 for node in path_of(tree, leaf)[1:]] for leaf in range(tree.num_classes)]
    return torch.stack([values[:, path].sum(1) for path in columns], 1)


def largest_term(values: Tensor) -> Tensor:
    return values.abs().sum(1, keepdim=True)


PATH_SUM = Operator(path_sum, lambda tree, labels: (nodes_of(tree),), loop, node_columns, value_floor=largest_term)


class TestPathSum(SevenTests):
    operator = PATH_SUM


@given(random_cases())
@FEW
def test_random_trees(case):
    assert_is_the_loop(PATH_SUM, case)


@pytest.mark.long
@both_kernels
def test_three_thousand_leaves(kernels):
    assert_is_the_loop(PATH_SUM, large_case(), kernels)


def test_one_level_is_the_values_themselves():
    values = Case(FLAT, torch.arange(3)).scores(5)
    assert torch.equal(path_sum(values, nodes_of(FLAT)), values)


def test_inner_values_of_0_leave_cross_entropy():
    case = Case(UNEVEN, torch.arange(UNEVEN.num_classes), dtype=torch.float64)
    scores, columns = case.scores(UNEVEN.num_classes), torch.tensor(UNEVEN.leaf_nodes) - 1

    def found(x):
        values = x.new_zeros(len(x), UNEVEN.num_nodes - 1).index_copy(1, columns, x)
        return F.cross_entropy(path_sum(values, nodes_of(UNEVEN)), case.labels, reduction="none")

    assert_same(found, lambda x: F.cross_entropy(x, case.labels, reduction="none"), scores)


def test_over_marginals_it_is_the_expected_distance():
    """E[path distance to j] = d(j) + E[d] − 2 Σ_{v on path(j), v ≠ root} q_v."""
    case = Case(UNEVEN, torch.arange(3), dtype=torch.float64)
    logits, rows = case.scores(UNEVEN.num_classes), torch.arange(UNEVEN.num_classes).numpy()
    depths, p = torch.tensor(UNEVEN.depths[UNEVEN.leaf_nodes]), logits.softmax(1)
    q = node_log_marginals(logits, nodes_of(UNEVEN)).exp()[:, 1:]
    found = depths + (p * depths).sum(1, keepdim=True) - 2 * path_sum(q, nodes_of(UNEVEN))
    torch.testing.assert_close(found, p @ torch.tensor(UNEVEN.distances(rows[:, None], rows, "path")))


@both_kernels
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_no_number_reaches_the_leaves_below_it_alone(kernels, value):
    good = PATH_SUM.scores(CASES["uneven depth"])
    values = good.clone()
    values[1, UNEVEN.node("pet") - 1] = value
    with kernels():
        found, wanted = (path_sum(x, nodes_of(UNEVEN)) for x in (values, good))
    spoiled = torch.zeros(found.shape, dtype=torch.bool)
    spoiled[1, torch.tensor(UNEVEN.leaves(UNEVEN.node("pet")))] = True
    assert torch.equal(~found.isfinite(), spoiled)
    assert torch.equal(found[~spoiled], wanted[~spoiled])


@given(random_cases(), st.randoms(use_true_random=False))
@FEW
def test_order_of_classes_does_not_matter(case, random):
    other, _, rows = moved_nodes(case, random)
    back = rows[: case.tree.num_classes].argsort()
    assert_same(lambda x: path_sum(x, nodes_of(other))[:, back], PATH_SUM.of(case), PATH_SUM.scores(case, torch.float64))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(5), "values: wanted [B, 5], one number a node but the root, got [5]"),
        (torch.zeros(2, 6), "values: wanted [B, 5], one number a node but the root, got [2, 6]"),
        (torch.zeros(2, 5).int(), "values: wanted float32, float64, float16 or bfloat16, got int32"),
        (torch.zeros(2, 5, device="meta"), "nodes is on cpu, the scores on meta"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        path_sum(values, nodes_of(FLAT))


# --- Tables ---------------------------------------------------------------------------------------------------------------------------


@given(trees())
@FEW
def test_paths_are_the_ancestors_of_each_label(tree):
    for path, node in zip(paths_of(tree).tolist(), tree.label_nodes, strict=True):
        ancestors = tree.ancestors(node).tolist()
        assert path == ancestors + [-1] * (tree.height + 1 - len(ancestors))


@given(trees())
@FEW
def test_nodes_hold_every_family_once_children_before_parents(tree):
    nodes = nodes_of(tree)
    inner, offsets = nodes.inner.tolist(), nodes.offsets.tolist()
    families = [nodes.children[a:b].tolist() for a, b in pairwise(offsets)]
    assert dict(zip(inner, families, strict=True)) == {
        node: tree.children(node).tolist() for node in range(tree.num_nodes) if not tree.is_leaf(node)
    }
    heights = tree.heights[inner].tolist()
    assert heights == sorted(heights)
    assert nodes.counts == [heights.count(height) for height in range(1, tree.height + 1)]
    assert nodes.num_nodes == tree.num_nodes
