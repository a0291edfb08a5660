"""Classifiers that score every node of the tree, and how leaf scores are read from theirs."""

import numpy as np
import torch
from torch import Tensor, nn

from hiercnn.hierarchy import Hierarchy
from hiercnn.ops import Nodes, conditional_log_marginals, path_table


class Conditional(nn.Module):
    """Scores of all nodes but the root [B, N − 1] → log-probabilities of the leaves [B, C], by softmaxes over siblings.

    Source: Redmon and Farhadi, "YOLO9000" (CVPR 2017).
    """

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        nodes = Nodes.from_parents(hierarchy.parents, hierarchy.leaf_nodes)
        self.counts = nodes.counts
        for name in Nodes._fields[:-1]:
            self.register_buffer(f"tree_{name}", getattr(nodes, name), persistent=False)
        paths = path_table(hierarchy.parents, hierarchy.depths, hierarchy.leaf_nodes)[:, 1:]  # [C, height], -1 below a leaf
        self.register_buffer("paths", paths.where(paths > 0, hierarchy.num_nodes) - 1, persistent=False)
        self.register_buffer("parents", torch.tensor(np.array(hierarchy.parents[1:])), persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # programs are to run where our operators are not
            return self._by_plain_operators(scores)
        nodes = Nodes(*(self.get_buffer(f"tree_{name}") for name in Nodes._fields[:-1]), self.counts)
        return conditional_log_marginals(scores, nodes)[:, nodes.leaf_nodes]

    def _by_plain_operators(self, scores: Tensor) -> Tensor:
        scores = scores.float()
        index, inner = self.parents.expand_as(scores), scores.new_zeros(scores.shape[0], len(self.parents) + 1)
        top = inner.scatter_reduce(1, index, scores, "amax", include_self=False)
        total = inner.scatter_add(1, index, (scores - top.gather(1, index)).exp())
        log_shares = scores - (top + total.log()).gather(1, index)  # where there are no children, log 0 is not looked at
        return torch.cat([log_shares, inner[:, :1]], 1)[:, self.paths].sum(2)


class Margin(nn.Module):
    """Scores of all nodes but the root [B, N − 1] → those of the leaves [B, C].

    Source: Valmadre, "Hierarchical classification at multiple operating points" (NeurIPS 2022), soft-max-margin.
    """

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        self.register_buffer("columns", torch.tensor(hierarchy.leaf_nodes - 1), persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        return scores[:, self.columns]


NODE_SCORES = {"conditional": Conditional, "margin": Margin}
