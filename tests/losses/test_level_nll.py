"""Level NLL against plain loops: −log of the summed probability of the label's ancestors, each ancestor once."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses.cases import FLOAT32, TREE, assert_equal_loss, cases, label_nll, nll_of, summed, value_and_gradient
from random_trees import choices_of_cuts
from train.tiny import tiny

from hiercnn.errors import HierarchyError, RecipeError, ShapeError
from hiercnn.hierarchy import Cut, Hierarchy, from_nested
from hiercnn.losses import CrossEntropy, LevelNLL, losses
from hiercnn.recipe import build_data, build_hierarchy, build_recipe_model, build_source, build_task, load_recipe

FEW = settings(max_examples=30)
TWO, THREE = {"cut": {"depth": 1}, "weight": 0.5}, {"cut": {"depth": 2}, "weight": 2.0}


@st.composite
def level_cases(draw):
    """A case with one to three levels for it, real and random, in any order."""
    tree, logits, labels = draw(cases(least_classes=2))
    level = st.fixed_dictionaries(
        {
            "cut": st.sampled_from(choices_of_cuts(tree)),
            "weight": st.sampled_from([0.0, 0.3, 1.0, 2.5]),
            "random": st.sampled_from([False, True, 3]),
        }
    )
    return tree, logits, labels, draw(st.lists(level, min_size=1, max_size=3))


def level_nll(tree: Hierarchy, row: torch.Tensor, label: int, level: dict, seed: int) -> torch.Tensor:
    """−log q of the node of one level that holds a class, or lies strictly above an inner node; of the random group of a class."""
    cut, random = tree.cut(**level["cut"]), level.get("random", False)
    if random is not False:
        groups = tree.random_like(cut, seed if random is True else random).groups
        return nll_of(row, np.flatnonzero(groups == groups[label])) if label < tree.num_classes else row.sum() * 0
    nodes = tree.leaf_nodes if cut.name == "leaf" else cut.nodes
    path = tree.ancestors(tree.label_nodes[label]).tolist()
    above = set(path if label < tree.num_classes else path[:-1]).intersection(nodes.tolist())
    return nll_of(row, tree.leaves(above.pop())) if above else row.sum() * 0


def loop(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor, levels: list[dict], smoothing: float = 0.0, seed: int = 0):
    """The label's own term and its levels', one image after the other."""
    rows = []
    for row, label in zip(logits, labels.tolist(), strict=True):
        above = sum(level["weight"] * level_nll(tree, row, label, level, seed) for level in levels)
        rows.append(label_nll(tree, row, label, smoothing) + above)
    return torch.stack(rows).mean()


# --- Values and gradients -------------------------------------------------------------------------------------------------------------


@given(level_cases(), st.sampled_from([0.0, 0.1]), st.integers(0, 3))
@settings(max_examples=60)
def test_it_is_the_loop(case, smoothing, seed):
    tree, logits, labels, levels = case
    module = LevelNLL(tree, levels=levels, label_smoothing=smoothing, inner_labels=True, seed=seed)
    assert_equal_loss(summed(module, labels), lambda x: loop(tree, x, labels, levels, smoothing, seed), logits)
    assert_equal_loss(summed(module, labels), lambda x: loop(tree, x, labels, levels, smoothing, seed), logits.float(), **FLOAT32)


@given(level_cases(), st.sampled_from([0.0, 0.1]))
@FEW
def test_a_leaf_is_worth_the_same_with_and_without_inner_labels(case, smoothing):
    tree, logits, labels, levels = case
    labels = labels % tree.num_classes
    modules = [LevelNLL(tree, levels=levels, label_smoothing=smoothing, inner_labels=inner) for inner in (False, True)]
    assert_equal_loss(summed(modules[0], labels), summed(modules[1], labels), logits)


def test_by_hand():
    """Probabilities 1/2, 1/4, 1/8, 1/8 of car, wolf, cat, dog; two levels: {animal, car} × 1/2 and {pet, wild, car} × 2."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    wanted = {
        "wolf": 2 + 0.5 + 4,
        "cat": 3 + 0.5 + 4,
        "big": 2 + 0.5 + 4,  # below wild, of the same classes
        "pet": 2 + 0.5 + 0,
        "animal": 1 + 0 + 0,
        "root": 0 + 0 + 0,
    }
    module = LevelNLL(TREE, levels=[TWO, THREE], inner_labels=True)
    for name, bits in wanted.items():
        terms = module(logits, torch.tensor([TREE.label(name)]))
        assert terms["level_nll"].item() / np.log(2) == pytest.approx(bits, abs=1e-6)


@pytest.mark.parametrize("name", ["pet", "animal"])
def test_a_label_that_is_a_node_of_a_level_does_not_count_twice(name):
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.full((3,), TREE.label(name))
    level = {"cut": {"depth": int(TREE.depths[TREE.node(name)])}, "weight": 3.0}
    own = LevelNLL(TREE, levels=[level], inner_labels=True)
    assert_equal_loss(summed(own, labels), summed(CrossEntropy(TREE, inner_labels=True), labels), logits)


@given(level_cases())
@FEW
def test_levels_of_weight_0_leave_cross_entropy(case):
    tree, logits, labels, levels = case
    module = LevelNLL(tree, levels=[level | {"weight": 0} for level in levels], inner_labels=True)
    assert_equal_loss(summed(module, labels), summed(CrossEntropy(tree, inner_labels=True), labels), logits)


@pytest.mark.parametrize("tree", [TREE, from_nested(["a", "b", "c", "d"])], ids=["tree", "one level"])
def test_a_level_at_the_leaf_cut_is_cross_entropy_again(tree):
    logits, labels = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(4)
    module = LevelNLL(tree, levels=[{"cut": "leaf", "weight": 0.5}])
    assert_equal_loss(summed(module, labels), lambda x: 1.5 * CrossEntropy(tree)(x, labels)["cross_entropy"], logits)


@given(level_cases(), st.floats(-100, 100))
@FEW
def test_a_constant_added_to_all_logits_changes_nothing(case, constant):
    tree, logits, labels, levels = case
    loss = summed(LevelNLL(tree, levels=levels, inner_labels=True), labels)
    assert_equal_loss(lambda x: loss(x + constant), loss, logits)


@given(level_cases(), st.randoms(use_true_random=False))
@FEW
def test_order_of_classes_and_names_of_nodes_do_not_matter(case, random):
    tree, logits, labels, levels = case
    levels = [level | {"random": False} for level in levels]
    order = random.sample(range(tree.num_classes), tree.num_classes)
    other = Hierarchy([f"other {name}" for name in tree.names], tree.parents, [f"other {tree.classes[c]}" for c in order])
    moved = torch.tensor([other.label(f"other {tree.names[tree.label_nodes[label]]}") for label in labels])
    one, two = (LevelNLL(t, levels=levels, inner_labels=True) for t in (tree, other))
    assert_equal_loss(lambda x: summed(two, moved)(x[:, order]), summed(one, labels), logits)


@pytest.mark.long
@given(level_cases())
@FEW
def test_a_coarser_label_has_a_smaller_loss(case):
    tree, logits, _, levels = case
    module = LevelNLL(tree, levels=[level | {"random": False} for level in levels], inner_labels=True)
    for node in tree.leaf_nodes:
        path = [torch.tensor([tree.label(tree.names[v])]) for v in tree.ancestors(node)]
        losses_down = [summed(module, label)(logits[:1]).item() for label in path]
        assert all(finer - coarser >= -1e-9 for coarser, finer in pairwise(losses_down))
        assert losses_down[0] == pytest.approx(0, abs=1e-9)  # the root says nothing


@pytest.mark.parametrize("name", ["car", "wolf", "cat", "pet", "animal", "root"])
@pytest.mark.parametrize("value", [200.0, -200.0])
def test_extreme_logits(name, value):
    logits = torch.tensor([[value, -value, -value, -value], [-value, value, value, -value], [-value, -value, value, value]])
    labels, levels = torch.tensor([TREE.label(name)] * 3), [TWO, THREE]
    loss = summed(LevelNLL(TREE, levels=levels, inner_labels=True), labels)
    assert_equal_loss(loss, lambda x: loop(TREE, x, labels, levels), logits.double())
    assert_equal_loss(loss, lambda x: loop(TREE, x, labels, levels), logits, **FLOAT32)


def test_confidently_wrong_is_dear_and_has_a_gradient():
    """All on the car: a cat costs 400 as itself, 400 × 2 as a pet and 400 / 2 as an animal."""
    logits = torch.tensor([[200.0, -200, -200, -200]])
    value, gradient = value_and_gradient(summed(LevelNLL(TREE, levels=[TWO, THREE]), torch.tensor([TREE.label("cat")])), logits)
    assert value.item() == pytest.approx(3.5 * 400, abs=3)  # less the logs of how many leaves a group has
    assert gradient[0, 0].item() == pytest.approx(3.5)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_summed_in_float32(inner, dtype):
    logits = (10 * torch.randn(8, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
    loss = summed(LevelNLL(TREE, levels=[TWO, THREE], inner_labels=inner), torch.arange(8) % (7 if inner else 4))
    half, full = value_and_gradient(loss, logits), value_and_gradient(loss, logits.float())
    assert half[0].dtype == torch.float32
    assert torch.equal(half[0], full[0])
    assert half[1].dtype == dtype
    torch.testing.assert_close(half[1], full[1].to(dtype))


# --- Terms ----------------------------------------------------------------------------------------------------------------------------


def test_terms_have_names_and_inputs_are_not_written_to():
    logits, labels = torch.zeros(2, 4), torch.tensor([1, 3])
    terms = LevelNLL(TREE, levels=[TWO, THREE | {"random": True}])(logits, labels)
    assert list(terms) == ["level_nll", "random 3 groups"]
    assert all(term.shape == () for term in terms.values())
    assert terms["level_nll"].item() == pytest.approx(np.log(4) + 0.5 * np.log(4 / 3))
    assert logits.eq(0).all()
    assert labels.tolist() == [1, 3]


def test_levels_of_one_name_are_added_up():
    logits, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2, 3])
    module = LevelNLL(TREE, levels=[TWO, {"cut": 2, "weight": 1.0}])
    once = LevelNLL(TREE, levels=[{"cut": 2, "weight": 1.5}])
    torch.testing.assert_close(module(logits, labels), once(logits, labels))


def test_a_level_weighs_1_unless_told_otherwise():
    logits, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2, 3])
    terms = [LevelNLL(TREE, levels=[{"cut": 2} | weight])(logits, labels)["level_nll"] for weight in ({}, {"weight": 1.0})]
    assert torch.equal(*terms)
    assert terms[0] > LevelNLL(TREE, levels=[{"cut": 2, "weight": 0}])(logits, labels)["level_nll"]


def test_terms_of_weight_0_have_a_graph():
    logits = torch.zeros(2, 4, requires_grad=True)
    term = LevelNLL(TREE, levels=[TWO | {"weight": 0, "random": True}])(logits, torch.tensor([1, 3]))["random 2 groups"]
    assert term.item() == 0
    assert term.requires_grad


def test_buffers_are_not_saved():
    module = LevelNLL(TREE, levels=[TWO, THREE])
    assert list(module.buffers())
    assert not module.state_dict()


# --- Random groups --------------------------------------------------------------------------------------------------------------------


def groups_of(module: LevelNLL, name: str) -> list[set[int]]:
    """The classes that each class shares its group with, at the first level of some tables."""
    order, starts, stops, *_ = module.rings(name)
    return [set(order[start:stop].tolist()) for start, stop in zip(starts[:, 1], stops[:, 1], strict=True)]


def classes_of(cut: Cut) -> list[set[int]]:
    return [set(np.flatnonzero(cut.groups == group).tolist()) for group in cut.groups]


def synthetic_loss(*overrides: str) -> tuple[LevelNLL, Hierarchy]:
    """The loss that a recipe of drawn shapes builds, and its tree."""
    recipe = tiny(*overrides)
    data = build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))
    return build_task(recipe, data, build_recipe_model(recipe, data.hierarchy, data.channels)).loss, data.hierarchy


def test_random_groups_of_a_recipe_are_drawn_from_the_seed_of_the_run():
    level = "loss={name: level_nll, levels: [{cut: 3, random: true}, {cut: 9, random: true}, {cut: 9, random: 4}, {cut: 9}]}"
    drawn = []
    for seed in (0, 1):
        loss, tree = synthetic_loss(level, f"seed={seed}", "data.seed=5")
        wanted = [tree.random_like(tree.cut(groups=3), seed), tree.random_like(tree.cut(groups=9), seed)]
        wanted += [tree.random_like(tree.cut(groups=9), 4), tree.cut(groups=9)]
        names = ["random1", "random2", "random3", "levels"]
        drawn.append([groups_of(loss, name) for name in names])
        assert drawn[-1] == [classes_of(cut) for cut in wanted]
        assert wanted[1].refines(wanted[0])
    assert [a == b for a, b in zip(*drawn, strict=True)] == [False, False, True, True]
    assert drawn[0][1] != drawn[0][3]


FOUR = from_nested({f"group {g}": [f"{g}{i}" for i in range(5)] for g in range(4)})


def random_groups(random: bool | int, seed: int) -> list[set[int]]:
    module = LevelNLL(FOUR, levels=[{"cut": 4, "random": random}], seed=seed)
    return groups_of(module, "levels" if random is False else "random1")


def test_random_groups_are_the_tree_s_control():
    for seed in (0, 1):
        assert random_groups(True, seed) == classes_of(FOUR.random_like(FOUR.cut(groups=4), seed)) != classes_of(FOUR.cut(groups=4))
    assert random_groups(True, 0) != random_groups(True, 1)
    assert random_groups(7, 0) == random_groups(7, 1) == random_groups(True, 7)
    assert random_groups(0, 3) == random_groups(True, 0)  # 0 is a seed, not `false`
    assert random_groups(False, 3) == classes_of(FOUR.cut(groups=4))


def test_labels_that_are_groups_belong_to_no_random_group():
    logits, labels = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([TREE.label("pet"), TREE.label("big")])
    terms = LevelNLL(TREE, levels=[TWO | {"random": True}], inner_labels=True)(logits, labels)
    assert terms["random 2 groups"].item() == 0
    assert terms["level_nll"].item() > 0


# --- Errors ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "error", "message"),
    [
        ([], RecipeError, r"levels: needs at least one level, such as \{cut: 20, weight: 1\.0\}"),
        ([{"cut": 1}], RecipeError, r"levels: the cut '1 groups' has one group, which every image is in; cut lower"),
        ([TWO, {"cut": {"depth": 0}}], RecipeError, "has one group"),
        ([{"cut": 9}], HierarchyError, "groups=9: the tree has 4 classes, so ask for 1 to 4 groups"),
    ],
)
def test_levels_that_do_not_exist(levels, error, message):
    with pytest.raises(error, match=message):
        LevelNLL(TREE, levels=levels)


@pytest.mark.parametrize("shape", [(2, 5), (2, 3), (4,), (2, 4, 1)])
def test_logits_of_other_classes_are_refused(shape):
    with pytest.raises(ShapeError, match=re.escape(f"logits: wanted [B, 4], one number a class, got {list(shape)}")):
        LevelNLL(TREE, levels=[TWO])(torch.zeros(shape), torch.tensor([0, 3]))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("{name: level_nll}", r"levels: is missing"),
        ("{name: level_nll, levels: [{weight: 1}]}", r"loss\.levels\[0\]\.cut: is missing"),
        ("{name: level_nll, levels: [{cut: 3, weigth: 1}]}", r"loss\.levels\[0\]\.weigth: unknown key"),
        ("{name: level_nll, levels: [{cut: 3}, {cut: 9, weight: -1}]}", r"loss\.levels\[1\]\.weight: .*greater than or equal to 0"),
        ("{name: level_nll, levels: [{cut: leafs}]}", r"loss\.levels\[0\]\.cut: should be a number of groups, \{depth: d\}"),
        ("{name: level_nll, levels: [{cut: {depth: 1, groups: 3}}]}", r"loss\.levels\[0\]\.cut: give either depth or groups"),
        ("{name: level_nll, levels: [{cut: 3}], label_smoothing: 1}", r"loss\.label_smoothing: .*less than 1"),
        ("{name: level_nll, levels: [{cut: 3}], seed: 3}", r"loss\.seed: unknown key"),
        ("{name: level_nll, levels: [{cut: 3}], inner_labels: true}", r"loss\.inner_labels: unknown key"),
    ],
)
def test_recipes_name_what_is_wrong(loss, message):
    with pytest.raises(RecipeError, match=message):
        tiny(f"loss={loss}")


def test_a_recipe_keeps_its_levels():
    recipe = tiny("loss={name: level_nll, levels: [{cut: 3}, {cut: {depth: 2}, weight: 0.5, random: 7}]}")
    assert load_recipe(recipe.plain()) == recipe
    level = recipe.plain()["loss"]["levels"][1]
    assert (level["cut"]["depth"], level["weight"], level["random"]) == (2, 0.5, 7)
    assert losses["level_nll"] is LevelNLL
