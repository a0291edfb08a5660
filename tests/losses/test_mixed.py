"""Labels mixed from two: every loss is λ times that of the first and 1 − λ times that of the second."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losses.cases import TREE, assert_equal_loss, summed
from ops.cases import CASES, nodes_of, paths_of, weights_of
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.losses import HXE, ConditionalNLL, CrossEntropy, LevelNLL, MarginNLL, SoftLabels
from hiercnn.losses._rings import node_rings, paths
from hiercnn.ops import Mixed, conditional_nll, margin_nll, ring_nll

FIRST, SECOND = torch.tensor([0, 3, 1, 1]), torch.tensor([2, 3, 0, 4])  # 4 is an inner node
LOSSES = {
    "cross-entropy": CrossEntropy(TREE, inner_labels=True),
    "smoothed": CrossEntropy(TREE, label_smoothing=0.2, inner_labels=True),
    "level NLL": LevelNLL(TREE, levels=[{"cut": 2}, {"cut": 3, "random": True}], inner_labels=True),
    "HXE": HXE(TREE, inner_labels=True),
    "soft labels": SoftLabels(TREE, inner_labels=True),
    "soft labels from a table": SoftLabels(TREE, distance="path", inner_labels=True),
    "conditional": ConditionalNLL(TREE, inner_labels=True),
    "margin": MarginNLL(TREE, inner_labels=True),
}


def one_image(loss, row: Tensor, label: int) -> Tensor:
    return sum(loss(row[None], torch.tensor([int(label)])).values())


@pytest.mark.long
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.booleans())
def test_losses_mix_image_by_image(loss, shares, one_share):
    shares = [shares[0]] * 4 if one_share else shares
    columns = TREE.num_nodes - 1 if loss.scores == "nodes" else TREE.num_classes
    scores = torch.randn(4, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = shares[0] if one_share else torch.tensor(shares, dtype=torch.float64)

    def wanted(scores: Tensor) -> Tensor:
        rows = zip(scores, FIRST, SECOND, shares, strict=True)
        return sum(lam * one_image(loss, row, one) + (1 - lam) * one_image(loss, row, other) for row, one, other, lam in rows) / 4

    assert_equal_loss(summed(loss, Mixed(FIRST, SECOND, share)), wanted, scores, rtol=1e-6, atol=1e-8)


def test_flat_cross_entropy_mixes_too():
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    soft = 0.3 * torch.eye(4).double()[FIRST] + 0.7 * torch.eye(4).double()[FIRST.flip(0)]
    assert_equal_loss(
        summed(CrossEntropy(TREE), Mixed(FIRST, FIRST.flip(0), 0.3)), lambda x: torch.nn.functional.cross_entropy(x, soft), logits
    )


def _ring(tree):
    rings = node_rings(tree, paths(tree, tree.num_nodes), weights_of(tree).double().numpy())
    return tree.num_classes, lambda scores, target: ring_nll(scores, target, rings)


def _conditional(tree):
    tables = nodes_of(tree), paths_of(tree), weights_of(tree)
    return tree.num_nodes - 1, lambda scores, target: conditional_nll(scores, target, *tables)


def _margin(tree):
    return tree.num_nodes - 1, lambda scores, target: margin_nll(scores, target, paths_of(tree))


@pytest.mark.parametrize("operator", [_ring, _conditional, _margin])
def test_operators_mix(operator):
    case = CASES["uneven depth"]
    columns, loss = operator(case.tree)
    scores, other, share = case.scores(columns), case.labels.flip(0), torch.linspace(0, 1, len(case.labels))
    mixed = loss(scores, Mixed(case.labels, other, share))
    torch.testing.assert_close(mixed, share * loss(scores, case.labels) + (1 - share) * loss(scores, other))


# --- Bad input ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (torch.full((4, 1), 0.5), "share: wanted one number or [4], one an image, got [4, 1]"),
        (torch.full((2,), 0.5), "share: wanted one number or [4], one an image, got [2]"),
        (7.0, "share: wanted a number from 0 to 1 or a tensor [4] of them, got 7.0"),
        (None, "share: wanted a number from 0 to 1 or a tensor [4] of them, got None"),
    ],
)
def test_bad_shares(share, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        HXE(TREE)(torch.zeros(4, 4), Mixed(FIRST, FIRST, share))
