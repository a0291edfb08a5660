"""Streaming metrics: add batches, merge, compute."""

from hiercnn.metrics._levels import LevelAccuracy

__all__ = ["LevelAccuracy"]
