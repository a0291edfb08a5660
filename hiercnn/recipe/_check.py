"""What can be wrong with a recipe beyond its form: trees, cuts, backbones, stages and weights. Needs no data."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from hiercnn.data import groups_to_relabel, named_transform
from hiercnn.dynamics import cut_partitions
from hiercnn.errors import HierCNNError, RecipeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.models import check_frozen_stage, create_backbone, seeded, stage_index, stages
from hiercnn.recipe._build import (
    PYTHON,
    build_hierarchy,
    build_loss,
    check_decision,
    dynamics_cuts,
    dynamics_layers,
    head_cut,
    report_cuts,
    taught_hierarchy,
)
from hiercnn.recipe._schema import HeadSettings, Recipe
from hiercnn.train import frozen_stages, make_optimizer, make_scheduler, weight_at

Problem = tuple[str, str]  # dotted path, what is wrong
CLUSTER = "hierarchy.cluster"


def find_problems(recipe: Recipe, *, tree_failed: bool = False, stand_in: Hierarchy | None = None) -> list[Problem]:
    """Try everything the recipe names and return all that fails; cuts are left out if the tree has failed already.

    `stand_in` takes the place of a clustered tree that cannot be made yet.
    """
    problems: list[Problem] = []
    given = recipe.hierarchy is None or recipe.hierarchy.given
    stand_in = stand_in if recipe.hierarchy is not None and recipe.hierarchy.cluster is not None else None
    tree = stand_in if stand_in and not given else _attempt(problems, "hierarchy" if given else CLUSTER, build_hierarchy, recipe.hierarchy)
    taught = stand_in or _attempt(problems, CLUSTER, taught_hierarchy, recipe, tree)
    tree_failed = tree_failed or bool(problems)
    with seeded(0):  # weights are made and thrown away; the caller's generator is not to notice
        if tree is not None:
            _attempt(problems, "hierarchy.cuts", report_cuts, recipe, tree)
        trunk = _check_model(problems, recipe, taught, tree_failed)
        if recipe.dynamics is not None and not tree_failed:
            _check_dynamics(problems, recipe, tree, trunk)
        if taught is not None:
            _check_labels(problems, recipe, tree, taught)
        _check_training(problems, recipe)
        _attempt(problems, "decision", check_decision, recipe, tree)
    return problems


def _check_model(problems: list[Problem], recipe: Recipe, tree: Hierarchy | None, tree_failed: bool) -> nn.Module | None:
    """Check backbone, weights and heads, and return the backbone if it can be built."""
    trunk = None
    if recipe.model.backbone != PYTHON:
        options = {"stem": recipe.model.stem, "options": recipe.model.options}
        trunk = _attempt(problems, "model.backbone", create_backbone, recipe.model.backbone, 2, **options)
        if trunk is not None and recipe.model.weights is not None:
            options |= {"weights": recipe.model.weights, "in_chans": None}
            _attempt(problems, "model.weights", create_backbone, recipe.model.backbone, 2, **options)
    for epoch, stage in frozen_stages(recipe.train.freeze).items() if trunk is not None else ():
        path = f"train.freeze.steps.{epoch}" if hasattr(recipe.train.freeze, "steps") else "train.freeze"
        _attempt(problems, path, check_frozen_stage, trunk, stage, recipe.model.backbone)
    for number, head in enumerate(recipe.model.heads):
        path = f"model.heads[{number}]"
        if trunk is not None:
            _attempt(problems, f"{path}.stage", _stage, head, trunk, recipe.model.backbone)
        if not tree_failed:
            _check_cut(problems, f"{path}.cut", head, tree)
    return trunk


def _check_dynamics(problems: list[Problem], recipe: Recipe, tree: Hierarchy | None, trunk: nn.Module | None) -> None:
    if trunk is not None:
        _attempt(problems, "dynamics.layers", dynamics_layers, recipe, trunk)
    if tree is None:
        problems.append(("dynamics", "needs a hierarchy: section to cut"))
        return
    cuts = _attempt(problems, "dynamics.cuts", dynamics_cuts, recipe, tree)
    if cuts is not None:
        _attempt(problems, "dynamics.cuts", cut_partitions, tree, cuts, 0)


def _check_labels(problems: list[Problem], recipe: Recipe, tree: Hierarchy, taught: Hierarchy) -> None:
    loss = _attempt(problems, "loss", build_loss, recipe, taught)
    fitting = getattr(loss, "classifier", None)
    if fitting is not None and recipe.model.classifier != fitting and recipe.model.backbone != PYTHON:
        problems.append(
            ("loss.name", f"{recipe.loss.name} trains scores of all nodes, read in its own way; set model.classifier: {fitting}")
        )
    if recipe.loss.logit_adjustment and getattr(loss, "scores", "leaf") != "leaf":
        problems.append(("loss.logit_adjustment", f"is for losses of leaf logits; {recipe.loss.name} scores nodes"))
    for name in ("label_noise", "coarse_labels"):
        if getattr(recipe.data, name) is not None:
            _attempt(problems, f"data.{name}.cut", groups_to_relabel, tree, getattr(recipe.data, name))
    if recipe.data.coarse_labels is not None and taught != tree:
        problems.append((CLUSTER, "cannot be taught by data.coarse_labels, which are groups of the given tree; leave one out"))


def _check_training(problems: list[Problem], recipe: Recipe) -> None:
    one_layer = recipe.optim.model_copy(update={"layer_decay": None})
    optimizer = _attempt(problems, "optim", make_optimizer, nn.Linear(1, 1), one_layer)
    if optimizer is not None:
        _attempt(problems, "schedule", make_scheduler, optimizer, recipe.schedule, recipe.epochs, 10)
    for number, transform in enumerate(recipe.data.augment.transforms):
        _attempt(problems, f"data.augment.transforms[{number}]", named_transform, transform)
    if recipe.data.augment.mix is not None and recipe.data.batch_size < 2:
        problems.append(("data.augment.mix", "needs batches of at least two images"))
    average = recipe.checkpoints.average
    if average is not None and average > recipe.epochs:
        problems.append(("checkpoints.average", f"wants {average} epochs, and there are {recipe.epochs}"))
    if recipe.eval.test_weights == "average" and average is None:
        problems.append(("eval.test_weights", "average needs checkpoints.average, the number of epochs to average"))
    if weight_at(recipe.loss.weight, recipe.epochs - 1) == 0:
        problems.append(("loss.weight", "ends at 0; the last phase must train the leaf"))


def report(where: str, problems: Sequence[Problem]) -> None:
    """Raise one RecipeError for all problems, if there are any."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RecipeError(f"{where} has {count}:\n" + "\n".join(f"  {path}: {text}" for path, text in problems))


def _check_cut(problems: list[Problem], path: str, head: HeadSettings, tree: Hierarchy | None) -> None:
    if tree is None:
        if head.cut != "leaf":
            problems.append((path, "needs a hierarchy: section to cut"))
        return
    cut = _attempt(problems, path, head_cut, head, tree)
    if cut is not None and len(cut) < 2:
        problems.append((path, "has one group, so the head would have nothing to learn; cut lower"))
    if cut is not None and isinstance(head.cut, int) and len(cut) != head.cut:
        depth = next((depth for depth in range(1, tree.height) if len(tree.cut(depth=depth)) == head.cut), None)
        if depth is not None:
            text = f"gives {len(cut)} groups; the level of the tree that has {head.cut} is cut: {{depth: {depth}}}"
            problems.append((path, text))
    if cut is not None and cut.name == "leaf" and head.cut != "leaf":
        problems.append((path, f"is as fine as the leaves (the tree has height {tree.height}); write cut: leaf if you mean that"))
    if head.cut == "leaf" and head.random is not False:
        problems.append((path.replace(".cut", ".random"), "needs groups to shuffle; cut higher than the leaf"))


def _stage(head: HeadSettings, trunk: Any, backbone: str) -> int:
    return stage_index(head.stage, len(stages(trunk, backbone)), backbone)


def _attempt(problems: list[Problem], path: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return function(*arguments, **options)
    except (HierCNNError, OSError) as error:  # of the system: a path that is too long, a folder that may not be entered
        problems.append((path, str(error)[:400]))
        return None
