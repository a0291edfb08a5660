"""timm backbones: creation with clear errors, their stages, and the features after a stage."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.models._weights import pretrained_backbone

PLACES = ("early", "middle", "late")


def create_backbone(
    name: str,
    num_classes: int,
    *,
    in_chans: int | None = 3,
    stem: str = "default",
    options: Mapping[str, object] | None = None,
    weights: str | None = None,
) -> nn.Module:
    """Create a timm classifier.

    Args:
        name: Any model of timm's registry, ours included (`resnet_small`, `vgg_small_bn`, `alexnet_bn`).
        num_classes: Leaf classes C.
        in_chans: Channels of the images; None takes those of the weights.
        stem: `default`, or `small`: for timm's ResNets a 3×3 stride-1 first convolution and no max pooling, which keeps 4× the
            resolution on images of 32–64 px.
        options: Further arguments of `timm.create_model`, such as `drop_path_rate` or `img_size`.
        weights: What all but the classifier begins with: `timm`, a file, a run folder, `package:NAME`, `local-dir:DIR` or
            `hf-hub:USER/NAME`; None begins from scratch.

    Raises:
        RecipeError: Unknown model (with a suggestion), options it does not take, a stem it does not have, or weights that do not fit.
    """
    import timm

    from hiercnn.models import _plain  # noqa: F401  registers our plain nets with timm

    if not timm.is_model(name):
        raise RecipeError(f"unknown backbone '{name}'{did_you_mean(name, timm.list_models())} (any name of timm.list_models())")
    ours = sorted({"num_classes", "in_chans", "pretrained"}.intersection(options or {}))
    if ours:
        raise RecipeError(
            f"options: {', '.join(ours)} cannot be set; classes and channels come from the data, pretrained weights from model.weights"
        )
    if weights is not None and stem != "default":
        raise RecipeError("a small stem has no pretrained weights; leave out model.stem or model.weights")
    try:
        if weights is None:
            backbone = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_chans or 3, **(options or {}))
        else:
            backbone = pretrained_backbone(name, weights, in_chans=in_chans, options=options or {})
    except (TypeError, ValueError, AssertionError) as error:
        raise RecipeError(f"timm cannot build '{name}' with {dict(options or {})}: {error}") from error
    if getattr(backbone, "num_classes", None) == 0 and not hasattr(backbone, "reset_classifier"):
        raise RecipeError(f"'{name}' is an encoder without a classifier; choose another backbone (hiercnn models)")
    if weights is not None:
        backbone.reset_classifier(num_classes)
    if stem == "small":
        _use_small_stem(backbone, name, in_chans)
    return backbone


def stages(backbone: nn.Module, name: str = "this backbone") -> list[dict]:
    """timm's `feature_info` of every stage: dicts with `num_chs`, `reduction` (stride) and `module`.

    Raises:
        RecipeError: The backbone does not say what its stages are.
    """
    info = getattr(backbone, "feature_info", None)
    info = getattr(info, "info", info)
    if not info:
        raise RecipeError(f"{name} has no feature_info, which would say where its stages are")
    return list(info)


def stage_index(stage: int | str, count: int, name: str = "this backbone") -> int:
    """Index of a stage given as a number or a place: early, middle, late = one third, two thirds, all of the way."""
    if isinstance(stage, str) and stage in PLACES:
        return math.ceil((count - 1) * (PLACES.index(stage) + 1) / len(PLACES))
    if isinstance(stage, str):
        raise RecipeError(f"unknown stage '{stage}'{did_you_mean(stage, PLACES)}; use 0..{count - 1}, early, middle or late")
    if not 0 <= stage < count:
        raise RecipeError(f"stage {stage} does not exist; {name} has stages 0..{count - 1}")
    return stage


def tapped_forward(backbone: nn.Module, images: Tensor, indices: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
    """Run a timm classifier and also return the feature maps after some of its stages.

    Uses `forward_intermediates` where the backbone has it, and hooks on the modules of `feature_info` elsewhere; either way the leaf
    logits are those of the backbone alone, bit for bit.

    Returns:
        Leaf logits [B, C] and {stage: features [B, F, H, W]}.
    """
    wanted = sorted(indices)
    if not wanted:
        return backbone(images), {}
    if hasattr(backbone, "forward_intermediates") and hasattr(backbone, "forward_head"):
        final, features = backbone.forward_intermediates(images, indices=wanted)
        return backbone.forward_head(final), dict(zip(wanted, features, strict=True))
    infos, caught = stages(backbone), {}

    def keep(index: int, output: Tensor | Sequence[Tensor]) -> None:
        caught[index] = feature_map(output, infos[index]["num_chs"])

    modules = [backbone.get_submodule(infos[index]["module"]) for index in wanted]
    hooks = [m.register_forward_hook(lambda _, __, output, i=i: keep(i, output)) for i, m in zip(wanted, modules, strict=True)]
    try:
        return backbone(images), caught
    finally:
        for hook in hooks:
            hook.remove()


def features_up_to(backbone: nn.Module, images: Tensor, index: int) -> Tensor:
    """The feature map [B, F, H, W] after one stage, without computing what comes after it."""
    if hasattr(backbone, "forward_intermediates") and hasattr(backbone, "forward_head"):
        (features,) = backbone.forward_intermediates(images, indices=[index], intermediates_only=True, stop_early=True)
        return features
    info = stages(backbone)[index]

    def stop(module: nn.Module, inputs: object, output: Tensor | Sequence[Tensor]) -> None:
        raise _Reached(feature_map(output, info["num_chs"]))

    hook = backbone.get_submodule(info["module"]).register_forward_hook(stop)
    try:
        backbone(images)
    except _Reached as reached:
        return reached.features
    finally:
        hook.remove()
    raise RecipeError(f"this backbone does not pass through its module '{info['module']}'")


class _Reached(Exception):
    def __init__(self, features: Tensor):
        super().__init__()
        self.features = features


def feature_map(output: Tensor | Sequence[Tensor], channels: int) -> Tensor:
    """A stage's output as [B, F, H, W]: some give several tensors, the first or all of which are the F channels, some [B, H, W, F]."""
    if not isinstance(output, Tensor):
        output = output[0] if output[0].shape[1] == channels else torch.cat(list(output), 1)
    return output if output.shape[1] == channels else output.permute(0, 3, 1, 2)


def _use_small_stem(backbone: nn.Module, name: str, in_chans: int) -> None:
    from timm.models.resnet import ResNet

    if not (isinstance(backbone, ResNet) and isinstance(backbone.conv1, nn.Conv2d) and isinstance(backbone.maxpool, nn.MaxPool2d)):
        raise RecipeError(f"stem 'small' is for timm's plain-stem ResNets (resnet18, resnet50, …); {name} keeps its own stem")
    width = backbone.conv1.out_channels
    backbone.conv1 = nn.Conv2d(in_chans, width, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()
    for position, info in enumerate(backbone.feature_info):
        info["reduction"] //= 2 if position == 0 else 4


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this context torch's CPU generator starts from `seed`; outside it nothing has changed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA as well
        yield
