"""From a recipe to the objects it names: hierarchy, data, model, task."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import nn

from hiercnn.data import Data, Source, data_sets, prepare
from hiercnn.errors import DataError, RecipeError, did_you_mean
from hiercnn.hierarchy import Cut, Hierarchy, builtin, chosen_cuts, from_folders, from_nested, from_wordnet, read_hierarchy
from hiercnn.inference import rules
from hiercnn.losses import losses
from hiercnn.models import HeadSpec, HierarchicalModel, build_model, heads, layer_names, layer_stage
from hiercnn.recipe._schema import HeadSettings, HierarchySettings, Recipe
from hiercnn.settings import Settings
from hiercnn.train import FlatTask, HierarchicalTask

PYTHON = "python"  # data set or backbone that came as an object, not by name


def build_hierarchy(settings: HierarchySettings | None) -> Hierarchy | None:
    """The tree a recipe names, whose cuts are reported, classes in the tree's own order; None if it names none.

    Raises:
        HierarchyError, CheckpointError, …: What hinders.
    """
    if settings is None:
        return None
    if not settings.given:
        tree = clustered(settings)
    elif settings.builtin is not None:
        tree = builtin(settings.builtin)
    elif settings.file is not None:
        tree = read_hierarchy(settings.file, columns=settings.columns, parent_rule=settings.parent_rule)
    elif settings.nested is not None:
        tree = from_nested(settings.nested)
    elif settings.wordnet is not None:
        tree = from_wordnet(settings.wordnet, parent_rule=settings.parent_rule or "longest")
    else:
        tree = from_folders(settings.folders)
    return tree.collapse() if settings.collapse else tree


def taught_hierarchy(recipe: Recipe, reported: Hierarchy | None) -> Hierarchy | None:
    """The tree that heads and losses are made of: a clustered one, if the recipe has one, in the class order of the one reported."""
    if reported is None or recipe.hierarchy is None or recipe.hierarchy.cluster is None or not recipe.hierarchy.given:
        return reported
    tree = clustered(recipe.hierarchy)
    known = set(tree.classes) if recipe.hierarchy.prune else reported.classes  # which classes have no data is known when these are read
    return tree.with_classes([name for name in reported.classes if name in known])


def clustered(settings: HierarchySettings) -> Hierarchy:
    """The tree of `hierarchy.cluster`, made once in a process as long as the run stays as it is."""
    from hiercnn.recipe._cluster import clustered_tree  # a run is read by way of its recipe

    return clustered_tree(settings.cluster)


def build_source(recipe: Recipe) -> Source:
    """Read the data set a recipe names."""
    options = {name: (recipe.data.model_extra or {}).get(name) for name in data_sets.options(recipe.data.name)}
    try:
        return data_sets[recipe.data.name](**options)
    except OSError as error:  # a path that is too long, a folder that may not be entered
        raise DataError(f"data: cannot read {recipe.data.name}: {error.strerror or error}") from error


def build_data(recipe: Recipe, source: Source, tree: Hierarchy | None) -> Data:
    """Match, split and decode."""
    return prepare(source, tree, recipe.data, recipe.seed, prune=recipe.hierarchy is not None and recipe.hierarchy.prune)


def report_cuts(recipe: Recipe, hierarchy: Hierarchy) -> list[Cut]:
    """The cuts whose accuracy is reported, coarse first."""
    wanted = recipe.hierarchy.cuts if recipe.hierarchy is not None else None
    if wanted is not None:
        return list({cut.name: cut for cut in chosen_cuts(hierarchy, wanted)}.values())  # nested: one name, one cut
    depths = range(1, hierarchy.height)
    kept = depths if len(depths) <= 3 else [depths[round(i * (len(depths) - 1) / 2)] for i in range(3)]
    by_name = {cut.name: cut for cut in (hierarchy.cut(depth=depth) for depth in kept) if len(cut) > 1}
    return list(by_name.values())


def dynamics_cuts(recipe: Recipe, hierarchy: Hierarchy) -> list[Cut]:
    """The cuts whose dynamics are measured: those of `dynamics.cuts`, or those that are reported, without the leaf.

    Raises:
        RecipeError: There is none. HierarchyError: cuts that the tree does not have.
    """
    wanted = recipe.dynamics.cuts if recipe.dynamics is not None else None
    cuts = report_cuts(recipe, hierarchy) if wanted is None else chosen_cuts(hierarchy, wanted)
    found = list({cut.name: cut for cut in cuts if cut.name != "leaf"}.values())
    if not found:
        raise RecipeError("dynamics are those of groups, and there is no cut between root and leaves; name one in dynamics.cuts")
    return found


def dynamics_layers(recipe: Recipe, backbone: nn.Module) -> list[str]:
    """The layers whose dynamics are measured, from the first to the last. Raises RecipeError for one that the backbone does not have."""
    chosen = "auto" if recipe.dynamics is None else recipe.dynamics.layers
    if chosen == "auto":
        return layer_names(backbone)
    stages = {layer: layer_stage(layer, backbone) for layer in chosen}
    return sorted(stages, key=lambda layer: math.inf if stages[layer] is None else stages[layer])


class AutoOptions(Settings):
    """What `auto` promises: a share of right answers, and the probability with which the promise holds."""

    target: Annotated[float, Field(gt=0, lt=1)] = 0.95
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


def rule_options(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a decision rule, if it has them. Raises RecipeError for unknown ones, and for what `auto` cannot promise."""
    known = list(AutoOptions.model_fields if name == "auto" else rules.options(name))
    for option in options:
        if option not in known:
            raise RecipeError(f"{name} has no option '{option}'{did_you_mean(option, known)}; there are {', '.join(known)}")
    if name != "auto":
        return options
    try:
        return AutoOptions.model_validate(options).model_dump()
    except ValidationError as error:
        problems = (f"{one['loc'][0]}: {one['msg']} (got {one['input']!r})" for one in error.errors())
        raise RecipeError(f"auto: {'; '.join(problems)}") from None


def check_decision(recipe: Recipe, hierarchy: Hierarchy | None) -> None:
    """Try the rule of `decision:` on a tree, where it needs no run. Raises RecipeError, HierarchyError."""
    name, options = recipe.decision.name, rule_options(recipe.decision.name, recipe.decision.options)
    if hierarchy is not None and name not in ("auto", "hie"):
        rules[name](hierarchy, **options)


def build_recipe_model(recipe: Recipe, hierarchy: Hierarchy, channels: int, *, pretrained: bool = True) -> HierarchicalModel:
    """The model a recipe names, initialised from its seed, for images of so many channels.

    `pretrained=False` leaves pretrained weights out, for a model whose trained ones are loaded next.
    """
    model = recipe.model
    return build_model(
        model.backbone,
        hierarchy,
        [_head_spec(head, hierarchy, recipe.seed) for head in model.heads],
        in_chans=channels,
        stem=model.stem,
        classifier=model.classifier,
        options=model.options,
        weights=model.weights if pretrained else None,
        seed=recipe.seed,
    )


def build_task(recipe: Recipe, data: Data, model: HierarchicalModel, taught: Hierarchy | None = None) -> FlatTask:
    """Flat without heads, hierarchical with them; the loss is of the tree `taught`, the data's unless it is given.

    Raises:
        RecipeError: Labels that are groups of another tree than the loss is of.
    """
    taught = data.hierarchy if taught is None else taught
    if data.inner_labels and taught != data.hierarchy:
        raise RecipeError("images labelled with groups of the given tree cannot teach a clustered one; leave out hierarchy.cluster")
    loss = build_loss(recipe, taught, inner_labels=data.inner_labels)
    tau = recipe.loss.logit_adjustment
    adjustment = tau * torch.tensor(class_shares(data, recipe.data.balance)).log().float() if tau else None
    if not model.specs:
        return FlatTask(loss, recipe.loss.weight, adjustment=adjustment)
    return HierarchicalTask(loss, recipe.loss.weight, heads=model.specs, adjustment=adjustment)


def class_shares(data: Data, balance: float = 0.0) -> np.ndarray:
    """Share of each class of the training images as they are drawn [C]; one labelled with a group counts evenly for the group's classes."""
    tree = data.hierarchy
    counts = np.bincount(data.train.labels, minlength=tree.num_nodes).astype(float)
    counts[counts > 0] **= 1 - balance  # how often `data.balance` draws each label
    shares = counts[: tree.num_classes].copy()
    for label in np.flatnonzero(counts[tree.num_classes :]) + tree.num_classes:
        leaves = tree.leaves(tree.label_nodes[label])
        shares[leaves] += counts[label] / len(leaves)
    return shares / shares.sum()


def _head_spec(head: HeadSettings, hierarchy: Hierarchy, seed: int) -> HeadSpec:
    cut = head_cut(head, hierarchy)
    if head.random is not False:
        cut = hierarchy.random_like(cut, seed if head.random is True else head.random)
    options = {name: (head.model_extra or {})[name] for name in heads.options(head.type) if name in (head.model_extra or {})}
    return HeadSpec(
        head.stage,
        cut,
        kind=head.type,
        options=options,
        stop_gradient=head.stop_gradient,
        feed_forward=head.feed_forward,
        weight=head.weight,
        distill=head.distill,
        name=head.name,
    )


def head_cut(head: HeadSettings, hierarchy: Hierarchy) -> Cut:
    """The cut a head asks for, before any shuffling."""
    return chosen_cuts(hierarchy, [head.cut])[0]


def build_loss(recipe: Recipe, hierarchy: Hierarchy, *, inner_labels: bool = False) -> nn.Module:
    """The loss of the leaf logits that a recipe names. Raises RecipeError if it cannot use labels that are groups, and there are some."""
    name, known = recipe.loss.name, losses.options(recipe.loss.name)
    options = {key: value for key, value in (recipe.loss.model_extra or {}).items() if key in known}
    if inner_labels:
        if "inner_labels" not in known:
            raise RecipeError(f"loss.name: '{name}' cannot use labels that are groups of the hierarchy, and the data have some")
        options["inner_labels"] = True
    if "seed" in known:
        options["seed"] = recipe.seed
    return losses[name](hierarchy, **options)
