"""Losses as modules: a hierarchy becomes buffers once, then tensors only."""

from hiercnn.losses._cross_entropy import CrossEntropy
from hiercnn.losses._forward_correction import ForwardCorrection
from hiercnn.losses._hxe import HXE
from hiercnn.losses._leaf_loss import LeafLoss, TreeLoss
from hiercnn.losses._level_nll import Level, LevelNLL
from hiercnn.losses._node_losses import ConditionalNLL, MarginNLL, NodeLoss
from hiercnn.losses._registry import losses
from hiercnn.losses._soft_labels import SoftLabels

__all__ = [
    "ConditionalNLL",
    "CrossEntropy",
    "ForwardCorrection",
    "HXE",
    "LeafLoss",
    "Level",
    "LevelNLL",
    "MarginNLL",
    "NodeLoss",
    "SoftLabels",
    "TreeLoss",
    "losses",
]
