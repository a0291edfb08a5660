"""`margin_nll` against a loop over all nodes."""

import re

import numpy as np
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
    LossTests,
    Operator,
    assert_is_the_loop,
    assert_same,
    both_kernels,
    by_row,
    large_case,
    moved_nodes,
    nll,
    node_columns,
    path_of,
    paths_of,
    random_cases,
)
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.ops import margin_nll

FEW = settings(max_examples=25)


def loop(tree: Hierarchy, row: Tensor, label: int, margin: float = 5.0) -> Tensor | float:
    path = path_of(tree, label)
    if path == [0]:
        return 0.0
    wrong = torch.tensor([node not in path for node in range(1, tree.num_nodes)], dtype=torch.bool)
    return nll((row + margin * wrong).exp(), [path[-1] - 1])


def the_label(tree: Hierarchy, label: int) -> list[int]:
    return [int(tree.label_nodes[label]) - 1]


MARGIN = Operator(margin_nll, lambda tree, labels: (labels, paths_of(tree)), by_row(loop), node_columns, the_label)
NONE = Operator(
    margin_nll, lambda tree, labels: (labels, paths_of(tree), 0.0), by_row(lambda *row: loop(*row, margin=0.0)), node_columns, the_label
)


class TestMarginNLL(LossTests):
    operator = MARGIN


@given(random_cases(), st.sampled_from([MARGIN, NONE]))
@FEW
def test_random_trees(case, operator):
    assert_is_the_loop(operator, case)


@both_kernels
def test_three_thousand_leaves(kernels):
    assert_is_the_loop(MARGIN, large_case(), kernels)


# --- Special values -------------------------------------------------------------------------------------------------------------------


def test_one_level_without_margin_is_cross_entropy():
    case = Case(FLAT, torch.arange(5), dtype=torch.float64)
    wanted = lambda x: F.cross_entropy(x, case.labels, reduction="none")  # noqa: E731
    assert_same(lambda x: margin_nll(x, case.labels, paths_of(FLAT), 0.0), wanted, case.scores(5))


def test_equal_scores_cost_the_log_of_right_nodes_and_wrong_ones_by_exp_of_the_margin():
    labels = torch.tensor([UNEVEN.label(name) for name in ("car", "cat", "wolf", "plant")])
    loss = margin_nll(torch.zeros(4, 14), labels, paths_of(UNEVEN), 2.0)
    right = torch.tensor([1, 3, 4, 1])
    torch.testing.assert_close(loss, (right + np.exp(2) * (14 - right)).log())


def test_a_constant_added_to_all_nodes_changes_nothing():
    case = CASES["float64"]
    function = MARGIN.of(case)
    assert_same(lambda x: function(x + 50), function, MARGIN.scores(case))


@given(random_cases(), st.randoms(use_true_random=False))
@FEW
def test_order_of_classes_does_not_matter(case, random):
    other, labels, _ = moved_nodes(case, random)
    assert_same(lambda x: margin_nll(x, labels, paths_of(other)), MARGIN.of(case), MARGIN.scores(case, torch.float64))


# --- Published bugs -------------------------------------------------------------------------------------------------------------------


@both_kernels
def test_a_leaf_below_the_root_has_itself_for_right_alone(kernels):
    with kernels():
        loss = margin_nll(torch.zeros(1, 14), torch.tensor([UNEVEN.label("car")]), paths_of(UNEVEN), 0.0)
    assert loss.item() == pytest.approx(np.log(14))


@both_kernels
def test_a_truth_200_below_costs_200_and_the_margin(kernels):
    scores = torch.zeros(1, 14)
    scores[0, UNEVEN.node("oak") - 1] = 200
    with kernels():
        loss = margin_nll(scores, torch.tensor([UNEVEN.label("cat")]), paths_of(UNEVEN))
    assert loss.item() == 205


# --- Errors ---------------------------------------------------------------------------------------------------------------------------

PATHS = paths_of(FLAT)
X, Y = torch.zeros(2, 5), torch.zeros(2).long()


@pytest.mark.parametrize(
    ("scores", "target", "paths", "message"),
    [
        (torch.zeros(5), torch.zeros(5).long(), PATHS, "scores: wanted [B, node but the root], one number a node but the root, got [5]"),
        (X.bool(), Y, PATHS, "scores: wanted float32, float64, float16 or bfloat16, got bool"),
        (X, torch.zeros(3).long(), PATHS, "target: wanted [2], one label a row, got [3]"),
        (X, torch.zeros(2).int(), PATHS, "target: wanted int64, got int32"),
        (X, Y.to("meta"), PATHS, "target is on meta, the scores on cpu"),
        (X, Y, PATHS.to("meta"), "paths is on meta, the scores on cpu"),
    ],
)
def test_what_does_not_fit_is_refused(scores, target, paths, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        margin_nll(scores, target, paths)


def test_a_single_path_is_no_table():
    with pytest.raises(ShapeError, match=r"paths: wanted \[T, L\] \(path_table makes it\), got \[3\]"):
        margin_nll(torch.zeros(2, 5), torch.zeros(2).long(), torch.zeros(3).long())
