"""The shipped recipes: they load, say what they are, and twins differ in what they are about and in nothing else."""

import json
import re
from pathlib import Path

import pytest

from hiercnn.hierarchy import builtin
from hiercnn.recipe import Recipe, load_recipe, recipes_folder, shipped_recipes
from hiercnn.train import weight_at

HEADS, LOSS, CLASSIFIER = "model.heads", "loss", "model.classifier"
RESULTS = Path(__file__).parents[1] / "tools" / "results"
FINE_ONLY = {"data.coarse_labels.drop", "epochs", "schedule.warmup_epochs", "eval.every"}

SETTINGS = ("partly_coarse", "few_images", "noisy_labels")  # of the labels of CIFAR-100
CONTROLS = ("deep_supervision", "random_groups", "late_head")
LITE = "_efficientnet_lite0"

# {recipe: what it changes of the flat.yaml beside it}
TWINS = {
    "quickstart/branches": {HEADS},
    "quickstart/fine_only": FINE_ONLY,
    "grocery/branches": {HEADS},
    "cifar100/branches": {HEADS},
    "cifar100/branches_clustered": {HEADS, "hierarchy.cluster"},
    "cifar100/deep_supervision": {HEADS},
    "cifar100/random_groups": {HEADS},
    "cifar100/late_head": {HEADS},
    "cifar100/late_leaf": {HEADS},
    "cifar100/distill": {HEADS},
    "cifar100/feed_forward": {HEADS},
    "cifar100/curriculum": {HEADS, "loss.weight"},
    "cifar100/every_stage": {HEADS},
    "cifar100/level_nll": {LOSS},
    "cifar100/soft_labels": {LOSS},
    "cifar100/hxe": {LOSS},
    "cifar100/path_sum": {CLASSIFIER},
    **{f"cifar100/{name}": {CLASSIFIER, LOSS} for name in ("conditional_nll", "margin_nll")},
    **{f"{folder}/{name}": {HEADS} for folder in SETTINGS for name in ("branches", "deep_supervision", "late_head")},
    **{f"{folder}/level_nll": {LOSS} for folder in SETTINGS},
    "partly_coarse/random_groups": {HEADS},
    "partly_coarse/fine_only": FINE_ONLY,
    "few_images/random_groups": {LOSS},
    "few_images/soft_labels_late_head": {HEADS, LOSS},
    "few_images/smoothing_late_leaf": {HEADS, "loss.label_smoothing"},
    "noisy_labels/random_groups": {LOSS},
    **{f"noisy_labels/forward_correction{control}": {LOSS} for control in ("", "_anywhere", "_random_groups")},
    **{
        f"noisy_labels/forward_correction_{heads}": {HEADS, LOSS}
        for heads in ("branches", "deep_supervision", "heads", "leaf_heads", "anywhere_leaf_heads")
    },
    **{f"finetune/{name}{LITE}": {HEADS} for name in ("branches", *CONTROLS)},
    "finetune/branches_resnet50": {HEADS},
    **{f"all_images/{name}": {HEADS} for name in ("late_head", "late_leaf", "random_groups")},
    "noisy_shapes/forward_correction": {LOSS},
    **{f"noisy_shapes/forward_correction_{heads}": {HEADS, LOSS} for heads in ("heads", "anywhere_leaf_heads")},
    "grocery_plain/soft_labels_late_head": {HEADS, LOSS},
    "grocery_plain/smoothing_late_leaf": {HEADS, "loss.label_smoothing"},
    **{f"grocery_plain/{name}": {HEADS} for name in ("late_head", "late_leaf")},
    **{f"grocery_partly_coarse/{name}": {HEADS} for name in ("branches", "deep_supervision", "late_head")},
}


def flat_of(name: str) -> str:
    folder, own = name.split("/")
    kind = next((kind for kind in ("branches", *CONTROLS) if own.startswith(kind)), own)
    return f"{folder}/flat{own.removeprefix(kind) if folder == 'finetune' else ''}"


def plain(name: str) -> dict:
    return load_recipe(name, check=False).plain()


def changes(one: dict, other: dict, path: str = "") -> set[str]:
    """Dotted keys at which two recipes differ; another loss counts as one, as its options are others."""
    whole = path == LOSS and one["name"] != other["name"]
    if whole or not (isinstance(one, dict) and isinstance(other, dict)):
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
    needs_data = name.startswith(("grocery", "finetune/"))  # its tree lies beside its images
    needs_run = builtin("cifar100") if name.endswith("_clustered") else None  # its tree is made from it
    recipe = load_recipe(name, check=not needs_data, stand_in=needs_run)
    assert load_recipe(recipe.plain(), check=False) == recipe
    assert recipe.name == name.replace("/", "-").replace("_", "-")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_opens_with_what_it_is_needs_takes_and_gives(name):
    lines = header(name)
    assert re.match(r"(Control \"[a-z ]+\"|[A-Z][A-Za-z, ]+): .{20}", lines[0])  # what it is
    text = "\n".join(lines)
    needs = r"what flat\w*\.yaml needs|nothing|CIFAR-100 in data/cifar100|the data set in data/grocery|your photos"
    assert re.search(rf"^Needs ({needs})", text, re.MULTILINE)
    assert re.search(r"\bTakes (about )?(\d+ minutes on|a minute on|as long\b)", text)
    commands = [line for line in lines if line.startswith("hiercnn ")]
    assert len(commands) == 1
    assert re.match(r"hiercnn (train|compare) ", commands[0])
    assert name in commands[0].split()
    assert all(word in shipped_recipes() for word in commands[0].split() if "/" in word and "=" not in word)
    assert re.search(r"^Gives .{10}", text, re.MULTILINE)
    assert [word for line in lines for word in re.findall(r"^(Needs|Gives)\b", line)] == ["Needs", "Gives"]


@pytest.mark.parametrize("name", TWINS)
def test_twins_differ_in_their_name_and_what_they_are_about_alone(name):
    flat, other = plain(flat_of(name)), plain(name)
    assert flat["model"]["heads"] == []
    assert flat["model"]["classifier"] == "linear"
    assert flat["loss"]["name"] == "cross_entropy"
    assert changes(flat, other) == {"name", *TWINS[name]}


@pytest.mark.parametrize("name", sorted(name for name in shipped_recipes() if not name.startswith("quickstart/")))
def test_a_header_promises_a_row_of_results_where_there_is_one(name):
    promise = next(line for line in header(name) if line.startswith("Gives"))
    measured = {each for path in RESULTS.glob("*.json") for each in json.loads(path.read_text(encoding="utf-8")).get("recipes", ())}
    assert ("Gives no row" not in promise and "RESULTS.md" in promise) == (plain(name)["name"] in measured)


def test_every_recipe_belongs_to_a_pair_of_twins():
    assert {*TWINS, *(flat_of(name) for name in TWINS)} == set(shipped_recipes())


def heads(name: str, *keys: str) -> list[tuple]:
    """These settings of each head of a recipe."""
    return [tuple(getattr(head, key) for key in keys) for head in load_recipe(name, check=False).model.heads]


@pytest.mark.parametrize("folder", ["cifar100", *SETTINGS])
def test_branches_of_cifar100_predict_its_8_groups_and_20_superclasses(folder):
    assert heads(f"{folder}/branches", "cut", "random") == [(8, False), (20, False)]


@pytest.mark.parametrize(
    ("folder", "net"), [("cifar100", ""), *((folder, "") for folder in (*SETTINGS, "grocery_partly_coarse")), ("finetune", LITE)]
)
def test_deep_supervision_puts_the_leaf_on_the_stages_of_branches(folder, net):
    branches, deep = f"{folder}/branches{net}", f"{folder}/deep_supervision{net}"
    assert heads(deep, "stage", "weight") == heads(branches, "stage", "weight")
    assert heads(deep, "cut", "random") == [("leaf", False)] * 2


@pytest.mark.parametrize(("folder", "net"), [("cifar100", ""), ("partly_coarse", ""), ("finetune", LITE)])
def test_random_groups_shuffle_the_groups_of_branches_and_nothing_else(folder, net):
    branches, shuffled = f"{folder}/branches{net}", f"{folder}/random_groups{net}"
    assert heads(shuffled, "stage", "cut", "weight") == heads(branches, "stage", "cut", "weight")
    assert heads(shuffled, "random") == [(True,)] * 2


@pytest.mark.parametrize(("folder", "net"), [("cifar100", ""), ("partly_coarse", ""), ("grocery_partly_coarse", ""), ("finetune", LITE)])
def test_late_heads_are_those_of_branches_on_the_last_stage(folder, net):
    branches, late = f"{folder}/branches{net}", f"{folder}/late_head{net}"
    assert heads(late, "cut", "weight", "random") == heads(branches, "cut", "weight", "random")
    assert heads(late, "stage") == [("late",)] * 2


LATE = {
    **{f"{folder}/late_leaf": "late_head" for folder in ("cifar100", "all_images", "grocery_plain")},
    **{f"{folder}/smoothing_late_leaf": "soft_labels_late_head" for folder in ("few_images", "grocery_plain")},
}


@pytest.mark.parametrize("leaf", LATE)
def test_control_of_late_heads_predicts_the_leaf_in_their_place(leaf):
    late = f"{leaf.split('/')[0]}/{LATE[leaf]}"
    assert heads(late, "stage", "random") == [("late", False)] * 2
    assert [cut for (cut,) in heads(late, "cut")] == load_recipe(late, check=False).hierarchy.cuts
    assert heads(leaf, "stage", "weight") == heads(late, "stage", "weight")
    assert heads(leaf, "cut", "name") == [("leaf", "first"), ("leaf", "second")]


@pytest.mark.parametrize("folder", ["few_images", "noisy_labels"])
def test_random_groups_shuffle_the_levels_of_level_nll(folder):
    real, shuffled = (plain(f"{folder}/{name}")["loss"] for name in ("level_nll", "random_groups"))
    assert [level["random"] for level in real["levels"]] == [False]
    assert [level | {"random": True} for level in real["levels"]] == shuffled["levels"]
    assert real | {"levels": []} == shuffled | {"levels": []}


def test_clustered_groups_are_as_many_as_the_given_ones():
    clustered, given = plain("cifar100/branches_clustered"), plain("cifar100/branches")
    assert clustered["hierarchy"]["cluster"]["groups"] == [head["cut"] for head in given["model"]["heads"]]
    assert [head["cut"]["depth"] for head in clustered["model"]["heads"]] == [1, 2]
    assert [head | {"cut": None} for head in clustered["model"]["heads"]] == [head | {"cut": None} for head in given["model"]["heads"]]


def test_distilled_heads_are_those_of_branches():
    assert heads("cifar100/distill", "stage", "cut", "weight") == heads("cifar100/branches", "stage", "cut", "weight")
    assert heads("cifar100/distill", "distill") == [(0.5,)] * 2


def test_curriculum_shares_out_one_weight():
    recipe = load_recipe("cifar100/curriculum")
    parts = [recipe.loss.weight, *(head.weight for head in recipe.model.heads)]
    assert [sum(weight_at(part, epoch) for part in parts) for epoch in range(recipe.epochs)] == pytest.approx([1.0] * recipe.epochs)
    assert [weight_at(part, recipe.epochs - 1) for part in parts] == [1.0, 0, 0]


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
