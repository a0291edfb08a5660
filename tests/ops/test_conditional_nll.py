"""`conditional_nll` against loops over the path: a softmax among siblings at each of its nodes."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.cases import (
    CASES,
    CHAINS,
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
    nodes_of,
    path_of,
    paths_of,
    random_cases,
    siblings_of,
    weights_of,
)
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.ops import conditional_nll

FEW = settings(max_examples=25)


def tables_of(tree: Hierarchy, weight: Tensor | None = None) -> tuple:
    """Tables of every label; weights that nobody reads are no numbers."""
    paths = paths_of(tree)
    weight = torch.where(paths < 0, torch.nan, weights_of(tree) if weight is None else weight)
    weight[:, 0] = torch.nan
    return nodes_of(tree), paths, weight


def loop(tree: Hierarchy, row: Tensor, label: int) -> Tensor:
    exps, path = torch.cat([torch.ones(1), row.exp()]), path_of(tree, label)  # by node
    return sum(weights_of(tree)[label, k] * nll(exps, [path[k]], siblings_of(tree, path[k])) for k in range(1, len(path)))


def the_path(tree: Hierarchy, label: int) -> list[int]:
    return [node - 1 for node in path_of(tree, label)[1:]]


CONDITIONAL = Operator(conditional_nll, lambda tree, labels: (labels, *tables_of(tree)), by_row(loop), node_columns, the_path)


class TestConditionalNLL(LossTests):
    operator = CONDITIONAL


@given(random_cases())
@FEW
def test_random_trees(case):
    assert_is_the_loop(CONDITIONAL, case)


@both_kernels
def test_three_thousand_leaves(kernels):
    assert_is_the_loop(CONDITIONAL, large_case(), kernels)


# --- Special values -------------------------------------------------------------------------------------------------------------------


def test_one_level_is_cross_entropy():
    case = Case(FLAT, torch.arange(5), dtype=torch.float64)
    tables = tables_of(FLAT, torch.ones(FLAT.num_nodes, 2))
    wanted = lambda x: F.cross_entropy(x, case.labels, reduction="none")  # noqa: E731
    assert_same(lambda x: conditional_nll(x, case.labels, *tables), wanted, case.scores(5))


def test_equal_scores_cost_the_logs_of_how_many_siblings_there_are():
    tables = tables_of(UNEVEN, torch.ones(UNEVEN.num_nodes, UNEVEN.height + 1))
    labels = torch.tensor([UNEVEN.label(name) for name in ("car", "cat", "wolf", "big", "plant", "root")])
    loss = conditional_nll(torch.zeros(6, UNEVEN.num_nodes - 1), labels, *tables)
    torch.testing.assert_close(loss, torch.tensor([3, 3 * 2 * 3, 3 * 2, 3 * 2, 3, 1]).log())


def test_only_children_cost_nothing():
    """d hangs below a, b and c; only a has a sibling."""
    scores = torch.randn(1, CHAINS.num_nodes - 1, generator=torch.Generator().manual_seed(0))
    tables = tables_of(CHAINS, torch.ones(CHAINS.num_nodes, CHAINS.height + 1))
    losses = [conditional_nll(scores, torch.tensor([CHAINS.label(name)]), *tables).item() for name in ("a", "b", "c", "d")]
    assert losses == [losses[0]] * 4


def test_a_constant_added_to_siblings_changes_nothing():
    case = CASES["float64"]
    shift = torch.tensor(UNEVEN.parents[1:] * 7.0, dtype=torch.float64)
    function = CONDITIONAL.of(case)
    assert_same(lambda x: function(x + shift), function, CONDITIONAL.scores(case))


@given(random_cases(), st.randoms(use_true_random=False))
@FEW
def test_order_of_classes_does_not_matter(case, random):
    other, labels, rows = moved_nodes(case, random)
    tables = tables_of(other, weights_of(case.tree)[rows])
    assert_same(lambda x: conditional_nll(x, labels, *tables), CONDITIONAL.of(case), CONDITIONAL.scores(case, torch.float64))


# --- Published bugs -------------------------------------------------------------------------------------------------------------------


@both_kernels
def test_a_leaf_below_the_root_costs_its_cross_entropy(kernels):
    with kernels():
        loss = conditional_nll(torch.zeros(1, UNEVEN.num_nodes - 1), torch.tensor([UNEVEN.label("car")]), *tables_of(UNEVEN))
    assert loss.item() == pytest.approx(np.log(3) * weights_of(UNEVEN)[UNEVEN.label("car"), 1].item())


@both_kernels
def test_a_truth_200_below_costs_200(kernels):
    scores = torch.zeros(1, UNEVEN.num_nodes - 1)
    scores[0, UNEVEN.node("plant") - 1] = 200
    tables = tables_of(UNEVEN, torch.ones(UNEVEN.num_nodes, UNEVEN.height + 1))
    with kernels():
        loss = conditional_nll(scores, torch.tensor([UNEVEN.label("animal")]), *tables)
    assert loss.item() == 200


# --- Errors ---------------------------------------------------------------------------------------------------------------------------

NODES, PATHS, WEIGHT = tables_of(FLAT)
X, Y = torch.zeros(2, 5), torch.zeros(2).long()


@pytest.mark.parametrize(
    ("scores", "target", "tables", "message"),
    [
        (torch.zeros(5), torch.zeros(5).long(), (PATHS, WEIGHT), "scores: wanted [B, 5], one number a node but the root, got [5]"),
        (torch.zeros(2, 6), Y, (PATHS, WEIGHT), "scores: wanted [B, 5], one number a node but the root, got [2, 6]"),
        (
            X.long(),
            Y,
            (PATHS, WEIGHT),
            "scores: wanted float32, float64, float16 or bfloat16, got int64",
        ),
        (X, torch.zeros(3).long(), (PATHS, WEIGHT), "target: wanted [2], one label a row, got [3]"),
        (X, torch.zeros(2).int(), (PATHS, WEIGHT), "target: wanted int64, got int32"),
        (X, Y.to("meta"), (PATHS, WEIGHT), "target is on meta, the scores on cpu"),
        (X, Y, (PATHS.to("meta"), WEIGHT), "paths is on meta, the scores on cpu"),
        (X, Y, (PATHS, WEIGHT[:5]), "weight: wanted [6, 2] as paths, got [5, 2]"),
    ],
)
def test_what_does_not_fit_is_refused(scores, target, tables, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        conditional_nll(scores, target, NODES, *tables)
