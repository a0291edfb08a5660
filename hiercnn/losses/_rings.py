"""From a hierarchy, or a partition of its classes, to the tables of `ring_nll`."""

import numpy as np
import torch

from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.ops import Rings, path_table


def paths(hierarchy: Hierarchy, labels: int) -> np.ndarray:
    """Nodes from the root down to each of the first `labels` labels [labels, L], −1 behind the end."""
    return path_table(hierarchy.parents, hierarchy.depths, hierarchy.label_nodes[:labels]).numpy()


def node_rings(hierarchy: Hierarchy, nodes: np.ndarray, weight: np.ndarray, soft: np.ndarray | None = None) -> Rings:
    """Some nodes on the path to each label [T, K], the root first, −1 where there is none; what repeats a node has weight 0."""
    nodes = np.maximum.accumulate(nodes, axis=1)  # a node comes before those below it
    tables = (torch.tensor(table[nodes]) for table in (hierarchy.starts, hierarchy.stops))
    soft = None if soft is None else torch.tensor(soft, dtype=torch.float64)
    return Rings(torch.tensor(hierarchy.leaf_order), *tables, torch.tensor(weight, dtype=torch.float64), soft)


def partition_rings(cut: Cut, labels: int, weight: float) -> Rings:
    """The groups of a partition that need be no nodes of a tree; labels that lie in none of them count nothing."""
    order = np.argsort(cut.groups, kind="stable")
    edges = np.append(0, np.bincount(cut.groups, minlength=len(cut)).cumsum())
    group = cut.label_groups[:labels]
    known = group >= 0
    starts = np.stack([np.zeros_like(group), np.where(known, edges[group], 0)], 1)
    stops = np.stack([np.full_like(group, len(order)), np.where(known, edges[group + 1], len(order))], 1)
    weights = np.stack([np.zeros(len(group)), np.where(known, weight, 0.0)], 1)
    return Rings(torch.tensor(order), torch.tensor(starts), torch.tensor(stops), torch.tensor(weights, dtype=torch.float64))
