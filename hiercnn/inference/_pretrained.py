"""Answers of timm's pretrained ImageNet classifiers: WordNet's tree needs no training."""

from collections.abc import Mapping
from typing import Any

import torch

from hiercnn.data import DataSettings
from hiercnn.errors import RecipeError
from hiercnn.hierarchy import Hierarchy, builtin
from hiercnn.inference._predictor import BOMB, Predictor
from hiercnn.inference._registry import rules
from hiercnn.models import pretrained_backbone, pretrained_config

TREE = "imagenet1k"


def pretrained_predictor(
    name: str,
    rule: str = "climbing",
    options: Mapping[str, Any] | None = None,
    *,
    weights: str = "timm",
    hierarchy: Hierarchy | None = None,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    max_pixels: int = BOMB,
) -> Predictor:
    """A timm model with the classifier of its pretrained weights, timm's own mean, std and interpolation, and a decision rule.

    Args:
        name: A model of timm's registry.
        rule: A registered rule that needs no heads. `auto` needs a `calibration` among its options.
        options: Its options.
        weights: As recipes have them: `timm` (its hub), a file, `package:NAME`, `local-dir:DIR` or `hf-hub:USER/NAME`.
        hierarchy: Its classes are the classifier's, in order; default: WordNet's tree of the 1,000 classes of ImageNet.
        image_size: Side in pixels; default: what timm states. The short side becomes so long, then the centre is cut out (timm cuts more).
        device, batch_size, workers, max_pixels: As `Predictor` has them.

    Raises:
        RecipeError: Weights that are not there or do not fit, other classes than the tree's, or a rule that needs more than these.
    """
    tree = builtin(TREE) if hierarchy is None else hierarchy
    if rule == "auto" and "calibration" not in (options or {}):
        raise RecipeError("auto promises what it was calibrated for, on val images of a run; choose another rule: climbing")
    if rules[rule].reads_heads:
        raise RecipeError(f"{rule} reads hypernym heads, and '{name}' has none; choose another rule: climbing")
    network = pretrained_backbone(name, weights, in_chans=None, options={})
    if network.num_classes != tree.num_classes:
        raise RecipeError(f"the classifier of '{name}' in {weights} has {network.num_classes} classes, the tree {tree.num_classes}")
    stated = pretrained_config(name, weights)
    settings = DataSettings(
        name="files",
        image_size=image_size or stated["input_size"][-1],
        interpolation=stated["interpolation"],
        mean=list(stated["mean"]),
        std=list(stated["std"]),
        eval_batch_size=batch_size,
        workers=workers,
    )
    network.to(memory_format=torch.channels_last)
    chosen = rules[rule](tree, **(options or {}))
    channels = stated["input_size"][0]
    return Predictor(network, chosen, settings, channels=channels, device=device, channels_last=True, max_pixels=max_pixels)
