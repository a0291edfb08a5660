"""Operators of hierarchical losses and of clustering: tensors in, tensors out. They know no Hierarchy and no module."""

from hiercnn.ops._check import check_device, check_floats, check_target, known_rows
from hiercnn.ops._mixed import Mixed
from hiercnn.ops._paths import path_table
from hiercnn.ops._tree import Nodes
from hiercnn.ops.class_sums import class_sums
from hiercnn.ops.conditional_log_marginals import conditional_log_marginals
from hiercnn.ops.conditional_nll import conditional_nll
from hiercnn.ops.margin_nll import margin_nll
from hiercnn.ops.merge_clusters import merge_clusters
from hiercnn.ops.node_log_marginals import node_log_marginals
from hiercnn.ops.path_sum import path_sum
from hiercnn.ops.ring_nll import Rings, ring_nll

__all__ = [
    "Mixed",
    "Nodes",
    "Rings",
    "check_device",
    "check_floats",
    "check_target",
    "class_sums",
    "conditional_log_marginals",
    "conditional_nll",
    "known_rows",
    "margin_nll",
    "merge_clusters",
    "node_log_marginals",
    "path_sum",
    "path_table",
    "ring_nll",
]
