"""Faults in data and labels: ranked suspicions from predictions for images that the network was not trained on; faults on purpose."""

from hiercnn.diagnose import inject
from hiercnn.diagnose._duplicate_classes import duplicate_classes
from hiercnn.diagnose._evidence import Evidence, Finding, OtherSplit
from hiercnn.diagnose._homonym_class import homonym_class
from hiercnn.diagnose._mislabel import mislabel, slip_odds
from hiercnn.diagnose._misplaced_class import misplaced_class
from hiercnn.diagnose._multi_object import multi_object
from hiercnn.diagnose._near_duplicates import near_duplicates
from hiercnn.diagnose._registry import detectors
from hiercnn.diagnose._subset_class import subset_class

__all__ = [
    "Evidence",
    "Finding",
    "OtherSplit",
    "detectors",
    "duplicate_classes",
    "homonym_class",
    "inject",
    "mislabel",
    "misplaced_class",
    "multi_object",
    "near_duplicates",
    "slip_odds",
    "subset_class",
]
