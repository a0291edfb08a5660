"""Soft labels against plain loops: targets that fall with the distance in the tree."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses.cases import FLOAT32, TREE, assert_equal_loss, cases, label_nll, nll_of, summed, value_and_gradient
from train.tiny import tiny

from hiercnn.errors import HierarchyError, RecipeError, ShapeError
from hiercnn.hierarchy import DISTANCES, Hierarchy, from_classes, from_nested
from hiercnn.losses import CrossEntropy, SoftLabels, losses

FEW = settings(max_examples=30)
FEWER_DIGITS = {"rtol": 1e-6, "atol": 1e-6}  # targets are kept in float32
BETAS = st.sampled_from([0.5, 4.0, 10.0, 30.0])
MANY = cases(least_classes=2)


def loop(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor, beta: float, distance: str = "lca") -> torch.Tensor:
    """Targets and log-probabilities, one image and one class after the other."""
    classes = range(tree.num_classes)
    largest = max(float(tree.distances(a, b, distance)) for a in classes for b in classes)
    rows = []
    for row, label in zip(logits, labels.tolist(), strict=True):
        if label >= tree.num_classes:
            rows.append(label_nll(tree, row, label))
            continue
        shares = [math.exp(-beta * float(tree.distances(label, c, distance)) / largest) for c in classes]
        rows.append(sum(share / sum(shares) * nll_of(row, [c]) for c, share in zip(classes, shares, strict=True)))
    return torch.stack(rows).mean()


# --- Values and gradients -------------------------------------------------------------------------------------------------------------


@given(MANY, BETAS, st.sampled_from(DISTANCES))
@settings(max_examples=60)
def test_it_is_the_loop(case, beta, distance):
    tree, logits, labels = case
    loss = summed(SoftLabels(tree, beta=beta, distance=distance, inner_labels=True), labels)
    assert_equal_loss(loss, lambda x: loop(tree, x, labels, beta, distance), logits, **FEWER_DIGITS)
    assert_equal_loss(loss, lambda x: loop(tree, x, labels, beta, distance), logits.float(), **FLOAT32)


@given(MANY)
@FEW
def test_a_leaf_is_worth_the_same_with_and_without_inner_labels(case):
    tree, logits, labels = case
    labels = labels % tree.num_classes
    one, two = (summed(SoftLabels(tree, inner_labels=inner), labels) for inner in (False, True))
    assert_equal_loss(one, two, logits)


def test_targets_by_hand():
    """Two pairs, β = 2 ln 2: weights 1, 1/2 for the sister, 1/4 for the others; the target is half on the class itself."""
    tree = from_nested({"left": ["a", "b"], "right": ["c", "d"]}, ["c", "a", "d", "b"])
    targets = torch.tensor([[4, 1, 2, 1], [1, 4, 1, 2], [2, 1, 4, 1], [1, 2, 1, 4]]) / 8
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = SoftLabels(tree, beta=2 * math.log(2))(logits, torch.arange(4))["soft_labels"]
    torch.testing.assert_close(found, -(targets * logits.log_softmax(1)).sum(1).mean(), **FEWER_DIGITS)


@given(MANY)
@FEW
def test_a_large_beta_is_cross_entropy(case):
    tree, logits, labels = case
    loss = summed(SoftLabels(tree, beta=1e5, inner_labels=True), labels)
    assert_equal_loss(loss, summed(CrossEntropy(tree, inner_labels=True), labels), logits)


def test_in_a_tree_of_one_level_it_is_label_smoothing():
    """All other classes are equally far, so they share what e^−β is worth; torch's ε also gives to the class itself."""
    tree, beta = from_classes(["a", "b", "c", "d", "e"]), 2.0
    epsilon = 5 / (math.exp(beta) + 4)
    logits, labels = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(5)
    smooth = summed(CrossEntropy(tree, label_smoothing=epsilon), labels)
    assert_equal_loss(summed(SoftLabels(tree, beta=beta), labels), smooth, logits, **FEWER_DIGITS)


@given(MANY, st.floats(-100, 100))
@FEW
def test_a_constant_added_to_all_logits_changes_nothing(case, constant):
    tree, logits, labels = case
    loss = summed(SoftLabels(tree, inner_labels=True), labels)
    assert_equal_loss(lambda x: loss(x + constant), loss, logits)


@given(MANY, st.randoms(use_true_random=False))
@FEW
def test_order_of_classes_does_not_matter(case, random):
    tree, logits, labels = case
    order = random.sample(range(tree.num_classes), tree.num_classes)
    other = tree.with_classes([tree.classes[c] for c in order])
    moved = torch.tensor([other.label(tree.names[tree.label_nodes[label]]) for label in labels])
    one, two = (SoftLabels(t, inner_labels=True) for t in (tree, other))
    assert_equal_loss(lambda x: summed(two, moved)(x[:, order]), summed(one, labels), logits, **FEWER_DIGITS)


@pytest.mark.parametrize("name", ["car", "wolf", "cat", "pet", "root"])
@pytest.mark.parametrize("value", [200.0, -200.0])
def test_extreme_logits(name, value):
    logits = torch.tensor([[value, -value, -value, -value], [-value, value, value, -value]])
    labels = torch.tensor([TREE.label(name)] * 2)
    loss = summed(SoftLabels(TREE, beta=4.0, inner_labels=True), labels)
    assert_equal_loss(loss, lambda x: loop(TREE, x, labels, 4.0), logits.double(), **FEWER_DIGITS)
    assert_equal_loss(loss, lambda x: loop(TREE, x, labels, 4.0), logits, **FLOAT32)


def test_a_near_mistake_is_cheaper_than_a_far_one():
    cat, dog, car = (TREE.label(name) for name in ("cat", "dog", "car"))
    logits = torch.zeros(2, 4).index_put((torch.tensor([0, 1]), torch.tensor([dog, car])), torch.tensor(9.0))
    near, far = (SoftLabels(TREE, beta=4.0)(row[None], torch.tensor([cat]))["soft_labels"] for row in logits)
    assert near < far - 0.5


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_summed_in_float32(inner, dtype):
    logits = (10 * torch.randn(8, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
    loss = summed(SoftLabels(TREE, inner_labels=inner), torch.arange(8) % (7 if inner else 4))
    half, full = value_and_gradient(loss, logits), value_and_gradient(loss, logits.float())
    assert half[0].dtype == torch.float32
    assert torch.equal(half[0], full[0])
    assert half[1].dtype == dtype
    torch.testing.assert_close(half[1], full[1].to(dtype))


# --- Terms, buffers, errors -----------------------------------------------------------------------------------------------------------


def test_terms_have_names_and_inputs_are_not_written_to():
    logits, labels = torch.zeros(2, 4), torch.tensor([0, 3])
    terms = SoftLabels(TREE)(logits, labels)
    assert list(terms) == ["soft_labels"]
    assert terms["soft_labels"].shape == ()
    assert terms["soft_labels"].item() == pytest.approx(np.log(4))
    assert logits.eq(0).all()
    assert labels.tolist() == [0, 3]


def test_buffers_are_not_saved():
    module = SoftLabels(TREE)
    assert list(module.buffers())
    assert not module.state_dict()


@pytest.mark.parametrize("shape", [(2, 5), (2, 3), (4,), (2, 4, 1)])
def test_logits_of_other_classes_are_refused(shape):
    with pytest.raises(ShapeError, match=re.escape(f"logits: wanted [B, 4], one number a class, got {list(shape)}")):
        SoftLabels(TREE)(torch.zeros(shape), torch.tensor([0, 3]))


def test_too_many_classes_for_a_table():
    with pytest.raises(
        HierarchyError, match="soft_labels keeps a table of 5001² targets for the distance .path.; it takes at most 5000 classes"
    ):
        SoftLabels(from_classes([str(i) for i in range(5001)]), distance="path")


def test_a_group_is_no_class_without_inner_labels():
    for distance in ("lca", "path"):
        with pytest.raises(ShapeError, match="target: wanted labels 0 to 3, got 6; leave such images out"):
            SoftLabels(TREE, distance=distance)(torch.zeros(1, 4), torch.tensor([TREE.label("pet")]))


@pytest.mark.parametrize("distance", ["lca", "path"])
def test_masked_classes_cost_nothing_where_their_target_is_0(distance):
    logits, label = torch.zeros(1, 4), torch.tensor([TREE.label("cat")])
    logits[0, TREE.label("car")] = -torch.inf
    assert SoftLabels(TREE, beta=1e4, distance=distance)(logits, label)["soft_labels"].item() == pytest.approx(math.log(3), rel=1e-6)


def test_one_class_costs_nothing():
    assert SoftLabels(from_classes(["only"]))(torch.zeros(2, 1), torch.tensor([0, 0]))["soft_labels"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("beta: 0", r"loss\.beta: should be greater than 0 \(got 0\)"),
        ("distance: lcaa", r"loss\.distance: should be 'lca', 'path', 'wup' or 'information' \(got 'lcaa'\)"),
        ("betta: 3", r"loss\.betta: unknown key; did you mean 'beta'"),
        ("seed: 3", r"loss\.seed: unknown key"),
    ],
)
def test_recipes_name_what_is_wrong(options, message):
    with pytest.raises(RecipeError, match=message):
        tiny(f"loss={{name: soft_labels, {options}}}")


def test_a_recipe_holds_its_defaults():
    common = {"weight": 1.0, "logit_adjustment": 0.0}
    assert tiny("loss.name=soft_labels").plain()["loss"] == {"name": "soft_labels", "beta": 10.0, "distance": "lca"} | common
    assert losses["soft_labels"] is SoftLabels
