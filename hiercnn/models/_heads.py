"""Hypernym heads: from a stage's feature map to scores of one cut's groups."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from hiercnn.errors import ShapeError
from hiercnn.registry import Registry

heads = Registry("head")


@heads.register("pool")
class PoolHead(nn.Module):
    """Optional conv blocks, then global average pooling → layer norm → linear.

    Args:
        channels: Channels F of the feature map.
        groups: Number of groups K to score.
        conv_blocks: 3×3 convolution + batch norm + ReLU blocks before pooling, which keep F channels.

    Shapes:
        [B, F, H, W] → [B, K].

    Raises:
        ShapeError: The feature map has another rank or number of channels.
    """

    def __init__(self, channels: int, groups: int, *, conv_blocks: Annotated[int, Field(ge=0)] = 0):
        super().__init__()
        self.channels = channels
        self.blocks = nn.Sequential(*(_conv_block(channels) for _ in range(conv_blocks)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels, groups)

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise ShapeError(f"features: wanted [B, {self.channels}, H, W], got {list(features.shape)}")
        return self.fc(self.norm(self.pool(self.blocks(features)).flatten(1)))


def _conv_block(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
