"""Classifiers that score every node of the tree, and how leaf scores are read from theirs."""

import torch
from torch import Tensor, nn

from hiercnn.hierarchy import Hierarchy
from hiercnn.ops import Nodes, conditional_log_marginals


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

    def forward(self, scores: Tensor) -> Tensor:
        nodes = Nodes(*(self.get_buffer(f"tree_{name}") for name in Nodes._fields[:-1]), self.counts)
        return conditional_log_marginals(scores, nodes)[:, nodes.leaf_nodes]


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
