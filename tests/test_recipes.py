"""The shipped recipes: they load, say what they are, and twins differ in what they are about and in nothing else."""

import re
from pathlib import Path

import pytest

from hiercnn.hierarchy import builtin
from hiercnn.recipe import Recipe, load_recipe, recipes_folder, shipped_recipes

HEADS, LOSS, CLASSIFIER = "model.heads", "loss", "model.classifier"
FINE_ONLY = {"data.coarse_labels.drop", "epochs", "schedule.warmup_epochs", "eval.every"}
CONTROLS = {"branches": {HEADS}, "deep_supervision": {HEADS}, "late_head": {HEADS}, "level_nll": {LOSS}, "random_groups": {LOSS}}

# {recipe: what it changes of the flat.yaml beside it}
TWINS = {
    "quickstart/branches": {HEADS},
    "grocery/branches": {HEADS},
    "cifar100/branches": {HEADS},
    "cifar100/deep_supervision": {HEADS},
    "cifar100/random_groups": {HEADS},
    "cifar100/late_head": {HEADS},
    "cifar100/level_nll": {LOSS},
    "cifar100/soft_labels": {LOSS},
    "cifar100/path_sum": {CLASSIFIER},
    **{f"{folder}/{name}": changes for folder in ("partly_coarse", "few_images", "noisy_labels") for name, changes in CONTROLS.items()},
    "partly_coarse/level_nll_branches": {HEADS, LOSS},
    "partly_coarse/fine_only": FINE_ONLY,
    "quickstart/fine_only": FINE_ONLY,
}


def flat_of(name: str) -> str:
    return f"{name.split('/')[0]}/flat"


def plain(name: str) -> dict:
    return load_recipe(name, check=False).plain()


def changes(one: dict, other: dict, path: str = "") -> set[str]:
    """Dotted keys at which two recipes differ; the whole loss counts as one, as its options depend on its name."""
    if not (isinstance(one, dict) and isinstance(other, dict)) or path == LOSS:
        return {path} if one != other else set()
    return {key for name in one.keys() | other.keys() for key in changes(one.get(name), other.get(name), f"{path}.{name}".lstrip("."))}


def header(name: str) -> list[str]:
    """The comment above the recipe, without its marks."""
    lines = (recipes_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    assert not any("#" in line for line in lines[end:])
    return [line.removeprefix("#").strip() for line in lines[:end]]


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_is_valid_and_complete(name):
    needs_data = name.startswith("grocery/")  # its tree lies beside its images
    recipe = load_recipe(name, check=not needs_data)
    assert load_recipe(recipe.plain(), check=False) == recipe
    assert recipe.name == name.replace("/", "-").replace("_", "-")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_opens_with_what_it_is_needs_takes_and_gives(name):
    lines = header(name)
    assert re.match(r"(Control \"[a-z ]+\"|[A-Z][A-Za-z ]+): .{20}", lines[0])  # what it is
    text = "\n".join(lines)
    assert re.search(r"^Needs (what flat\.yaml needs|nothing|CIFAR-100 in data/cifar100|the data set in data/grocery)", text, re.MULTILINE)
    assert re.search(r"\bTakes (about )?(\d+ minutes on|a minute on|as long\b)", text)
    commands = [line for line in lines if line.startswith("hiercnn ")]
    assert len(commands) == 1
    assert re.match(r"hiercnn (train|compare) ", commands[0])
    assert name in commands[0].split()
    assert all(word in shipped_recipes() for word in commands[0].split() if "/" in word)
    assert re.search(r"^Gives .{10}", text, re.MULTILINE)
    assert [word for line in lines for word in re.findall(r"^(Needs|Gives)\b", line)] == ["Needs", "Gives"]


@pytest.mark.parametrize("name", TWINS)
def test_twins_differ_in_their_name_and_what_they_are_about_alone(name):
    flat, other = plain(flat_of(name)), plain(name)
    assert flat["model"]["heads"] == []
    assert flat["model"]["classifier"] == "linear"
    assert flat["loss"]["name"] == "cross_entropy"
    assert changes(flat, other) == {"name", *TWINS[name]}


def test_every_recipe_belongs_to_a_pair_of_twins():
    assert {*TWINS, *(flat_of(name) for name in TWINS)} == set(shipped_recipes())


@pytest.mark.parametrize("folder", ["cifar100", "partly_coarse", "few_images", "noisy_labels"])
def test_controls_of_branches_put_the_same_weights_on_heads_of_the_same_sizes(folder):
    branches, deep = (load_recipe(f"{folder}/{name}").model.heads for name in ("branches", "deep_supervision"))
    assert [(head.stage, head.weight) for head in deep] == [(head.stage, head.weight) for head in branches]
    assert [head.cut for head in branches] == [8, 20]
    assert {head.cut for head in deep} == {"leaf"}


def test_controls_of_cifar100_move_or_shuffle_the_heads_of_branches():
    heads = {name: load_recipe(f"cifar100/{name}").model.heads for name in ("branches", "random_groups", "late_head")}
    weights = {name: [head.weight for head in listed] for name, listed in heads.items()}
    assert all(listed == weights["branches"] for listed in weights.values())
    assert [h.stage for h in heads["branches"]] == [h.stage for h in heads["random_groups"]]
    assert [h.cut for h in heads["branches"]] == [h.cut for h in heads["random_groups"]] == [h.cut for h in heads["late_head"]]
    assert [h.random for h in heads["random_groups"]] == [True, True]


@pytest.mark.parametrize("folder", ["partly_coarse", "few_images", "noisy_labels"])
def test_random_groups_control_the_levels_of_level_nll(folder):
    real, shuffled = (plain(f"{folder}/{name}")["loss"] for name in ("level_nll", "random_groups"))
    assert [level["random"] for level in real["levels"]] == [False]
    assert [level | {"random": True} for level in real["levels"]] == shuffled["levels"]
    assert real | {"levels": []} == shuffled | {"levels": []}


def test_level_nll_with_branches_is_both():
    both = plain("partly_coarse/level_nll_branches")
    assert both["loss"] == plain("partly_coarse/level_nll")["loss"]
    assert both["model"] == plain("partly_coarse/branches")["model"]


def steps(recipe: Recipe) -> int:
    """Updates of a recipe whose labels are partly coarse; batches that are not full are left out."""
    data = recipe.data
    images = data.per_class or data.model_extra["render_train"] - data.val
    kept = data.coarse_labels.fine if data.coarse_labels.drop else images
    return builtin(recipe.hierarchy.builtin).num_classes * kept // data.batch_size * recipe.epochs


@pytest.mark.parametrize("folder", ["quickstart", "partly_coarse"])
def test_fine_labels_alone_are_trained_on_for_as_many_steps(folder):
    flat, fine = (load_recipe(f"{folder}/{name}") for name in ("flat", "fine_only"))
    assert steps(fine) == pytest.approx(steps(flat), rel=0.02)
    warm = [recipe.schedule.warmup_epochs / recipe.epochs for recipe in (flat, fine)]
    assert warm[1] == pytest.approx(warm[0], abs=0.02)


def test_recipes_folder_is_the_checkout_s_own():
    assert recipes_folder() == Path(__file__).parents[1] / "recipes"
