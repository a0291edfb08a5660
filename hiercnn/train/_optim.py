"""timm's optimisers and schedules from the recipe's sections."""

import inspect

import torch
from torch import nn

from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.train._settings import OptimSettings, ScheduleSettings

FALLBACK = ("fallback_list", "fallback_no_weight_decay")  # of hybrid optimisers: timm's grouping takes them, not the optimiser
GROUPING = frozenset({"layer_decay", "layer_decay_min_scale", "layer_decay_no_opt_scale", "filter_bias_and_bn", "param_group_fn"})


def make_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """A timm optimiser of the model's parameters; fused on CUDA, where it can be.

    Raises:
        RecipeError: Unknown names and options, or a model whose parameters are all frozen.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers

    known = list_optimizers()
    if settings.name.lower() not in known:
        raise RecipeError(f"timm has no optimiser '{settings.name}'{did_you_mean(settings.name, known)}")
    ours = sorted(GROUPING.intersection(settings.options))
    if ours:
        raise RecipeError(f"optim.options: {', '.join(ours)} cannot be set; optim.layer_decay and optim.weight_decay make the groups")
    groups = parameter_groups(model, settings)
    if not groups:
        raise RecipeError("every parameter of the model is frozen, so there is nothing to train; let some require a gradient")
    options = {key: value for key, value in settings.options.items() if key not in FALLBACK}
    if groups[0]["params"][0].is_cuda and "fused" in inspect.signature(get_optimizer_class(settings.name, bind_defaults=False)).parameters:
        options.setdefault("fused", True)
    try:
        return create_optimizer_v2(groups, settings.name, lr=settings.lr, momentum=settings.momentum, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{settings.name} does not take these settings: {error}") from error


def parameter_groups(model: nn.Module, settings: OptimSettings) -> list[dict]:
    """timm's groups of the backbone, with its layers' learning rates if asked for, and groups of the heads.

    A group's `lr_scale` is its learning rate as a multiple of `lr`, which timm's schedules keep to.
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    backbone = getattr(model, "backbone", model)
    exempt = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    options = {"weight_decay": settings.weight_decay} | {key: settings.options[key] for key in FALLBACK if key in settings.options}
    if settings.layer_decay is None:
        groups = param_groups_weight_decay(backbone, no_weight_decay_list=exempt, **options)
    else:
        groups = param_groups_layer_decay(backbone, no_weight_decay_list=exempt, layer_decay=settings.layer_decay, **options)
    if backbone is model:
        return groups
    heads = param_groups_weight_decay(nn.ModuleList([model.heads, model.feeds]), **options)
    scale = 1.0 if settings.head_lr is None else settings.head_lr / settings.lr
    return groups + [group | {"lr_scale": scale} for group in heads]


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


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The scheduled learning rate, before layers and heads scale it."""
    group = optimizer.param_groups[0]
    return group["lr"] / group.get("lr_scale", 1.0)
