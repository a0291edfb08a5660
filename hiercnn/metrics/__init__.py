"""Metrics: streaming, vectorised, mergeable. A class to feed batches to, and a function of its name for all samples at once."""

from hiercnn.metrics._calibration import Calibration, calibration
from hiercnn.metrics._confusion import NodeCounts, between_groups, lca_profile, node_counts
from hiercnn.metrics._full_path import FullPath, full_path
from hiercnn.metrics._hierarchical_f import HierarchicalF, hierarchical_f
from hiercnn.metrics._levels import LevelAccuracy, level_accuracy
from hiercnn.metrics._mistakes import Mistakes, mistakes
from hiercnn.metrics._operating_curve import OperatingCurve, operating_curve
from hiercnn.metrics._risk_coverage import RiskCoverage, risk_coverage

__all__ = [
    "Calibration",
    "FullPath",
    "HierarchicalF",
    "LevelAccuracy",
    "Mistakes",
    "NodeCounts",
    "OperatingCurve",
    "RiskCoverage",
    "between_groups",
    "calibration",
    "full_path",
    "hierarchical_f",
    "lca_profile",
    "level_accuracy",
    "mistakes",
    "node_counts",
    "operating_curve",
    "risk_coverage",
]
