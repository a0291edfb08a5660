"""Losses as modules: a hierarchy becomes buffers once, then tensors only."""

from hiercnn.losses._cross_entropy import CrossEntropy
from hiercnn.losses._registry import losses

__all__ = ["CrossEntropy", "losses"]
