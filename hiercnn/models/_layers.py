"""Layers whose features can be looked at: the stages of a backbone, and what its classifier reads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.models._backbone import stages

PENULTIMATE = "penultimate"


def layer_names(backbone: nn.Module) -> list[str]:
    """`stage0`, …, and `penultimate`: what the classifier reads. Raises RecipeError for a backbone that does not name its stages."""
    return [*(f"stage{index}" for index in range(len(stages(backbone)))), PENULTIMATE]


def layer_stage(layer: str, backbone: nn.Module) -> int | None:
    """Index of the stage that a layer is, None for `penultimate`. Raises RecipeError for a layer that the backbone does not have."""
    if layer == PENULTIMATE:
        return None
    names = layer_names(backbone)
    if layer not in names:
        raise RecipeError(f"unknown layer '{layer}'{did_you_mean(layer, names)}; this backbone has {', '.join(names)}")
    return names.index(layer)


def classifier_of(model: nn.Module) -> nn.Module:
    """The module that makes scores of the last features of a model or a backbone. Raises RecipeError if timm would not know it."""
    backbone = getattr(model, "backbone", model)
    found = backbone.get_classifier() if hasattr(backbone, "get_classifier") else None
    if not isinstance(found, nn.Module):
        raise RecipeError("this network has no classifier that timm knows; use a stage, logits or confusion")
    return found


@contextmanager
def read_by_classifier(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """A list that gets what the classifier reads, each time it does."""
    read: list[Tensor] = []
    hook = classifier_of(backbone).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    try:
        yield read
    finally:
        hook.remove()


def pooled(features: Tensor) -> Tensor:
    """Features [B, F] of a feature map [B, F, …], averaged over the map in float32."""
    features = features.float()
    return features.flatten(2).mean(2) if features.ndim > 2 else features


@contextmanager
def exact_scores(model: nn.Module) -> Iterator[None]:
    """Let a linear classifier score in float32 under autocast: of scores in bfloat16 one image in fifty has two equal highest ones."""
    backbone = getattr(model, "backbone", None)
    classifier = backbone.get_classifier() if hasattr(backbone, "get_classifier") else None
    if not isinstance(classifier, nn.Linear):
        yield
        return

    def score(module: nn.Linear, features: tuple[Tensor], rounded: Tensor) -> Tensor:
        with torch.autocast(rounded.device.type, enabled=False):
            return F.linear(features[0].float(), module.weight.float(), None if module.bias is None else module.bias.float())

    handle = classifier.register_forward_hook(score)
    try:
        yield
    finally:
        handle.remove()
