"""Predictions for training images by networks that have not been trained on them: K-fold, out of fold."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hiercnn.data import Data, ImageSet, make_loader, members
from hiercnn.dynamics import Look, look
from hiercnn.errors import CheckpointError, DataError, Interrupted, RecipeError, shorten
from hiercnn.hierarchy import save_hierarchy
from hiercnn.models import PENULTIMATE, HierarchicalModel, exact_scores
from hiercnn.recipe._build import taught_hierarchy
from hiercnn.recipe._fit import Run, build_trainer, differing_keys
from hiercnn.recipe._load import data_settings
from hiercnn.recipe._schema import Recipe
from hiercnn.train import pick_device
from hiercnn.train._settings import CheckpointSettings, LoggingSettings

Tell = Callable[[str], None]


def fold_numbers(labels: np.ndarray, classes: int, folds: int, seed: int) -> np.ndarray:
    """The fold of each image [N], every class spread evenly over the folds; -1 for images labelled with a group, which are in none."""
    rng, numbers, first = np.random.default_rng([seed, 7]), np.full(len(labels), -1), 0
    for of_class in members(labels, classes):
        numbers[rng.permutation(of_class)] = (first + np.arange(len(of_class))) % folds
        first += len(of_class)  # where the last class left off, so that folds are of one size
    return numbers


def out_of_fold(
    recipe: Recipe, data: Data, folder: Path, folds: int = 5, *, device: str = "auto", tell: Tell = print, trust_imports: bool = False
) -> tuple[np.ndarray, Look]:
    """Train a recipe `folds` times, each time without a fold of the training images, and let each network look at its fold.

    Networks lie in `folder/0`, `folder/1`, …; finished ones are reused, one that was stopped goes on. Images labelled with a group are
    trained on in every fold and judged in none; val takes no part.

    Args:
        recipe: What is trained; evaluated after the last epoch alone.
        data: Its data, labels as they are to be judged.
        folder: Of this number of folds.
        tell: Called with a line about each fold.

    Returns:
        Positions in train of the images that were judged, in order, and what their networks make of them: logits, features of what the
        classifier reads (in a space of each network's own), labels.

    Raises:
        DataError: A class with one image; RecipeError: folds of another recipe; CheckpointError: of other images or labels, or damaged.
    """
    train, classes = data.train, data.hierarchy.num_classes
    scarce = [data.hierarchy.classes[label] for label, of_class in enumerate(members(train.labels, classes)) if len(of_class) < 2]
    if folds < 2:
        raise RecipeError(f"folds: wanted 2 or more, got {folds}")
    if scarce:
        raise DataError(f"a class needs two training images to be judged out of fold; there is one of {shorten(scarce)}")
    numbers = fold_numbers(train.labels, classes, folds, recipe.seed if recipe.data.seed is None else recipe.data.seed)
    positions, looks = [], []
    for fold in range(folds):
        held_out = np.flatnonzero(numbers == fold)
        part = replace(data, train=train.subset(np.flatnonzero(numbers != fold)), val=train.subset(held_out), test=None)
        run = _trained(fold_recipe(recipe), part, Run(folder / str(fold), trust_imports=trust_imports), f"fold {fold + 1} of {folds}", tell)
        positions.append(held_out)
        looks.append(look_at(run.recipe, run.load_model(), part.val, data.channels, device))
    order = np.argsort(np.concatenate(positions))
    joined = Look(
        {PENULTIMATE: torch.cat([each.features[PENULTIMATE] for each in looks])[order]},
        torch.cat([each.logits for each in looks])[order],
        torch.cat([each.labels for each in looks])[order],
    )
    return np.concatenate(positions)[order], joined


def fold_recipe(recipe: Recipe) -> Recipe:
    """A run's recipe as a fold trains it: evaluated once, the last weights kept, nothing measured or logged on the way."""
    once = recipe.eval.model_copy(update={"every": recipe.epochs, "test": False, "test_weights": "last"})
    quiet = {"checkpoints": CheckpointSettings(), "dynamics": None, "search": None, "logging": LoggingSettings(display="quiet")}
    return recipe.model_copy(update={"eval": once, **quiet})


def look_at(recipe: Recipe, model: HierarchicalModel, images: ImageSet, channels: int, device: str = "auto") -> Look:
    """What a network makes of images, not augmented: logits and what its classifier reads, on the CPU."""
    place = pick_device(device)
    loader = make_loader(images, data_settings(recipe, channels), train=False, channels=channels, device=place)
    model = model.to(place)
    with exact_scores(model):
        return look(model, loader, [PENULTIMATE]).cpu()


def _trained(recipe: Recipe, part: Data, run: Run, name: str, tell: Tell) -> Run:
    """The finished run of a fold, trained now if it is not there."""
    if run.finished:
        _check_same(run, recipe, part)
        tell(f"{name} is there")
        return run
    with run.lock():
        begun = run.exists()
        if begun:
            _check_same(run, recipe, part)
        tell(f"{name} {'goes on' if begun else 'is trained'}: {len(part.train):,} images, {recipe.epochs} epochs")
        trainer = build_trainer(recipe, part, run)
        if not begun and recipe.hierarchy is not None and recipe.hierarchy.cluster is not None:
            save_hierarchy(taught_hierarchy(recipe, part.hierarchy), run.clustered_file)
        try:
            trainer.fit(resume=begun)
        except Interrupted as stop:
            raise Interrupted(f"stopped in {name}; the same command goes on from the last checkpoint", stop.signal) from None
    return run


def _check_same(run: Run, recipe: Recipe, part: Data) -> None:
    changed = [key for key in differing_keys(run.recipe, recipe) if key != "train.device"]
    if changed:
        raise RecipeError(f"{run.path} was trained with another recipe; these differ: {shorten(changed)}. Delete {run.path.parent}")
    digests = {"train": part.train.digest, "val": part.val.digest}
    if (run.events and run.start["digests"] != digests) or run.hierarchy != part.hierarchy:
        raise CheckpointError(f"images, labels or classes have changed since {run.path} was trained; delete {run.path.parent}")
