"""timm's optimisers and schedules from the recipe's sections."""

import torch
from torch import nn

from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.train._settings import OptimSettings, ScheduleSettings


def make_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """A timm optimiser of the model's parameters. Raises RecipeError for unknown names and options."""
    from timm.optim import create_optimizer_v2, list_optimizers

    known = list_optimizers()
    if settings.name.lower() not in known:
        raise RecipeError(f"timm has no optimiser '{settings.name}'{did_you_mean(settings.name, known)}")
    try:
        return create_optimizer_v2(
            model, settings.name, lr=settings.lr, weight_decay=settings.weight_decay, momentum=settings.momentum, **settings.options
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{settings.name} does not take these settings: {error}") from error


def make_scheduler(optimizer: torch.optim.Optimizer, settings: ScheduleSettings, epochs: int, updates_per_epoch: int):
    """A timm scheduler to be stepped with `step_update(update)` before every update."""
    from timm.scheduler import create_scheduler_v2

    options = dict(settings.options)
    name = settings.name
    if name == "constant":  # a step schedule that never steps: older timm has no 'constant'
        name, options = "step", {"decay_epochs": epochs, "decay_rate": 1.0} | options
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            name,
            num_epochs=epochs,
            warmup_epochs=settings.warmup_epochs,
            warmup_lr=settings.warmup_lr,
            min_lr=settings.min_lr,
            step_on_epochs=False,
            updates_per_epoch=updates_per_epoch,
            **options,
        )
    except TypeError as error:
        raise RecipeError(f"timm's {settings.name} schedule does not take these options: {error}") from error
    return scheduler
