"""Losses of node scores, and the classifiers that make leaf scores of them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losses.cases import TREE, assert_equal_loss, summed
from random_trees import trees
from train.tiny import tiny

import hiercnn
from hiercnn.errors import RecipeError, ShapeError
from hiercnn.hierarchy import Hierarchy, builtin, from_nested
from hiercnn.losses import ConditionalNLL, CrossEntropy, MarginNLL
from hiercnn.models import NODE_SCORES, build_model


@st.composite
def cases(draw) -> tuple[Hierarchy, torch.Tensor, torch.Tensor]:
    """A random tree, scores [B, N − 1] up to ±200 (float64), labels [B] of leaves and inner nodes, the root left out."""
    tree = draw(trees(most_nodes=16).filter(lambda tree: tree.num_nodes > 1))
    rng, count, scale = np.random.default_rng(draw(st.integers(0, 999))), draw(st.integers(1, 6)), draw(st.sampled_from([1, 10, 200]))
    root = tree.label(tree.names[0])
    labels = rng.choice([label for label in range(tree.num_nodes) if label != root], count)
    return tree, torch.from_numpy(rng.uniform(-scale, scale, (count, tree.num_nodes - 1))), torch.from_numpy(labels)


def conditional(tree: Hierarchy, scores: torch.Tensor, labels: torch.Tensor, alpha: float) -> torch.Tensor:
    total = scores.sum() * 0
    for row, label in zip(scores, labels, strict=True):
        path = tree.ancestors(int(tree.label_nodes[label]))
        for step, (parent, node) in enumerate(pairwise(path)):
            siblings = torch.tensor(tree.children(int(parent)) - 1)
            total = total + np.exp(-alpha * step) * (row[siblings].logsumexp(0) - row[node - 1])
    return total / len(scores)


def margin(tree: Hierarchy, scores: torch.Tensor, labels: torch.Tensor, tau: float) -> torch.Tensor:
    total = scores.sum() * 0
    for row, label in zip(scores, labels, strict=True):
        node = int(tree.label_nodes[label])
        right = set(tree.ancestors(node).tolist())
        shift = torch.tensor([0.0 if v in right else tau for v in range(1, tree.num_nodes)], dtype=scores.dtype)
        total = total + (row + shift).logsumexp(0) - row[node - 1]
    return total / len(scores)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@given(case=cases())
def test_conditional_is_the_loop(alpha, case):
    tree, scores, labels = case
    module = ConditionalNLL(tree, alpha=alpha, inner_labels=True)
    assert_equal_loss(summed(module, labels), lambda x: conditional(tree, x, labels, alpha), scores, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("tau", [0.0, 5.0])
@given(case=cases())
def test_margin_is_the_loop(tau, case):
    tree, scores, labels = case
    module = MarginNLL(tree, margin=tau, inner_labels=True)
    assert_equal_loss(summed(module, labels), lambda x: margin(tree, x, labels, tau), scores)


@pytest.mark.long
@given(case=cases())
def test_conditional_without_weights_is_cross_entropy_of_its_leaf_scores(case):
    tree, scores, labels = case
    read = NODE_SCORES["conditional"](tree)
    assert_equal_loss(
        summed(ConditionalNLL(tree, inner_labels=True), labels),
        lambda x: CrossEntropy(tree, inner_labels=True)(read(x), labels)["cross_entropy"],
        scores,
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize("loss", [ConditionalNLL, lambda tree: MarginNLL(tree, margin=0.0)])
def test_a_tree_of_one_level_gives_cross_entropy(loss):
    tree, labels = from_nested(["a", "b", "c"]), torch.tensor([0, 1, 2, 1])
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_equal_loss(summed(loss(tree), labels), lambda x: torch.nn.functional.cross_entropy(x, labels), scores)


@pytest.mark.parametrize("loss", [ConditionalNLL(TREE), MarginNLL(TREE)])
def test_scores_of_other_nodes_are_refused(loss):
    nodes = TREE.num_nodes - 1
    with pytest.raises(ShapeError, match=rf"scores: wanted \[B, {nodes}\]"):
        loss(torch.zeros(2, nodes + 1), torch.tensor([0, 1]))


# --- In a model and in a recipe -------------------------------------------------------------------------------------------------------

FITTING_LOSS = {"conditional_nll": "conditional", "margin_nll": "margin"}
FITTING = {"conditional": "conditional_nll", "margin": "margin_nll"}


@pytest.mark.parametrize("classifier", FITTING)
def test_the_backbone_starts_as_its_flat_twin_s(classifier):
    tree = builtin("synthetic")
    flat, ours = (build_model("tiny_net", tree, classifier=name).backbone.state_dict() for name in ("linear", classifier))
    shared = [name for name in flat if not name.startswith("fc.")]
    assert all(torch.equal(flat[name], ours[name]) for name in shared)
    assert ours["fc.weight"].shape == (tree.num_nodes - 1, flat["fc.weight"].shape[1])


def test_leaf_scores_of_the_margin_are_the_leaves_own():
    tree = builtin("synthetic")
    output = build_model("tiny_net", tree, classifier="margin").eval()(torch.randn(2, 3, 16, 16))
    assert torch.equal(output.leaf, output.nodes[:, tree.leaf_nodes - 1])


def test_leaf_scores_of_conditional_softmaxes_are_log_probabilities():
    output = build_model("tiny_net", builtin("synthetic"), classifier="conditional").eval()(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(output.leaf.logsumexp(1), torch.zeros(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("classifier", FITTING)
def test_a_recipe_trains_and_its_model_is_loaded(tmp_path, classifier):
    recipe = tiny(f"model.classifier={classifier}", f"loss.name={FITTING[classifier]}", "data.coarse_labels={cut: 9, fine: 2}")
    run = hiercnn.fit(recipe, run_dir=tmp_path / "run")
    first, last = (epoch["train"]["loss"] for epoch in (run.metrics[0], run.metrics[-1]))
    assert last < first
    model = run.model
    assert model(torch.zeros(1, 3, 16, 16)).leaf.shape == (1, 36)
    with pytest.raises(RecipeError, match="leaf scores need the tree"):
        model.strip_heads()


def test_a_loss_of_nodes_says_which_classifier_it_needs(tmp_path):
    for loss, wanted in FITTING_LOSS.items():
        others = [name for name in ("linear", "path_sum", "conditional", "margin") if name != wanted]
        for classifier in others:
            with pytest.raises(RecipeError, match=f"loss.name: {loss} trains scores of all nodes, .*; set model.classifier: {wanted}"):
                tiny(f"loss.name={loss}", f"model.classifier={classifier}")
    model = build_model("tiny_net", builtin("synthetic"))
    recipe = tiny().plain() | {"loss": {"name": "margin_nll"}}
    with pytest.raises(RecipeError, match=r"margin_nll trains scores of all nodes; pass hiercnn.build_model\(…, classifier='margin'\)"):
        hiercnn.fit(recipe, model=model, run_dir=tmp_path / "run")
