"""A run's network with a decision rule, ready to answer for images."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hiercnn.data import make_loader
from hiercnn.errors import CheckpointError, DataError, RecipeError
from hiercnn.files import atomic_file, read_arrays
from hiercnn.hierarchy import Cut
from hiercnn.inference import BOMB, Calibration, Predictor, Rule, calibrate, hie_options, rules
from hiercnn.models import HierarchicalModel, exact_scores
from hiercnn.recipe._build import PYTHON, build_data, build_source, rule_options
from hiercnn.recipe._fit import Run
from hiercnn.recipe._load import data_settings
from hiercnn.train import pick_device, pick_precision


def predictor_of_run(
    run: Run,
    rule: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    weights: str = "last",
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = BOMB,
) -> Predictor:
    """The network of a finished run, its preprocessing and a decision rule.

    Args:
        run: A run with weights.
        rule: A registered rule; default: that of the recipe's `decision:` section.
        options: Its options. `auto` takes those of `calibrate` (target, confidence), `hie` finds its head and cut by itself.
        weights: `last`, `best`, `average` or `step-…`.
        batch_size, workers: Of the loader; default: the recipe's.
        max_pixels: Larger files count as unreadable.

    Raises:
        CheckpointError: No such run or weights. RecipeError: unknown rule or options. DataError: no images to calibrate on.
    """
    recipe, model = run.recipe, run.load_model(weights)
    if rule is None:
        rule, options = recipe.decision.name, {**recipe.decision.options, **(options or {})}
    chosen = rule_of_run(run, model, rule, options or {}, weights=weights)
    loading = {"device": device, "batch_size": batch_size, "workers": workers, "max_pixels": max_pixels}
    network = model if chosen.reads_heads else model.with_heads([])
    return assembled(run, network, chosen, run.cuts, **loading)


def assembled(
    run: Run,
    network: nn.Module,
    rule: Rule,
    cuts: Sequence[Cut],
    *,
    leaf_level: str = "leaf",
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = BOMB,
) -> Predictor:
    """A network and a rule with what the run knows of its images."""
    recipe, place = run.recipe, pick_device(device)
    asked = {"eval_batch_size": batch_size, "workers": workers, "image_size": recipe.data.image_size or side_of_images(run)}
    settings = data_settings(recipe, run.channels).model_copy(update={key: value for key, value in asked.items() if value is not None})
    bfloat16 = pick_precision(recipe.train.precision, place) == "bfloat16"
    autocast = partial(torch.autocast, place.type, dtype=torch.bfloat16) if bfloat16 else nullcontext
    network.to(memory_format=torch.channels_last if recipe.train.channels_last else torch.contiguous_format)
    return Predictor(
        network,
        rule,
        settings,
        channels=run.channels,
        cuts=cuts,
        leaf_level=leaf_level,
        device=place,
        autocast=autocast,
        channels_last=recipe.train.channels_last,
        max_pixels=max_pixels,
    )


def rule_of_run(run: Run, model: HierarchicalModel, name: str, options: Mapping[str, Any], *, weights: str = "last") -> Rule:
    """A registered rule for a run's classes; `auto` is calibrated on val, `hie` takes the first head whose groups are not classes."""
    options = rule_options(name, options)
    if name == "auto":
        return rules["auto"](run.hierarchy, calibration=calibrate_run(run, weights=weights, **options))
    if name == "hie":
        options = hie_options(model.cuts, options)
    return rules[name](run.hierarchy, **options)


def calibrate_run(run: Run, *, weights: str = "last", target: float = 0.95, confidence: float = 0.95) -> Calibration:
    """Temperature and threshold from the run's val images, which weights and heads have not been trained on.

    Weights that were chosen on val (`best`) have seen it in a way; the promise is then a little too good. What was found is kept in
    `calibration/`, if the run can be written.
    """
    file = run.path / "calibration" / f"{weights}-{target:g}-{confidence:g}.json"
    kept = _kept(file, run)
    if kept is not None:
        return kept
    found = calibrate(run.hierarchy, *_run_scores(run, weights), target=target, confidence=confidence)
    with suppress(OSError, CheckpointError):  # a run that may only be read answers too
        file.parent.mkdir(exist_ok=True)
        with atomic_file(file) as scratch:
            scratch.write_text(json.dumps(found.to_dict() | {"run": run.digest}, indent=1) + "\n", encoding="utf-8")
    return found


def _kept(file, run: Run) -> Calibration | None:
    """What was found before for the run as it is now."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Calibration.from_dict(values) if values.pop("run", None) == run.digest else None
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, CheckpointError):
        return None


def _run_scores(run: Run, weights: str) -> tuple[Tensor, Tensor]:
    """Leaf logits and labels of val: those that the last evaluation has kept, or what the network makes of it now."""
    if weights == "last":
        with suppress(CheckpointError, KeyError, TypeError):  # missing or damaged: measured anew
            arrays = read_arrays(run.predictions / "val.npz")
            return torch.from_numpy(arrays["logits"]).float(), torch.from_numpy(arrays["labels"])
    logits, labels, _ = run_scores(run, run.load_model(weights))
    return logits, labels


def run_scores(run: Run, model: HierarchicalModel, split: str = "val") -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Leaf logits [B, C], labels [B] and the heads' logits of the images of one of the run's splits."""
    recipe = run.recipe
    if recipe.data.name == PYTHON:
        raise RecipeError(f"the images of {run.path} were objects, so nothing can be calibrated on them now; choose a rule but auto")
    data = build_data(recipe, build_source(recipe), run.hierarchy)
    images = getattr(data, split)
    if images is None:
        raise DataError(f"the data of {run.path} have no {split} images")
    loader = make_loader(images, data_settings(recipe, run.channels), train=False, channels=run.channels)
    with torch.inference_mode(), exact_scores(model):
        parts = [(model(batch.images), batch.labels) for batch in loader.epoch()]
    heads = {name: torch.cat([output.heads[name] for output, _ in parts]).float() for name in parts[0][0].heads}
    return torch.cat([output.leaf for output, _ in parts]).float(), torch.cat([labels for _, labels in parts]), heads


def side_of_images(run: Run) -> int:
    """Side of the images that the run was trained on, where its recipe leaves that to the data."""
    size = run.start.get("input_size")
    if size is None:
        raise RecipeError(f"{run.path} was trained on images of several sizes; answers need data.image_size in its recipe")
    return size[-1]
