"""What timm offers: backbones by name, and what their stages are, without weights or memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.models._backbone import PLACES, create_backbone, stage_index, stages, tapped_forward

CLASSES = 1000  # of the classifier that is counted along, as timm counts


@dataclass(frozen=True)
class Stage:
    """A stage that a head can follow.

    Attributes:
        index: Its number.
        channels: Channels F of its feature map.
        stride: Pixels of the image a step of the map, as timm states it.
        size: Height and width of the map; None where the backbone does not take the images.
        places: Which of `early`, `middle`, `late` it is.
    """

    index: int
    channels: int
    stride: int
    size: tuple[int, int] | None
    places: tuple[str, ...]


@dataclass(frozen=True)
class BackboneInfo:
    """A backbone and its stages.

    Attributes:
        name: timm's name.
        parameters: Their number, with a classifier of 1,000 classes.
        size: Height and width of the images that the rest is told for.
        stages: Its stages.
        options: What `model.options` must say for images of this size.
        problem: Why the stages' sizes are not known, if so.
    """

    name: str
    parameters: int
    size: tuple[int, int]
    stages: tuple[Stage, ...]
    options: Mapping[str, object]
    problem: str | None


def backbone_names(pattern: str = "*") -> list[str]:
    """Names of the models of timm's registry, ours included, that match.

    Args:
        pattern: The name of a model, for that one alone; a pattern with `*`, `?` or `[…]`; or a part of names.

    Raises:
        RecipeError: There is none.
    """
    import timm

    from hiercnn.models import _plain  # noqa: F401  registers our plain nets with timm

    if timm.is_model(pattern):
        return [pattern]
    found = timm.list_models(pattern if set(pattern) & set("*?[") else f"*{pattern}*")
    if not found:
        close = did_you_mean(pattern.strip("*"), timm.list_models())
        raise RecipeError(f"no backbone's name matches '{pattern}'{close} (part of a name, or a pattern such as 'resnet*d')")
    return found


def describe_backbone(name: str, side: int | None = None) -> BackboneInfo:
    """Build a backbone on the meta device, run one image through it and tell its stages.

    Args:
        name: A model of timm's registry.
        side: Height and width of the image; None takes the size that timm states for the model.

    Raises:
        RecipeError: Unknown model, or one that heads cannot be placed on.
    """
    backbone = _on_meta(name, {})
    infos = stages(backbone, name)
    size = (side, side) if side else tuple(backbone.pretrained_cfg["input_size"][1:])
    backbone, maps, options, problem = _at_size(backbone, name, size)
    at = {place: stage_index(place, len(infos)) for place in PLACES}
    listed = tuple(
        Stage(i, info["num_chs"], info["reduction"], maps[i], tuple(place for place in PLACES if at[place] == i))
        for i, info in enumerate(infos)
    )
    return BackboneInfo(name, sum(p.numel() for p in backbone.parameters()), size, listed, options, problem)


def _at_size(backbone: nn.Module, name: str, size: tuple[int, int]) -> tuple[nn.Module, list, dict[str, object], str | None]:
    """The backbone for images of a size, the sizes of its maps, the options it needs, and what is wrong if it takes no such images."""
    try:
        return backbone, _map_sizes(backbone, size), {}, None
    except Exception as error:  # whatever a model raises on images that it does not take
        reason = f"{type(error).__name__} {error}".splitlines()[0].strip()[:200]
    options = {"img_size": size[0] if size[0] == size[1] else list(size)}
    try:
        fitted = _on_meta(name, options)
        return fitted, _map_sizes(fitted, size), options, None
    except Exception:  # it has no such option, or cannot have this size
        return backbone, [None] * len(stages(backbone)), {}, f"no feature maps at {size[0]} × {size[1]}: {reason}"


def _map_sizes(backbone: nn.Module, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of the map after each stage."""
    indices = range(len(stages(backbone)))
    with torch.no_grad():
        _, maps = tapped_forward(backbone.eval(), torch.zeros(1, 3, *size, device="meta"), indices)
    return [tuple(maps[index].shape[2:]) for index in indices]


def _on_meta(name: str, options: Mapping[str, object]) -> nn.Module:
    with torch.device("meta"):
        return create_backbone(name, CLASSES, options=options)
