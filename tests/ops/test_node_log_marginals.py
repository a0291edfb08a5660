"""`node_log_marginals` against sums over the leaves below each node."""

import re

import pytest
import torch
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
    floor_of_sums,
    large_case,
    leaf_columns,
    moved_nodes,
    near_0,
    nodes_of,
    random_cases,
    value_and_gradient,
)
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.ops import Nodes, node_log_marginals

FEW = settings(max_examples=25)


def loop(tree: Hierarchy, scores: Tensor, labels: Tensor | None = None, nodes=None) -> Tensor:
    """Of all nodes, or of some."""
    below = [torch.tensor(tree.leaves(node)) for node in (range(tree.num_nodes) if nodes is None else nodes)]
    exps = scores.exp()
    return torch.stack([(exps[:, leaves].sum(1) / exps.sum(1)).log() for leaves in below], 1)


MARGINALS = Operator(
    node_log_marginals,
    lambda tree, labels: (nodes_of(tree),),
    loop,
    leaf_columns,
    value_floor=near_0,
    gradient_floor=floor_of_sums,
)


class TestNodeLogMarginals(SevenTests):
    operator = MARGINALS


@given(random_cases())
@FEW
def test_random_trees(case):
    assert_is_the_loop(MARGINALS, case)


@pytest.mark.long
@both_kernels
def test_three_thousand_leaves(kernels):
    case = large_case()
    assert_is_the_loop(MARGINALS, case._replace(labels=case.labels[:1]), kernels)


def test_one_level_is_log_softmax():
    case = Case(FLAT, torch.arange(3), dtype=torch.float64)
    found = lambda x: node_log_marginals(x, nodes_of(FLAT))[:, 1:]  # noqa: E731
    assert_same(found, lambda x: x.log_softmax(1), case.scores(5))


def test_one_cut_is_a_tree_of_its_groups():
    case = Case(FLAT, torch.arange(3), dtype=torch.float64)
    groups = torch.tensor([1, 0, 1, 2, 0])
    parents = torch.cat([torch.tensor([-1, 0, 0, 0]), groups + 1])
    nodes = Nodes.from_parents(parents.numpy(), torch.arange(4, 9).numpy())
    sums = lambda x: (x.softmax(1) @ torch.nn.functional.one_hot(groups).double()).log()  # noqa: E731
    assert_same(lambda x: node_log_marginals(x, nodes)[:, 1:4], sums, case.scores(5))


def test_probabilities_of_a_nodes_children_are_its_own():
    case = CASES["float64"]
    found = node_log_marginals(MARGINALS.scores(case), nodes_of(UNEVEN)).exp()
    for node in UNEVEN.label_nodes[UNEVEN.num_classes :]:
        torch.testing.assert_close(found[:, torch.tensor(UNEVEN.children(node))].sum(1), found[:, node])


@both_kernels
def test_marginals_of_1e_minus_30_keep_their_digits(kernels):
    scores = torch.zeros(1, UNEVEN.num_classes)
    pets = torch.tensor(UNEVEN.leaves(UNEVEN.node("pet")))
    scores[0, pets] = torch.tensor([-69.0, -69.5, -70.0])
    assert_is_the_loop(MARGINALS, Case(UNEVEN, torch.tensor([0])), kernels, scores)
    with kernels():
        found = node_log_marginals(scores, nodes_of(UNEVEN))[0, UNEVEN.node("pet")]
    torch.testing.assert_close(found.double(), loop(UNEVEN, scores.double())[0, UNEVEN.node("pet")], rtol=1e-7, atol=0)


@both_kernels
def test_classes_at_minus_infinity_are_masked(kernels):
    scores = MARGINALS.scores(CASES["uneven depth"])[:1]
    scores[0, torch.tensor(UNEVEN.leaves(UNEVEN.node("pet")))] = -torch.inf
    wanted = loop(UNEVEN, scores.double())
    kept = wanted[0] > -torch.inf
    upstream = torch.where(kept, torch.arange(15.0), 0)[None]
    with kernels():
        found, gradient = value_and_gradient(lambda x: node_log_marginals(x, nodes_of(UNEVEN)), scores, upstream)
    assert torch.equal(found[0] == -torch.inf, ~kept)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    _, expected = value_and_gradient(lambda x: loop(UNEVEN, x, nodes=kept.nonzero()[:, 0].tolist()), scores.double(), upstream[:, kept])
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-5)


@both_kernels
def test_a_masked_group_hides_no_low_scores(kernels):
    scores = torch.full((1, UNEVEN.num_classes), -200.0)
    pets = torch.tensor(UNEVEN.leaves(UNEVEN.node("pet")))
    scores[0, pets] = -torch.inf
    with kernels():
        found = node_log_marginals(scores, nodes_of(UNEVEN))[0, UNEVEN.node("animal")]
    assert found.exp().item() == pytest.approx(1 / (UNEVEN.num_classes - len(pets)))


@both_kernels
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_score_that_is_no_number_spoils_its_row_alone(kernels, value):
    good = MARGINALS.scores(CASES["uneven depth"])[:2]
    scores = good.clone()
    scores[1, 3] = value
    with kernels():
        found, wanted = (node_log_marginals(x, nodes_of(UNEVEN)) for x in (scores, good))
    assert torch.equal(found[0], wanted[0])
    assert not found[1, UNEVEN.leaf_nodes[3]].isfinite()


@given(random_cases(), st.randoms(use_true_random=False))
@FEW
def test_order_of_classes_does_not_matter(case, random):
    other, _, rows = moved_nodes(case, random)
    order = rows[: case.tree.num_classes]
    assert_same(lambda x: node_log_marginals(x[:, order], nodes_of(other)), MARGINALS.of(case), MARGINALS.scores(case, torch.float64))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(5), "logits: wanted [B, 5], one number a class, got [5]"),
        (torch.zeros(2, 6), "logits: wanted [B, 5], one number a class, got [2, 6]"),
        (torch.zeros(2, 5).int(), "logits: wanted float32, float64, float16 or bfloat16, got int32"),
        (torch.zeros(2, 5, device="meta"), "nodes is on cpu, the scores on meta"),
    ],
)
def test_what_does_not_fit_is_refused(logits, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        node_log_marginals(logits, nodes_of(FLAT))
