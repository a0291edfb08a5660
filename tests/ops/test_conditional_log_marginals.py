"""`conditional_log_marginals` against loops: the softmaxes among siblings along each node's path, multiplied."""

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
    moved_nodes,
    near_0,
    nll,
    node_columns,
    nodes_of,
    paths_of,
    random_cases,
    siblings_of,
    value_and_gradient,
)
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.ops import conditional_log_marginals, conditional_nll

FEW = settings(max_examples=25)


def loop(tree: Hierarchy, scores: Tensor, labels: Tensor | None = None, nodes=None) -> Tensor:
    """Of all nodes, or of some."""
    others = [siblings_of(tree, node) for node in range(1, tree.num_nodes)]
    rows = []
    for row in scores:
        exps, values = torch.cat([torch.ones(1), row.exp()]), [row[:0].sum()]  # by node
        for node in range(1, tree.num_nodes):
            values.append(values[tree.parents[node]] - nll(exps, [node], others[node - 1]))
        rows.append(torch.stack([values[node] for node in (range(tree.num_nodes) if nodes is None else nodes)]))
    return torch.stack(rows) if rows else scores.sum() + torch.zeros(0, tree.num_nodes)


CONDITIONAL = Operator(
    conditional_log_marginals,
    lambda tree, labels: (nodes_of(tree),),
    loop,
    node_columns,
    value_floor=near_0,
    gradient_floor=floor_of_sums,
)


class TestConditionalLogMarginals(SevenTests):
    operator = CONDITIONAL


@given(random_cases())
@FEW
def test_random_trees(case):
    assert_is_the_loop(CONDITIONAL, case)


@pytest.mark.long
@both_kernels
def test_three_thousand_leaves(kernels):
    case = large_case()
    assert_is_the_loop(CONDITIONAL, case._replace(labels=case.labels[:1]), kernels)


def test_one_level_is_log_softmax():
    case = Case(FLAT, torch.arange(3), dtype=torch.float64)
    found = lambda x: conditional_log_marginals(x, nodes_of(FLAT))[:, 1:]  # noqa: E731
    assert_same(found, lambda x: x.log_softmax(1), case.scores(5))


def test_a_labels_log_probability_is_its_conditional_nll():
    case = CASES["uneven depth"]._replace(dtype=torch.float64)
    tables = nodes_of(UNEVEN), paths_of(UNEVEN), torch.ones(UNEVEN.num_nodes, UNEVEN.height + 1)
    nodes = torch.tensor(UNEVEN.label_nodes)[case.labels, None]
    found = lambda x: -conditional_log_marginals(x, nodes_of(UNEVEN)).gather(1, nodes)[:, 0]  # noqa: E731
    assert_same(found, lambda x: conditional_nll(x, case.labels, *tables), CONDITIONAL.scores(case))


def test_probabilities_of_the_leaves_are_1():
    found = conditional_log_marginals(CONDITIONAL.scores(CASES["float64 of 200"]), nodes_of(UNEVEN))
    torch.testing.assert_close(found[:, torch.tensor(UNEVEN.leaf_nodes)].exp().sum(1), torch.ones(len(found), dtype=torch.float64))


@both_kernels
def test_marginals_of_1e_minus_30_keep_their_digits(kernels):
    scores = torch.zeros(1, UNEVEN.num_nodes - 1)
    scores[0, UNEVEN.node("animal") - 1] = -69
    assert_is_the_loop(CONDITIONAL, Case(UNEVEN, torch.tensor([0])), kernels, scores)
    with kernels():
        found = conditional_log_marginals(scores, nodes_of(UNEVEN))[0, UNEVEN.node("animal")]
    assert found.item() == pytest.approx(-69 - torch.tensor(2.0).double().log().item(), rel=1e-7)


@both_kernels
def test_nodes_at_minus_infinity_are_masked(kernels):
    scores = CONDITIONAL.scores(CASES["uneven depth"])[:1]
    scores[0, UNEVEN.node("animal") - 1] = -torch.inf
    wanted = loop(UNEVEN, scores.double())
    kept = wanted[0] > -torch.inf
    upstream = torch.where(kept, torch.arange(15.0), 0)[None]
    with kernels():
        found, gradient = value_and_gradient(lambda x: conditional_log_marginals(x, nodes_of(UNEVEN)), scores, upstream)
    assert torch.equal(found[0] == -torch.inf, ~kept)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    _, expected = value_and_gradient(lambda x: loop(UNEVEN, x, nodes=kept.nonzero()[:, 0].tolist()), scores.double(), upstream[:, kept])
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-5)


@both_kernels
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_score_that_is_no_number_spoils_its_row_alone(kernels, value):
    good = CONDITIONAL.scores(CASES["uneven depth"])[:2]
    scores = good.clone()
    scores[1, 3] = value
    with kernels():
        found, wanted = (conditional_log_marginals(x, nodes_of(UNEVEN)) for x in (scores, good))
    assert torch.equal(found[0], wanted[0])
    assert not found[1, 4].isfinite()


@given(random_cases(), st.randoms(use_true_random=False))
@FEW
def test_order_of_classes_does_not_matter(case, random):
    other, _, _ = moved_nodes(case, random)
    assert_same(lambda x: conditional_log_marginals(x, nodes_of(other)), CONDITIONAL.of(case), CONDITIONAL.scores(case, torch.float64))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(5), "scores: wanted [B, 5], one number a node but the root, got [5]"),
        (torch.zeros(2, 6), "scores: wanted [B, 5], one number a node but the root, got [2, 6]"),
        (torch.zeros(2, 5).int(), "scores: wanted float32, float64, float16 or bfloat16, got int32"),
        (torch.zeros(2, 5, device="meta"), "nodes is on cpu, the scores on meta"),
    ],
)
def test_what_does_not_fit_is_refused(scores, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        conditional_log_marginals(scores, nodes_of(FLAT))
