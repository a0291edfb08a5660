"""Freezing the backbone up to a stage: which parameters those are, and batch norms that keep still with them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.models._backbone import PLACES, stage_index, stages, tapped_forward
from hiercnn.models._checkpointing import no_checkpointing

NONE, ALL = "none", "all"


def check_frozen_stage(backbone: nn.Module, stage: int | str, name: str = "this backbone") -> None:
    """Raise RecipeError unless the backbone can be frozen up to there."""
    if stage == ALL:
        _classifier(backbone)
    elif isinstance(stage, str) and stage not in (NONE, *PLACES):
        known = (*PLACES, ALL, NONE)
        raise RecipeError(f"unknown stage '{stage}'{did_you_mean(stage, known)}; use a number, {', '.join(known)}")
    elif stage != NONE:
        stage_index(stage, len(stages(backbone, name)), name)


def parameters_up_to(backbone: nn.Module, stage: int | str, shape: Sequence[int]) -> frozenset[str]:
    """Names of the parameters that a stage's features depend on, found by backpropagation on the meta device.

    Args:
        stage: Index of a stage, `early`, `middle`, `late`, or `all`: everything but the classifier.
        shape: Of the images [B, channels, H, W].

    Raises:
        RecipeError: No such stage, or a backbone that does not say what its classifier or its stages are.
    """
    if stage == ALL:
        return frozenset(name for name, _ in backbone.named_parameters()) - _classifier(backbone)
    index = stage_index(stage, len(stages(backbone)))
    tap = _Tap(backbone, index)
    ghosts = {name: torch.empty_like(tensor, device="meta") for name, tensor in [*tap.named_parameters(), *tap.named_buffers()]}
    names = [name for name, parameter in tap.named_parameters() if parameter.is_floating_point()]
    for name in names:
        ghosts[name].requires_grad_()
    was_training = backbone.training
    backbone.eval()  # batch norm in training refuses one value a channel
    try:
        with torch.enable_grad(), no_checkpointing(backbone):
            features = functional_call(tap, ghosts, torch.empty(tuple(shape), device="meta"))
            grads = torch.autograd.grad(features.sum(), [ghosts[name] for name in names], allow_unused=True)
    except RuntimeError as error:  # a few models look at values, which there are none of
        raise RecipeError(f"train.freeze: cannot tell what stage {stage} depends on: {str(error)[:120]}; freeze all, or none") from error
    finally:
        backbone.train(was_training)
    return frozenset(name.removeprefix("backbone.") for name, grad in zip(names, grads, strict=True) if grad is not None)


def freeze(module: nn.Module, names: frozenset[str], trainable: frozenset[str]) -> None:
    """Let these parameters keep still, and the statistics of their batch norms; the other `trainable` ones learn (again).

    To be called after `train()`, which wakes the batch norms.
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trainable and name not in names)
    for path, part in module.named_modules():
        if getattr(part, "running_mean", None) is not None:
            owner = part if any(True for _ in part.parameters()) else module.get_submodule(path.rpartition(".")[0])  # without parameters
            if not any(parameter.requires_grad for parameter in owner.parameters()):
                part.eval()


class _Tap(nn.Module):
    """A backbone's features after one stage."""

    def __init__(self, backbone: nn.Module, index: int):
        super().__init__()
        self.backbone, self.index = backbone, index

    def forward(self, images: Tensor) -> Tensor:
        return tapped_forward(self.backbone, images, [self.index])[1][self.index]


def _classifier(backbone: nn.Module) -> set[str]:
    if not hasattr(backbone, "get_classifier"):
        raise RecipeError("train.freeze: all needs a timm backbone, which says what its classifier is; name a stage")
    classifier = backbone.get_classifier()
    parts = classifier if isinstance(classifier, tuple | list) else [classifier]
    own = {id(parameter) for part in parts if isinstance(part, nn.Module) for parameter in part.parameters()}
    return {name for name, parameter in backbone.named_parameters() if id(parameter) in own}
