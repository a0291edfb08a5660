"""`ring_nll` against loops over the path and over all leaves: level NLL, HXE and soft labels."""

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
    SevenTests,
    assert_is_the_loop,
    assert_same,
    both_kernels,
    by_row,
    large_case,
    leaf_columns,
    moved_nodes,
    nll,
    path_of,
    paths_of,
    random_cases,
    weights_of,
)
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.ops import Rings, ring_nll

FEW = settings(max_examples=25)
FLOAT32 = 1e-6  # where weights are no sums of powers of 2


def rings_of(tree: Hierarchy, weight: Tensor | None = None, soft: Tensor | None = None) -> Rings:
    """Tables of every label; the root's weight is no number, for nobody reads it."""
    paths = paths_of(tree)
    nodes = torch.where(paths < 0, paths.amax(1, keepdim=True), paths)  # depth-first numbers: the deepest has the largest
    starts, stops = torch.tensor(tree.starts)[nodes], torch.tensor(tree.stops)[nodes]
    weight = torch.where(paths < 0, 0, weights_of(tree) if weight is None else weight)
    weight[:, 0] = torch.nan
    return Rings(torch.tensor(tree.leaf_order), starts, torch.where(paths < 0, starts, stops), weight, soft)


def soft_of(tree: Hierarchy) -> Tensor:
    return weights_of(tree, seed=1)


def hard(tree: Hierarchy, row: Tensor, label: int) -> Tensor:
    """Σ_k w_k (−log q_k)."""
    exps, path = row.exp(), path_of(tree, label)
    return sum(weights_of(tree)[label, k] * nll(exps, tree.leaves(path[k])) for k in range(1, len(path)))


def soft(tree: Hierarchy, row: Tensor, label: int) -> Tensor:
    """The same, and Σ_j s_r (−log p_j), where r is the depth of the common ancestor of leaf j and the label."""
    above = set(path_of(tree, label))
    rings = [len(above.intersection(path_of(tree, leaf))) - 1 for leaf in range(tree.num_classes)]
    return hard(tree, row, label) - (soft_of(tree)[label, rings] * row.log_softmax(0)).sum()


def the_leaf(tree: Hierarchy, label: int) -> list[int]:
    return [label]


def upstream_size(upstream: torch.Tensor) -> torch.Tensor:
    """A gradient of soft labels is the difference of two numbers up to 1, times the gradient of the loss."""
    return upstream.abs()[:, None]


HARD = Operator(ring_nll, lambda tree, labels: (labels, rings_of(tree)), by_row(hard), leaf_columns, the_leaf)
SOFT = Operator(
    ring_nll,
    lambda tree, labels: (labels, rings_of(tree, soft=soft_of(tree))),
    by_row(soft),
    leaf_columns,
    value_floor=lambda scores: 1.0,  # in_0 − z_j is a difference of scores
    gradient_floor=upstream_size,
)


class TestWeightsOnThePath(LossTests):
    operator = HARD


class TestSoftWeights(SevenTests):
    operator = SOFT


@pytest.mark.long
@given(random_cases(), st.sampled_from([HARD, SOFT]))
@FEW
def test_random_trees(case, operator):
    assert_is_the_loop(operator, case)


@both_kernels
def test_three_thousand_leaves(kernels):
    assert_is_the_loop(HARD, large_case(), kernels)


@pytest.mark.long
@both_kernels
def test_three_thousand_leaves_with_soft_weights(kernels):
    assert_is_the_loop(SOFT, large_case(), kernels)


@pytest.mark.slow
def test_a_hundred_thousand_leaves():
    parents = [-1] + [(node - 1) // 10 for node in range(1, 111_111)]
    tree = Hierarchy([str(node) for node in range(111_111)], parents)
    assert_is_the_loop(HARD, Case(tree, torch.tensor([0, 77_777, 100_001, 105_000]), scale=10))


# --- Special values -------------------------------------------------------------------------------------------------------------------


def scores_of(tree: Hierarchy) -> tuple[Tensor, Tensor]:
    """A row for each class, float64, and its label."""
    case = Case(tree, torch.arange(tree.num_classes), dtype=torch.float64)
    return case.scores(tree.num_classes), case.labels


def at_the_label(tree: Hierarchy) -> Tensor:
    """Weight 1 of each label's own node, 0 of those above."""
    return F.one_hot(torch.tensor(tree.depths[tree.label_nodes]), tree.height + 1).float()


def test_one_level_is_cross_entropy():
    scores, labels = scores_of(FLAT)
    rings = rings_of(FLAT, torch.ones(FLAT.num_nodes, 2))
    assert_same(lambda x: ring_nll(x, labels, rings), lambda x: F.cross_entropy(x, labels, reduction="none"), scores)


@pytest.mark.parametrize("tree", [UNEVEN, CHAINS], ids=["uneven depth", "single children"])
def test_weight_1_of_the_leaf_alone_is_cross_entropy(tree):
    scores, labels = scores_of(tree)
    rings = rings_of(tree, at_the_label(tree))
    assert_same(lambda x: ring_nll(x, labels, rings), lambda x: F.cross_entropy(x, labels, reduction="none"), scores)


def conditional_weights(tree: Hierarchy, alpha: float) -> Tensor:
    """w_k = v_k − v_(k+1) with v_k = exp(−α (k − 1)), and v_k itself of the label's own node [T, L]."""
    depth = torch.tensor(tree.depths[tree.label_nodes])[:, None]
    k = torch.arange(tree.height + 1)
    value = torch.exp(-alpha * (k - 1.0))
    return torch.where(k == depth, value, value - torch.exp(-alpha * k))


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_hxe(alpha):
    scores, labels = scores_of(UNEVEN)

    def loop(tree, row, label):
        exps, path = row.exp(), path_of(tree, label)
        q = [exps[torch.tensor(tree.leaves(node))].sum() / exps.sum() for node in path]
        return -sum(np.exp(-alpha * (k - 1)) * (q[k] / q[k - 1]).log() for k in range(1, len(path)))

    rings = rings_of(UNEVEN, conditional_weights(UNEVEN, alpha))
    assert_same(lambda x: ring_nll(x, labels, rings), lambda x: by_row(loop)(UNEVEN, x, labels), scores, FLOAT32)


def test_hxe_of_alpha_0_is_cross_entropy():
    scores, labels = scores_of(UNEVEN)
    rings = rings_of(UNEVEN, conditional_weights(UNEVEN, 0.0))
    assert_same(lambda x: ring_nll(x, labels, rings), lambda x: F.cross_entropy(x, labels, reduction="none"), scores)


def test_equal_soft_weights_are_label_smoothing():
    scores, labels = scores_of(UNEVEN)
    even = torch.full((UNEVEN.num_nodes, UNEVEN.height + 1), 0.125 / UNEVEN.num_classes)
    rings = rings_of(UNEVEN, 0.875 * at_the_label(UNEVEN), even)
    wanted = lambda x: F.cross_entropy(x, labels, reduction="none", label_smoothing=0.125)  # noqa: E731
    assert_same(lambda x: ring_nll(x, labels, rings), wanted, scores)


def test_soft_labels_by_height_of_the_common_ancestor():
    scores, labels = scores_of(UNEVEN)
    rows = np.arange(UNEVEN.num_classes)
    shares = torch.tensor(-5 * UNEVEN.distances(rows[:, None], rows)).softmax(1)  # [C, C]
    paths = paths_of(UNEVEN)[: UNEVEN.num_classes]
    height = torch.tensor(UNEVEN.heights)[paths] / UNEVEN.height
    by_ring = torch.exp(-5 * height) * (shares.diagonal()[:, None])
    rings = rings_of(UNEVEN)
    rings = Rings(rings.order, *(table[: UNEVEN.num_classes] for table in rings[1:3]), torch.zeros(by_ring.shape), by_ring)
    assert_same(lambda x: ring_nll(x, labels, rings), lambda x: F.cross_entropy(x, shares, reduction="none"), scores, FLOAT32)


def test_a_constant_added_to_all_logits_changes_nothing():
    case = CASES["float64"]
    function, scores = HARD.of(case), HARD.scores(case)
    assert_same(lambda x: function(x + 50), function, scores)


def test_a_coarser_label_costs_less():
    scores = HARD.scores(CASES["float64"])[:1].expand(UNEVEN.num_nodes, -1)
    losses = ring_nll(scores, torch.arange(UNEVEN.num_nodes), rings_of(UNEVEN, at_the_label(UNEVEN)))
    by_node = dict(zip(UNEVEN.label_nodes.tolist(), losses.tolist(), strict=True))
    assert by_node[0] == 0
    assert all(by_node[UNEVEN.parents[node]] <= loss for node, loss in by_node.items() if node)


@given(random_cases(), st.randoms(use_true_random=False))
@FEW
def test_order_of_classes_does_not_matter(case, random):
    other, labels, rows = moved_nodes(case, random)
    order = rows[: case.tree.num_classes]
    rings = rings_of(other, weights_of(case.tree)[rows], soft_of(case.tree)[rows])
    scores = SOFT.scores(case, torch.float64)
    assert_same(lambda x: ring_nll(x[:, order], labels, rings), SOFT.of(case), scores)


# --- Published bugs and edges ---------------------------------------------------------------------------------------------------------


@both_kernels
def test_a_leaf_below_the_root_costs_its_cross_entropy(kernels):
    scores, labels = torch.zeros(1, UNEVEN.num_classes), torch.tensor([UNEVEN.label("car")])
    with kernels():
        loss = ring_nll(scores, labels, rings_of(UNEVEN, torch.ones(UNEVEN.num_nodes, UNEVEN.height + 1)))
    assert loss.item() == pytest.approx(np.log(UNEVEN.num_classes))


@both_kernels
def test_a_truth_200_below_costs_200(kernels):
    scores = torch.zeros(1, UNEVEN.num_classes)
    scores[:, torch.tensor(UNEVEN.leaves(UNEVEN.node("plant")))] = 200
    with kernels():
        loss = ring_nll(scores, torch.tensor([UNEVEN.label("cat")]), rings_of(UNEVEN, at_the_label(UNEVEN)))
    assert loss.item() == pytest.approx(200 + np.log(3))


# --- Errors ---------------------------------------------------------------------------------------------------------------------------

RINGS = rings_of(FLAT)
X, Y = torch.zeros(2, 5), torch.zeros(2).long()


@pytest.mark.parametrize(
    ("logits", "target", "rings", "message"),
    [
        (torch.zeros(5), torch.zeros(5).long(), RINGS, "logits: wanted [B, 5], one number a class, got [5]"),
        (torch.zeros(2, 3), Y, RINGS, "logits: wanted [B, 5], one number a class, got [2, 3]"),
        (X.int(), Y, RINGS, "logits: wanted float32, float64, float16 or bfloat16, got int32"),
        (X, torch.zeros(3).long(), RINGS, "target: wanted [2], one label a row, got [3]"),
        (X, torch.zeros(2, 1).long(), RINGS, "target: wanted [2], one label a row, got [2, 1]"),
        (X, torch.zeros(2), RINGS, "target: wanted int64, got float32"),
        (X, Y.to("meta"), RINGS, "target is on meta, the scores on cpu"),
        (X, Y, RINGS._replace(order=RINGS.order.to("meta")), "rings is on meta, the scores on cpu"),
        (X, Y, RINGS._replace(weight=torch.zeros(6, 3)), "rings: starts, stops and weights want one"),
        (X, Y, RINGS._replace(soft=torch.zeros(5, 2)), "got [[6, 2], [6, 2], [6, 2], [5, 2]]"),
    ],
)
def test_what_does_not_fit_is_refused(logits, target, rings, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        ring_nll(logits, target, rings)
