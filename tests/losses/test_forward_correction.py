"""Forward correction against plain loops: the probability of the label that was written, given that of each class."""

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from losses.cases import FLOAT32, TREE, assert_equal_loss, cases, label_nll, summed, value_and_gradient
from random_trees import choices_of_cuts

from hiercnn.errors import HierarchyError, RecipeError
from hiercnn.hierarchy import Hierarchy, from_nested
from hiercnn.losses import CrossEntropy, ForwardCorrection, LevelNLL, losses

FEW = settings(max_examples=30)
ROOT = {"depth": 0}


@st.composite
def noisy_cases(draw):
    """A case, groups of its classes, real or random, and a rate that leaves labels their meaning."""
    tree, logits, labels = draw(cases(least_classes=2))
    options = {"cut": draw(st.sampled_from([ROOT, *choices_of_cuts(tree)])), "rate": draw(st.sampled_from([0.0, 0.1, 0.4]))}
    return tree, logits, labels, options | {"random": draw(st.sampled_from([False, True, 3]))}


def loop(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor, options: dict, seed: int = 0) -> torch.Tensor:
    """Σ_c T[c, y] p_c with T written out, one image and one class after the other."""
    cut = tree.cut(**options["cut"])
    groups = cut.groups if options["random"] is False else tree.random_like(cut, seed if options["random"] is True else 3).groups
    rows = []
    for row, label in zip(logits, labels.tolist(), strict=True):
        if label >= tree.num_classes:
            rows.append(label_nll(tree, row, label))
            continue
        together = np.flatnonzero(groups == groups[label])
        shares = {c: 1 - options["rate"] * (len(together) > 1) if c == label else options["rate"] / (len(together) - 1) for c in together}
        parts = [row[c] + np.log(share) for c, share in shares.items() if share]
        rows.append(row.logsumexp(0) - torch.stack(parts).logsumexp(0))
    return torch.stack(rows).mean()


@given(noisy_cases(), st.integers(0, 3))
@settings(max_examples=60)
def test_it_is_the_loop(case, seed):
    tree, logits, labels, options = case
    module = ForwardCorrection(tree, **options, inner_labels=True, seed=seed)
    assert_equal_loss(summed(module, labels), lambda x: loop(tree, x, labels, options, seed), logits)
    assert_equal_loss(summed(module, labels), lambda x: loop(tree, x, labels, options, seed), logits.float(), **FLOAT32)


def test_by_hand():
    """Probabilities 1/2, 1/4, 1/8, 1/8 of car, wolf, cat, dog; 40 % of the animals' labels are another animal's."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    module = ForwardCorrection(TREE, cut={"depth": 1}, rate=0.4, inner_labels=True)
    wanted = {
        "car": 0.5,  # alone in its group
        "wolf": 0.6 * 0.25 + 0.2 * (0.125 + 0.125),
        "cat": 0.6 * 0.125 + 0.2 * (0.25 + 0.125),
        "pet": 0.25,  # of inner nodes none is wrong
        "animal": 0.5,
    }
    for name, probability in wanted.items():
        assert summed(module, torch.tensor([TREE.label(name)]))(logits).item() == pytest.approx(-np.log(probability), abs=1e-6)


@given(noisy_cases())
@FEW
def test_probabilities_of_all_labels_sum_to_one(case):
    tree, logits, _, options = case
    module, classes = ForwardCorrection(tree, **options), torch.arange(tree.num_classes)
    for row in logits:
        terms = module.terms(row.repeat(len(classes), 1), classes)
        assert (-terms["forward_correction"]).exp().sum().item() == pytest.approx(1, abs=1e-9)


@given(noisy_cases())
@FEW
def test_without_noise_it_is_cross_entropy(case):
    tree, logits, labels, options = case
    module = ForwardCorrection(tree, **options | {"rate": 0.0}, inner_labels=True)
    assert_equal_loss(summed(module, labels), summed(CrossEntropy(tree, inner_labels=True), labels), logits)


@given(noisy_cases(), st.floats(-100, 100))
@FEW
def test_a_constant_added_to_all_logits_changes_nothing(case, constant):
    tree, logits, labels, options = case
    loss = summed(ForwardCorrection(tree, **options, inner_labels=True), labels)
    assert_equal_loss(lambda x: loss(x + constant), loss, logits)


@given(noisy_cases())
@FEW
def test_its_group_weight_is_that_of_level_nll(case):
    """Without noise, on classes, the sum is level NLL's."""
    tree, logits, labels, options = case
    assume(len(tree.cut(**options["cut"])) > 1)
    labels = labels % tree.num_classes
    module = ForwardCorrection(tree, **options | {"rate": 0.0}, group_weight=0.7, seed=5)
    level = {"cut": options["cut"], "weight": 0.7, "random": options["random"]}
    assert_equal_loss(summed(module, labels), summed(LevelNLL(tree, levels=[level], seed=5), labels), logits)


def test_a_label_known_to_be_wrong_costs_little_and_has_no_gradient_to_speak_of():
    """Where the network is sure of a sister, the label is explained by the noise: log 5, and nothing to learn; cross-entropy insists."""
    logits, label = torch.tensor([[-200.0, -200.0, 0.0, -200.0]], dtype=torch.float64), torch.tensor([TREE.label("dog")])
    value, gradient = value_and_gradient(summed(ForwardCorrection(TREE, cut={"depth": 1}, rate=0.4), label), logits)
    assert value.item() == pytest.approx(np.log(5))
    assert gradient.abs().max() < 1e-12
    value, gradient = value_and_gradient(summed(CrossEntropy(TREE), label), logits)
    assert value.item() == pytest.approx(200)
    assert gradient.abs().max() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confidently_wrong_outside_the_group_is_finite_with_a_gradient(dtype):
    logits, label = torch.tensor([[200.0, 0.0, 0.0, 0.0]], dtype=dtype), torch.tensor([TREE.label("dog")])
    value, gradient = value_and_gradient(summed(ForwardCorrection(TREE, cut={"depth": 1}, rate=0.4), label), logits)
    assert value.item() == pytest.approx(200, abs=2)
    assert gradient[0, 0].item() == pytest.approx(1)


def test_it_is_registered():
    assert losses["forward_correction"] is ForwardCorrection


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"rate": 0.67, "cut": {"depth": 1}},
            RecipeError,
            "rate: with 0.67, a label in a group of 3 classes tells nothing; it must be lower",
        ),
        ({"rate": 0.5, "cut": {"depth": 2}}, RecipeError, "rate: with 0.5, a label in a group of 2 classes tells nothing"),
        ({"rate": 1, "cut": ROOT}, RecipeError, "rate"),
        ({"rate": -0.1, "cut": ROOT}, RecipeError, "rate"),
        ({"rate": 0.1}, RecipeError, "cut"),
        ({"rate": 0.1, "cut": 99}, HierarchyError, "99"),
        ({"rate": 0.1, "cut": ROOT, "group_weight": -1}, RecipeError, "group_weight"),
    ],
)
def test_bad_options(options, error, message):
    tree = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf"]}}, "car": None})
    with pytest.raises(error, match=re.escape(message)):
        ForwardCorrection(tree, **options)
