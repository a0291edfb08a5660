"""Metrics: streaming, vectorised, mergeable."""

from hiercnn.metrics._levels import LevelAccuracy
from hiercnn.metrics._mistakes import Mistakes

__all__ = ["LevelAccuracy", "Mistakes"]
