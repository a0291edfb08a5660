"""The nodes on the path to each label, as a tensor, for the operators that visit these and their siblings alone."""

import numpy as np
import torch


def path_table(parents: np.ndarray, depths: np.ndarray, label_nodes: np.ndarray) -> torch.Tensor:
    """Nodes from the root down to each label's node [T, L], int64, −1 behind the end.

    Args:
        parents, depths: Of each node [N]; the root has parent −1 and depth 0.
        label_nodes: Node of each label [T].
    """
    table = np.full((len(label_nodes), int(depths[label_nodes].max(initial=0)) + 1), -1, dtype=np.int64)
    nodes, rows = label_nodes.astype(np.int64), np.arange(len(label_nodes))
    while len(rows):
        table[rows, depths[nodes]] = nodes
        nodes, rows = parents[nodes], rows[parents[nodes] >= 0]
        nodes = nodes[nodes >= 0]
    return torch.from_numpy(table)
