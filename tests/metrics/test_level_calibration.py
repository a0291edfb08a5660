"""ECE and Brier per level against plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.batches import (
    ALONE,
    SPLITS,
    TREE,
    assert_batches_do_not_matter,
    assert_close,
    assert_scores_are_checked,
    cases,
    mean,
    order,
    path,
)

from hiercnn.errors import DataError, ShapeError
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.metrics import Calibration, calibration

CUTS = TREE.cuts([{"depth": 1}, {"depth": 2}])


def levels(tree: Hierarchy) -> list[Cut]:
    """Cuts at all depths, each once, the leaves last."""
    found = {len(cut): cut for cut in (tree.cut(depth=depth) for depth in range(tree.height))}
    return [cut for cut in found.values() if cut.name != "leaf"] + [tree.leaf_cut()]


def loop(tree: Hierarchy, cuts: list[Cut], logits: torch.Tensor, labels: torch.Tensor, bins: int) -> dict:
    """The same numbers, one image after the other."""
    ece, brier = {}, {}
    for cut in cuts:
        squares, places = [], [[] for _ in range(bins)]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            above = [group for group, node in enumerate(cut.nodes) if node in path(tree, label)]
            if not above:
                continue
            whole = sum(math.exp(z) for z in row)
            q = [sum(math.exp(row[leaf]) for leaf in tree.leaves(node)) / whole for node in cut.nodes]
            squares.append(sum((p - (group == above[0])) ** 2 for group, p in enumerate(q)))
            guess = order([round(p, 12) for p in q])[0]  # sums in another order differ in the last digit
            places[max(math.ceil(round(q[guess] * bins, 9)) - 1, 0)].append((guess == above[0], q[guess]))
        brier[cut.name] = mean(squares)
        gaps = [abs(mean([hit for hit, _ in place]) - mean([p for _, p in place])) * len(place) for place in places if place]
        ece[cut.name] = sum(gaps) / len(squares) if squares else math.nan
    return {"ece": ece, "brier": brier, "bins": bins}


@pytest.mark.long
@given(cases(), st.integers(1, 20))
def test_numbers_are_those_of_loops(case, bins):
    tree, logits, labels = case
    logits = logits + torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)) * 1e-3  # sums are no ties, nor on edges
    assert_close(calibration(logits, labels, tree, levels(tree), bins=bins), loop(tree, levels(tree), logits, labels, bins), abs=1e-9)


@settings(max_examples=50)
@given(cases(), SPLITS)
def test_batches_do_not_matter(case, ends):
    tree, logits, labels = case
    assert_batches_do_not_matter(lambda: Calibration(tree, levels(tree), bins=4), (logits, labels), ends)


def test_by_hand():
    """Leaf probabilities .4 .3 .2 .1 of car wolf cat dog; the label is the cat: at depth 1 the animals have .6."""
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()
    found = calibration(scores, torch.tensor([TREE.label("cat")]), TREE, CUTS)
    wanted = {"2 groups": 1 - 0.6, "3 groups": 0.4, "leaf": 0.4}  # right at .6; car at .4 is wrong
    brier = {"2 groups": 2 * 0.4**2, "3 groups": 0.7**2 + 0.3**2 + 0.4**2, "leaf": 0.4**2 + 0.3**2 + 0.8**2 + 0.1**2}
    assert_close(found, {"ece": wanted, "brier": brier, "bins": 15})


def test_errors_in_one_bin_cancel_and_in_two_do_not():
    """Four samples said to be right at .75, of which three are."""
    scores = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log().expand(4, 2)
    tree, labels = Hierarchy(["r", "a", "b"], [-1, 0, 0]), torch.tensor([0, 0, 0, 1])
    assert calibration(scores, labels, tree)["ece"]["leaf"] == pytest.approx(0, abs=1e-12)
    surer = torch.cat([scores[:2], torch.tensor([[0.95, 0.05]] * 2, dtype=torch.float64).log()])
    assert calibration(surer, labels, tree, bins=10)["ece"]["leaf"] == pytest.approx((2 * 0.25 + 2 * 0.45) / 4)
    assert calibration(surer, labels, tree, bins=1)["ece"]["leaf"] == pytest.approx(0.1)


def test_a_probability_on_an_edge_is_in_the_lower_bin():
    """Of two bins, ½ and wrong is in the first, ¾ and right in the second."""
    scores, tree = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64).log(), Hierarchy(["r", "a", "b"], [-1, 0, 0])
    assert calibration(scores, torch.tensor([1, 0]), tree, bins=2)["ece"]["leaf"] == pytest.approx((0.5 + 0.25) / 2)


def test_sure_and_right_is_perfect():
    scores = torch.eye(4) * 1000
    found = calibration(scores, torch.arange(4), TREE, CUTS)
    assert {*found["ece"].values(), *found["brier"].values()} == {0}


def test_inner_labels_count_at_cuts_at_or_above_them():
    found = calibration(torch.eye(4), torch.full((4,), TREE.label("pet")), TREE, CUTS)
    assert [math.isnan(value) for value in found["brier"].values()] == [False, False, True]


def test_groups_that_are_no_nodes():
    cut = TREE.random_like(CUTS[0], 0)
    scores = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(9) % 4
    q = np.stack([scores.softmax(1).numpy()[:, cut.groups == group].sum(1) for group in range(2)], 1)
    brier = ((q - np.eye(2)[cut.groups[labels]]) ** 2).sum(1).mean()
    assert calibration(scores, labels, TREE, [cut])["brier"][cut.name] == pytest.approx(brier)


def test_one_class_is_always_right():
    found = calibration(torch.randn(3, 1), torch.zeros(3, dtype=torch.int64), ALONE)
    assert found == {"ece": {"leaf": 0}, "brier": {"leaf": 0}, "bins": 15}


def test_what_does_not_fit_is_refused():
    assert_scores_are_checked(Calibration(TREE, CUTS), lambda scores, labels: calibration(scores, labels, TREE, CUTS))
    with pytest.raises(ShapeError, match="bins: wanted 1 or more, got 0"):
        Calibration(TREE, bins=0)


def test_scores_without_probabilities_are_refused():
    with pytest.raises(DataError, match="1 of 2 samples"):
        calibration(torch.tensor([[0.0, torch.inf, 0, 0], [0.0, 1, 2, -torch.inf]]), torch.tensor([0, 1]), TREE)


def test_a_score_that_is_no_number_shows():
    metric = Calibration(TREE, CUTS)
    metric.update(torch.tensor([[0.0, torch.nan, 0, 0]]), torch.tensor([0]))
    found = metric.compute()
    assert np.isnan([*found["ece"].values(), *found["brier"].values()]).all()


def test_nothing_measured_is_nan():
    assert math.isnan(Calibration(TREE).compute()["ece"]["leaf"])
