"""HXE against loops over the path, and the published bugs it must not have."""

import math

import pytest
import torch
from hypothesis import given
from losses.cases import FLOAT32, TREE, assert_equal_loss, cases, nll_of, summed

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy, from_nested
from hiercnn.losses import HXE, CrossEntropy


def loop(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor, alpha: float) -> torch.Tensor:
    """Mean over the batch of Σ_k λ_k (−log q_k + log q_{k−1}), one image and one step after the other."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        above, total = torch.zeros((), dtype=logits.dtype), row.sum() * 0
        for step, node in enumerate(tree.ancestors(int(tree.label_nodes[label]))[1:]):
            own = nll_of(row, tree.leaves(int(node)))
            total = total + math.exp(-alpha * step) * (own - above)
            above = own
        losses.append(total)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.6, 5.0])
@given(case=cases())
def test_it_is_the_loop(alpha, case):
    tree, logits, labels = case
    loss = summed(HXE(tree, alpha=alpha, inner_labels=True), labels)
    assert_equal_loss(loss, lambda x: loop(tree, x, labels, alpha), logits)
    assert_equal_loss(loss, lambda x: loop(tree, x, labels, alpha), logits.float(), **FLOAT32)


@given(case=cases())
def test_alpha_0_is_cross_entropy(case):
    tree, logits, labels = case
    modules = HXE(tree, alpha=0.0, inner_labels=True), CrossEntropy(tree, inner_labels=True)
    assert_equal_loss(*(summed(module, labels) for module in modules), logits)


def test_a_tree_of_one_level_gives_cross_entropy():
    tree, labels = from_nested(["a", "b", "c"]), torch.tensor([0, 1, 2, 1])
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_equal_loss(summed(HXE(tree, alpha=0.4), labels), lambda x: torch.nn.functional.cross_entropy(x, labels), logits)


def test_a_leaf_that_hangs_from_the_root_has_a_finite_loss():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]], requires_grad=True)
    loss = HXE(TREE, alpha=0.3)(logits, torch.tensor([TREE.label("car")]))["hxe"]
    loss.backward()
    assert loss.item() == pytest.approx(torch.logsumexp(torch.arange(4.0), 0).item(), rel=1e-6)
    assert logits.grad.isfinite().all()


def test_a_truth_200_below_the_rest_costs_200():
    logits = torch.zeros(1, 4)
    logits[0, TREE.label("car")] = 200
    loss = HXE(TREE, alpha=0.0)(logits, torch.tensor([TREE.label("cat")]))["hxe"]
    assert loss.item() == pytest.approx(200, rel=1e-6)


def test_errors_near_the_root_cost_more():
    near = torch.full((1, 4), -9.0).scatter(1, torch.tensor([[TREE.label("dog")]]), 9.0)
    far = torch.full((1, 4), -9.0).scatter(1, torch.tensor([[TREE.label("car")]]), 9.0)
    cat = torch.tensor([TREE.label("cat")])
    for alpha in (0.1, 0.5):
        ratio = HXE(TREE, alpha=alpha)(near, cat)["hxe"] / HXE(TREE, alpha=alpha)(far, cat)["hxe"]
        assert ratio.item() == pytest.approx(math.exp(-2 * alpha), rel=0.05)  # cat is wrong at the third step, car at the first


def test_logits_of_other_classes_are_refused():
    with pytest.raises(ShapeError, match=r"logits: wanted \[B, 4\], one number a class, got \[2, 5\]"):
        HXE(TREE)(torch.zeros(2, 5), torch.tensor([0, 1]))
