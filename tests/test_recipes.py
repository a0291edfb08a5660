"""The shipped recipes: they load, say what they are, and twins differ in their heads alone."""

from pathlib import Path

import pytest

from hiercnn.recipe import load_recipe, recipes_folder, shipped_recipes

TWINS = [
    ("quickstart/flat", "quickstart/branches"),
    ("cifar100/flat", "cifar100/branches"),
    ("cifar100/flat", "cifar100/deep_supervision"),
    ("cifar100/flat", "cifar100/random_groups"),
    ("cifar100/flat", "cifar100/late_head"),
    ("grocery/flat", "grocery/branches"),
]


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_is_valid_and_complete(name):
    needs_data = name.startswith("grocery/")  # its tree lies beside its images
    recipe = load_recipe(name, check=not needs_data)
    assert load_recipe(recipe.plain(), check=False) == recipe
    assert recipe.name == name.replace("/", "-").replace("_", "-")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_opens_with_what_it_shows_needs_takes_and_gives(name):
    lines = (recipes_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert lines[0].startswith("# ")
    assert all(word in header for word in ("Needs", "Takes", "hiercnn ", "Gives"))


@pytest.mark.parametrize(("flat", "other"), TWINS)
def test_twins_differ_in_name_and_heads_alone(flat, other):
    flat, other = (load_recipe(name, check=False).plain() for name in (flat, other))
    assert flat["model"].pop("heads") == []
    assert other["model"].pop("heads") != []
    assert flat.pop("name") != other.pop("name")
    assert flat == other


def test_controls_put_the_same_weights_on_heads_of_the_same_sizes():
    heads = {name: load_recipe(f"cifar100/{name}").model.heads for name in ("branches", "deep_supervision", "random_groups", "late_head")}
    weights = {name: [head.weight for head in listed] for name, listed in heads.items()}
    assert all(listed == weights["branches"] for listed in weights.values())
    assert [h.stage for h in heads["branches"]] == [h.stage for h in heads["random_groups"]] == [h.stage for h in heads["deep_supervision"]]
    assert [h.cut for h in heads["branches"]] == [h.cut for h in heads["random_groups"]] == [h.cut for h in heads["late_head"]]


def test_every_recipe_belongs_to_a_pair_of_twins():
    assert {name for pair in TWINS for name in pair} == set(shipped_recipes())


def test_recipes_folder_is_the_checkout_s_own():
    assert recipes_folder() == Path(__file__).parents[1] / "recipes"
