"""From what a network knows of its classes to a tree of them: statistics, distances, dendrograms, agreement of trees."""

from hiercnn.clustering._agglomerate import agglomerate
from hiercnn.clustering._agreement import (
    PartitionAgreement,
    TreeCorrelation,
    cophenetic_correlation,
    fowlkes_mallows_curve,
    partition_agreement,
    tree_correlation,
    tree_distances,
)
from hiercnn.clustering._dendrogram import Dendrogram, Linkage, cluster, group_titles, typical_members
from hiercnn.clustering._distances import (
    ClassDistances,
    Metric,
    confusion_similarity,
    logit_similarity,
    similarity_distances,
    vector_distances,
)
from hiercnn.clustering._draw import FORMATS, dendrogram_figure, draw_dendrogram
from hiercnn.clustering._statistics import ClassStatistics

__all__ = [
    "FORMATS",
    "ClassDistances",
    "ClassStatistics",
    "Dendrogram",
    "Linkage",
    "Metric",
    "PartitionAgreement",
    "TreeCorrelation",
    "agglomerate",
    "cluster",
    "confusion_similarity",
    "cophenetic_correlation",
    "dendrogram_figure",
    "draw_dendrogram",
    "fowlkes_mallows_curve",
    "group_titles",
    "logit_similarity",
    "partition_agreement",
    "similarity_distances",
    "tree_correlation",
    "tree_distances",
    "typical_members",
    "vector_distances",
]
