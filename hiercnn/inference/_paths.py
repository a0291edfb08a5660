"""Rules that answer with a node on the path to some class."""

import torch
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.inference._marginals import Marginals
from hiercnn.inference._rule import Rule
from hiercnn.ops import path_table


class PathRule(Rule):
    """Base of rules that go up from a class: `paths` [C, L] are the nodes from the root down to each class, −1 behind the end."""

    def __init__(self, hierarchy: Hierarchy, *, temperature: float):
        super().__init__(hierarchy, temperature=temperature)
        paths = path_table(hierarchy.parents, hierarchy.depths, hierarchy.leaf_nodes)
        self.register_buffer("paths", paths, persistent=False)

    def along(self, marginals: Marginals, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The path to a class of each sample [B, L] and q of its nodes [B, L], −1 behind the end."""
        paths = self.paths[classes]
        return paths, marginals.of(paths.clamp(min=0)).masked_fill_(paths < 0, -1.0)

    def middle(self, marginals: Marginals) -> Tensor:
        """The class at which the sums over leaf ranks cross one half [B]: it lies below every node with q > ½."""
        sums = marginals.below[:, 1:].contiguous()
        rank = torch.searchsorted(sums, sums.new_full((len(sums), 1), 0.5)).clamp_(max=sums.shape[1] - 1)
        return self.leaf_order[rank[:, 0]]
