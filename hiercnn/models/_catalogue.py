"""What timm offers: backbones by name, and what their stages are, without weights or memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        size: Height and width of the images that the sizes of the stages are for.
        stages: Its stages; none where heads cannot be placed.
        options: What `model.options` must say for images of this size.
        problem: Why there are no stages, or no sizes of them.
    """

    name: str
    parameters: int | None = None
    size: tuple[int, int] | None = None
    stages: tuple[Stage, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    problem: str | None = None


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
        RecipeError: Unknown model.
    """
    backbone_names(name)
    try:
        backbone = _on_meta(name, {})
        count = len(stages(backbone, name))
    except RecipeError as error:
        return BackboneInfo(name, problem=str(error))
    size = (side, side) if side else tuple(backbone.pretrained_cfg["input_size"][1:])
    sizes, options, problem = _map_sizes(name, backbone, size)
    places = {place: stage_index(place, count) for place in PLACES}
    listed = tuple(
        Stage(i, info["num_chs"], info["reduction"], sizes.get(i), tuple(place for place in PLACES if places[place] == i))
        for i, info in enumerate(stages(backbone, name))
    )
    return BackboneInfo(name, sum(p.numel() for p in backbone.parameters()), size, listed, options, problem)


def _map_sizes(name: str, backbone: nn.Module, size: tuple[int, int]) -> tuple[dict[int, tuple[int, int]], dict[str, object], str | None]:
    """Sizes of the maps by stage, the options that images of this size need, and why there are none."""
    try:
        return _run(backbone, size), {}, None
    except Exception as error:  # whatever the model raises on images that it does not take
        problem = f"{type(error).__name__} {error}".splitlines()[0].strip()[:200]
    options = {"img_size": size[0] if size[0] == size[1] else list(size)}
    try:
        return _run(_on_meta(name, options), size), options, None
    except Exception:  # it has no such option, or cannot have this size
        return {}, {}, f"no feature maps at {size[0]} × {size[1]}: {problem}"


def _run(backbone: nn.Module, size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    with torch.no_grad():
        _, maps = tapped_forward(backbone.eval(), torch.zeros(1, 3, *size, device="meta"), range(len(stages(backbone))))
    return {index: tuple(features.shape[2:]) for index, features in maps.items()}


def _on_meta(name: str, options: Mapping[str, object]) -> nn.Module:
    with torch.device("meta"):
        return create_backbone(name, CLASSES, options=options)
