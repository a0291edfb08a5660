"""Hierarchical risk and coverage against their definition, threshold by threshold and sample by sample."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.batches import (
    ALONE,
    FLAT,
    SPLITS,
    TREE,
    assert_batches_do_not_matter,
    assert_close,
    assert_scores_are_checked,
    cases,
    leaves,
    mean,
    predicted_at,
    probabilities,
    says_something,
    thresholds,
)

from hiercnn.hierarchy import Hierarchy
from hiercnn.metrics import RiskCoverage, risk_coverage

RULES = st.sampled_from(["climbing", "threshold"])
CAR, WOLF, CAT, DOG = range(4)
ANIMAL, PET, ROOT = (TREE.label(name) for name in ("animal", "pet", "root"))


def loop(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor, rule: str) -> dict:
    nodes = [
        (q, row, int(tree.label_nodes[label]))
        for q, row, label in zip(probabilities(tree, logits).tolist(), logits.tolist(), labels.tolist(), strict=True)
        if says_something(tree, label)
    ]
    if not nodes:
        return dict.fromkeys(("haurc", "risk", "coverage"), math.nan) | {"images": 0}
    points = [(0.0, 0.0)]
    for threshold in thresholds(probabilities(tree, logits)):
        guesses = [predicted_at(tree, q, row, rule, threshold) for q, row, _ in nodes]
        related = [
            guess in tree.ancestors(wanted) or wanted in tree.ancestors(guess) for guess, (_, _, wanted) in zip(guesses, nodes, strict=True)
        ]
        coverage = [1 - (math.log2(leaves(tree, guess)) / math.log2(tree.num_classes) if tree.num_classes > 1 else 0) for guess in guesses]
        points.append((mean(coverage), 1 - mean(related)))
    area = sum((c - last_c) * (r + last_r) / 2 for (last_c, last_r), (c, r) in pairwise(points))
    return {"haurc": area, "risk": points[-1][1], "coverage": points[-1][0], "images": len(nodes)}


@pytest.mark.long
@settings(max_examples=60)
@given(cases(), RULES)
def test_numbers_are_those_of_loops(case, rule):
    tree, logits, labels = case
    assert_close(risk_coverage(logits, labels, tree, rule), loop(tree, logits, labels, rule))


@pytest.mark.long
@settings(max_examples=50)
@given(cases(), RULES, SPLITS)
def test_batches_do_not_matter(case, rule, ends):
    tree, logits, labels = case
    assert_batches_do_not_matter(lambda: RiskCoverage(tree, rule), (logits, labels), ends)


@given(cases(), RULES)
def test_coverage_rises_to_1_as_the_threshold_falls(case, rule):
    tree, logits, labels = case
    metric = RiskCoverage(tree, rule)
    metric.update(logits, labels)
    coverage = metric.curve()["coverage"]
    assert (coverage[1:] - coverage[:-1] > -1e-12).all()
    if len(metric):
        assert coverage[-1] == pytest.approx(1)


def test_by_hand():
    """Two cats, sure of the animal at .9 and of the leaf at .6: a cat, and at .5 a dog."""
    metric = RiskCoverage(TREE)
    sequence = torch.tensor([[ROOT, ANIMAL, CAT], [ROOT, ANIMAL, DOG]])
    metric.update_sequences(sequence, torch.tensor([[1, 0.9, 0.6], [1, 0.9, 0.5]]), torch.tensor([CAT, CAT]))
    animal = 1 - math.log2(3) / 2
    curve = metric.curve()
    assert curve["coverage"].tolist() == pytest.approx([0, animal, (1 + animal) / 2, 1])
    assert curve["risk"].tolist() == [0, 0, 0, 0.5]
    assert_close(metric.compute(), {"haurc": (1 - animal) / 2 * 0.5 / 2, "risk": 0.5, "coverage": 1, "images": 2})


def test_sure_mistakes_have_a_risk_even_if_there_is_one_threshold_only():
    """All leaves at a probability of 1: the way from the root, which is never wrong, is a straight line."""
    found = risk_coverage(torch.eye(4) * 1000, torch.tensor([CAR, WOLF, DOG, CAT]), TREE)
    assert found == {"haurc": 0.25, "risk": 0.5, "coverage": 1, "images": 4}


def test_below_an_inner_label_nothing_is_wrong():
    found = risk_coverage(torch.eye(4)[[CAT, CAR]] * 1000, torch.tensor([PET, PET]), TREE)
    assert (found["risk"], found["coverage"]) == (0.5, 1)


def test_labels_that_hold_all_classes_are_left_out():
    assert risk_coverage(torch.eye(4), torch.tensor([CAR, ROOT, CAT, ROOT]), TREE)["images"] == 2


def test_in_a_tree_of_one_level_it_is_selective_risk():
    """Right at .8 and .7, wrong at .6: each is a third of the coverage."""
    scores = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]], dtype=torch.float64).log()
    assert_close(risk_coverage(scores, torch.tensor([0, 1, 2]), FLAT), {"haurc": 1 / 3 / 3 / 2, "risk": 1 / 3, "coverage": 1, "images": 3})


def test_one_class_is_always_right():
    found = risk_coverage(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), ALONE)
    assert found == {"haurc": 0, "risk": 0, "coverage": 1, "images": 2}


def test_what_does_not_fit_is_refused():
    assert_scores_are_checked(RiskCoverage(TREE), lambda scores, labels: risk_coverage(scores, labels, TREE))


def test_nothing_measured_is_nan():
    found = RiskCoverage(TREE).compute()
    assert math.isnan(found["haurc"])
    assert found["images"] == 0
