"""Small nets for 32-96 pixel images, in timm's own registry: `alexnet_bn`, `alexnet`, `vgg_small_bn`, `vgg_small`, `resnet_small`.

Most of timm's nets shrink a 32 px image to one pixel; these keep 4 x 4. Importing this file registers them, after which
`timm.create_model("resnet_small", num_classes=100)` works like for any timm net. There are no pretrained weights.

A net is a list of stages and a head. Every stage after the first begins by halving the image, so a stage's output is the last map
of its resolution: that is what `feature_info` lists and what a head on an early, middle or late stage taps. To add a net, write a
function that lists its stages, a default configuration and a registered function of its name.

Parameters are counted with 100 classes. Letters in shapes: B batch, I input channels, H x W image, F features of a stage,
r its reduction, C classes.
"""

from collections.abc import Callable, Sequence
from functools import partial

from timm.layers import ConvNormAct, create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from hiercnn.errors import ShapeError

__all__ = ["ResidualBlock", "SmallNet"]  # register_model adds the nets

Stages = list[list[nn.Module]]


def _conv(in_chs: int, out_chs: int, kernel: int = 3, stride: int = 1) -> ConvNormAct:
    """Convolution without bias, batch norm, ReLU; stride 1 keeps the size."""
    return ConvNormAct(in_chs, out_chs, kernel, stride=stride)


def _alexnet_stages(in_chans: int, conv: Callable[..., nn.Module] = _conv) -> Stages:
    """The five convolutions and overlapping pools of AlexNet; kernels 11, 5 and stride 4 become 5, 5 and 2."""
    return [
        [conv(in_chans, 64, kernel=5, stride=2)],
        [nn.MaxPool2d(3, stride=2, padding=1), conv(64, 192, kernel=5)],
        [nn.MaxPool2d(3, stride=2, padding=1), conv(192, 384), conv(384, 256), conv(256, 256)],
    ]


def _vgg_stages(in_chans: int, conv: Callable[..., nn.Module] = _conv) -> Stages:
    """Pairs of 3 x 3 convolutions, as wide as `_resnet_stages`, which has skips, one convolution more, and strides for pools."""
    return [
        [conv(in_chans, 32), conv(32, 32)],
        [nn.MaxPool2d(2), conv(32, 64), conv(64, 64)],
        [nn.MaxPool2d(2), conv(64, 128), conv(128, 128)],
        [nn.MaxPool2d(2), conv(128, 256), conv(256, 256)],
    ]


def _resnet_stages(in_chans: int) -> Stages:
    """A 3 x 3 stem and one residual block a stage."""
    return [
        [_conv(in_chans, 32), ResidualBlock(32, 32)],
        [ResidualBlock(32, 64, stride=2)],
        [ResidualBlock(64, 128, stride=2)],
        [ResidualBlock(128, 256, stride=2)],
    ]


class ConvAct(nn.Sequential):
    """Convolution with bias and ReLU, without a norm; stride 1 keeps the size: [B, F_in, H, W] to [B, F_out, H, W]."""

    def __init__(self, in_chs: int, out_chs: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel, stride=stride, padding=kernel // 2)
        self.act = nn.ReLU(inplace=True)

    @property
    def out_channels(self) -> int:
        return self.conv.out_channels


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes.

    Source: basic block of He et al., "Deep residual learning for image recognition" (CVPR 2016), projection shortcuts (option B).
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int = 1):
        super().__init__()
        same_shape = stride == 1 and in_chs == out_chs
        self.shortcut = nn.Identity() if same_shape else ConvNormAct(in_chs, out_chs, 1, stride=stride, apply_act=False)
        self.conv1 = _conv(in_chs, out_chs, stride=stride)
        self.conv2 = ConvNormAct(out_chs, out_chs, 3, apply_act=False)
        self.act = nn.ReLU(inplace=True)

    @property
    def out_channels(self) -> int:
        return self.conv2.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, F_in, H, W] to [B, F_out, H / stride, W / stride], rounded up."""
        return self.act(self.conv2(self.conv1(x)) + self.shortcut(x))


class SmallNet(nn.Module):
    """Stages, global pool, dropout and a linear classifier, with the interface of a timm net.

    Args:
        build_stages: From the number of input channels to the layers of each stage; a stage's last layer has `out_channels`.
        reductions: Image side over feature side after each stage.
        num_classes: C; 0 leaves out the classifier.
        in_chans: I.
        global_pool: timm's name of the pooling; "" keeps the map and needs num_classes = 0.
        drop_rate: Dropout before the classifier.

    The methods below keep timm's names, arguments and meaning. There is no norm after the last stage, so `norm` and `prune_norm`
    change nothing.
    """

    def __init__(
        self,
        build_stages: Callable[[int], Stages],
        reductions: Sequence[int],
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        stages = build_stages(in_chans)
        self.feature_info = [
            {"num_chs": stage[-1].out_channels, "reduction": reduction, "module": f"stages.{i}"}
            for i, (stage, reduction) in enumerate(zip(stages, reductions, strict=True))
        ]
        self.stages = nn.Sequential(*(nn.Sequential(*stage) for stage in stages))
        self._set_head(num_classes, global_pool)
        self.init_weights()

    def init_weights(self) -> None:
        """He normal (fan out) for convolutions. Residual branches start on: with one block a stage they fit the training images sooner."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images [B, I, H, W]: logits [B, C]."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [B, I, H, W] to the last stage's output [B, F, H/r, W/r]."""
        for stage in self.stages:
            x = self._run(stage, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features [B, F, H/r, W/r] to logits [B, C], or to pooled features [B, F] with `pre_logits`."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.fc(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Also return the outputs [B, F, H/r, W/r] of the stages in `indices` (the last n, or a list; None takes all).

        Args:
            x: Images [B, I, H, W].
            indices: Stages to take; the outputs come in stage order.
            norm: No effect, see above.
            stop_early: Skip the stages after the last one taken.
            output_fmt: Only "NCHW".
            intermediates_only: Return the list alone.

        Returns:
            The last output computed and the list of those taken.

        Raises:
            ShapeError: If `output_fmt` is not "NCHW".
        """
        if output_fmt != "NCHW":
            raise ShapeError(f"output_fmt is {output_fmt!r}, but these nets give 'NCHW' only; permute the result instead")
        taken, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        for i, stage in enumerate(self.stages):
            if stop_early and i > last:
                break
            x = self._run(stage, x)
            if i in taken:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        """Drop the stages after the last one in `indices`, and then, or with `prune_head`, the head; return `indices` from 0 up."""
        taken, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.feature_info = self.feature_info[: last + 1]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """Return the last layer: linear, or identity where num_classes is 0."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one on the net's device; `global_pool` None keeps the pooling."""
        self._set_head(num_classes, self.global_pool.pool_type if global_pool is None else global_pool)
        self.fc.to(next(self.parameters()))
        self.train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return the patterns that order parameters from input to output, by layer or by stage if coarse; the head follows last."""
        return {"stem": r"^stages\.0\.0\.", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the layers' inputs for the backward pass and compute the rest again."""
        self.grad_checkpointing = enable

    def _run(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        return checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)

    def _set_head(self, num_classes: int, global_pool: str) -> None:
        self.num_classes = num_classes
        self.num_features = self.feature_info[-1]["num_chs"]
        self.head_hidden_size = self.num_features * (2 if global_pool.endswith("catavgmax") else 1)
        self.global_pool, self.head_drop, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=self.drop_rate
        )


def _cfg() -> dict:
    return {
        "input_size": (3, 32, 32),
        "pool_size": (4, 4),
        "crop_pct": 1.0,
        "first_conv": "stages.0.0.conv",
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs(  # register_model looks for this name
    {f"{name}.untrained": _cfg() for name in ("alexnet_bn", "alexnet", "vgg_small_bn", "vgg_small", "resnet_small")}
)


def _create(variant: str, pretrained: bool, build_stages: Callable[[int], Stages], reductions: Sequence[int], **kwargs) -> nn.Module:
    feature_cfg = {"flatten_sequential": True, "out_indices": tuple(range(len(reductions)))}
    return build_model_with_cfg(
        SmallNet, variant, pretrained, feature_cfg=feature_cfg, build_stages=build_stages, reductions=reductions, **kwargs
    )


@register_model
def alexnet_bn(pretrained: bool = False, **kwargs) -> nn.Module:
    """AlexNet with batch norm, no skips, three stages; global pooling in place of its two hidden linear layers. 2.48 M parameters.

    Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014), for the widths.
    """
    return _create("alexnet_bn", pretrained, _alexnet_stages, (2, 4, 8), **kwargs)


@register_model
def alexnet(pretrained: bool = False, **kwargs) -> nn.Module:
    """`alexnet_bn` without batch norm, convolutions with biases. 2.48 M parameters.

    Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014), for the widths.
    """
    return _create("alexnet", pretrained, partial(_alexnet_stages, conv=ConvAct), (2, 4, 8), **kwargs)


@register_model
def vgg_small_bn(pretrained: bool = False, **kwargs) -> nn.Module:
    """VGG-style net with batch norm, no skips, four stages of 32, 64, 128, 256 channels like `resnet_small`. 1.20 M parameters.

    Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (ICLR 2015).
    """
    return _create("vgg_small_bn", pretrained, _vgg_stages, (1, 2, 4, 8), **kwargs)


@register_model
def vgg_small(pretrained: bool = False, **kwargs) -> nn.Module:
    """`vgg_small_bn` without batch norm, convolutions with biases; needs a lower rate and clipped gradients. 1.20 M parameters.

    Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (ICLR 2015).
    """
    return _create("vgg_small", pretrained, partial(_vgg_stages, conv=ConvAct), (1, 2, 4, 8), **kwargs)


@register_model
def resnet_small(pretrained: bool = False, **kwargs) -> nn.Module:
    """ResNet with a 3 x 3 stem and one basic block in each of four stages of 32, 64, 128, 256 channels. 1.25 M parameters.

    Source: He et al., "Deep residual learning for image recognition" (CVPR 2016).
    """
    return _create("resnet_small", pretrained, _resnet_stages, (1, 2, 4, 8), **kwargs)
