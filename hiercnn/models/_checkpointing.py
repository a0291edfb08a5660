"""Activations that are computed again in the backward pass instead of being kept."""

from contextlib import contextmanager

import torch
from torch import nn

from hiercnn.errors import RecipeError


def checkpoint_gradients(backbone: nn.Module) -> None:
    """Switch timm's gradient checkpointing on; batch norms see a batch once, as without it.

    Raises:
        RecipeError: The backbone has none.
    """
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):
        raise RecipeError("this backbone cannot recompute its activations; leave out train.grad_checkpointing") from None
    for module in backbone.modules():
        if getattr(module, "running_mean", None) is not None and getattr(module, "track_running_stats", False):
            module.register_forward_pre_hook(_pause_statistics)
            module.register_forward_hook(_resume_statistics, always_call=True)


@contextmanager
def no_checkpointing(backbone: nn.Module):
    """Within this context nothing is computed again."""
    switched = [module for module in backbone.modules() if getattr(module, "grad_checkpointing", False)]
    for module in switched:
        module.grad_checkpointing = False
    try:
        yield
    finally:
        for module in switched:
            module.grad_checkpointing = True


def _pause_statistics(module: nn.Module, _) -> None:
    if module.training and torch._C._current_graph_task_id() != -1:  # there is one in a backward pass alone
        module.paused_momentum, module.momentum = module.momentum, 0.0


def _resume_statistics(module: nn.Module, *_) -> None:
    if hasattr(module, "paused_momentum"):
        module.momentum = module.__dict__.pop("paused_momentum")
        module.num_batches_tracked.sub_(1)
