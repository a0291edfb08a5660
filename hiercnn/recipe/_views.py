"""What a report shows of a finished run beside its numbers: the images as they were before training, and how layers answer to classes."""

import numpy as np

from hiercnn.data import ImageSet, make_loader, prepare
from hiercnn.dynamics import look, read_moments, told
from hiercnn.errors import CheckpointError, RecipeError
from hiercnn.files import read_arrays
from hiercnn.recipe._build import PYTHON, build_source, dynamics_cuts, dynamics_layers
from hiercnn.recipe._dynamics import Dynamics, images_to_look_at
from hiercnn.recipe._fit import Run
from hiercnn.recipe._load import data_settings
from hiercnn.train import pick_device


def source_images(run: Run) -> dict[str, ImageSet]:
    """Images of a run's train, val and test, in the size that their source has; none is decoded yet.

    Raises:
        RecipeError: Data that were objects. DataError: they are not there any more.
    """
    recipe = run.recipe
    if recipe.data.name == PYTHON:
        raise RecipeError(f"the images of {run.path} were objects, so they cannot be opened again")
    settings = recipe.data.model_copy(update={"storage": "files", "image_size": None})
    prune = recipe.hierarchy is not None and recipe.hierarchy.prune
    data = prepare(build_source(recipe), run.hierarchy, settings, recipe.seed, prune=prune)
    return {name: split for name in ("train", "val", "test") if (split := getattr(data, name)) is not None}


def class_responses(run: Run, *, images: int = 2000, device: str = "auto") -> dict[str, np.ndarray]:
    """Mean response of each class in the channels of each layer, {layer: [K, F]}, over images of train, by the last weights.

    Those that `hiercnn dynamics` has written are taken if they are of these weights; else a fixed choice of images is passed through.

    Raises:
        CheckpointError: No weights, or other data. RecipeError: data or model that were objects. DataError: a class without images.
    """
    if not (run.checkpoints / "last.safetensors").exists():
        raise CheckpointError(f"{run.path} has kept no weights")
    if (kept := kept_responses(run)) is not None:
        return kept
    train, _ = images_to_look_at(run, images)
    model = run.load_model("last").to(place := pick_device(device))
    loader = make_loader(train, data_settings(run.recipe, run.channels), train=False, channels=run.channels, device=place)
    return look(model, loader, dynamics_layers(run.recipe, model.backbone)).cpu().class_means(run.hierarchy.num_classes)


def kept_responses(run: Run) -> dict[str, np.ndarray] | None:
    """Those that `hiercnn dynamics` has written of the last weights; None if there are none, of older weights, or damaged."""
    kept, weights = run.path / "dynamics" / "means.npz", run.checkpoints / "last.safetensors"
    try:
        if kept.stat().st_mtime < weights.stat().st_mtime:
            return None
        found = {layer: values[-1] for layer, values in read_arrays(kept).items() if layer != "steps"}
    except (OSError, CheckpointError, IndexError):
        return None
    fits = all(means.ndim == 2 and means.dtype.kind == "f" and len(means) == run.hierarchy.num_classes for means in found.values())
    return found if found and fits else None


def kept_dynamics(run: Run) -> Dynamics | None:
    """What was measured of a run before, by `hiercnn dynamics` or while it was trained; None if fewer than two moments are kept."""
    folder = run.path / "dynamics"
    measured = [moments for each in sorted(folder.glob("images-*")) if len(moments := read_moments(each)) > 1]
    live = read_moments(folder / "live")
    moments = max(measured, key=lambda moments: (len(moments), len(moments[-1].rows)), default=live)
    if len(moments) < 2:
        return None
    split = "val" if not measured or "test" not in run.start["sizes"] else "test"
    try:
        story = told(moments, run.hierarchy, dynamics_cuts(run.recipe, run.hierarchy), run.start["steps_per_epoch"], split)
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"what is kept in {folder} is not of this run ({error}); delete it and call hiercnn dynamics again") from None
    return Dynamics(story, folder, live=not measured)
