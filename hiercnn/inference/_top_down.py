"""From the root down, always to the most probable child."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.inference._marginals import Marginals
from hiercnn.inference._registry import rules
from hiercnn.inference._rule import Rule, exactly
from hiercnn.settings import checked_options

SHOWN_STEPS = 3


@rules.register("top_down")
class TopDown(Rule):
    """Greedy descent: to the most probable child (the first of equal ones) as long as its q ≥ θ, down to a class with θ = 0.

    Args:
        hierarchy: Its classes are the logits.
        threshold: θ, 0 to 1: the least probability of a node that is entered.
        temperature: T; logits are divided by it.
    """

    @checked_options
    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.0,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ):
        super().__init__(hierarchy, temperature=temperature)
        self.threshold = threshold
        counts = np.bincount(hierarchy.parents[1:], minlength=hierarchy.num_nodes)
        self.widest = [int(counts[hierarchy.depths == depth].max()) for depth in range(hierarchy.height)]
        children = np.append(np.argsort(hierarchy.parents[1:], kind="stable") + 1, 0)  # of node 0, of node 1, …, and one more
        tables = {"child_nodes": children, "counts": counts, "first": counts.cumsum() - counts}
        for name, table in tables.items():
            self.register_buffer(name, torch.tensor(table), persistent=False)

    def choose(self, marginals: Marginals) -> Tensor:
        nodes = self.starts.new_zeros(len(marginals.logits))
        going = torch.ones_like(nodes, dtype=torch.bool)
        for widest in self.widest:
            place = torch.arange(widest, device=nodes.device)
            there = place < self.counts[nodes][:, None]  # [B, most children at this depth]
            children = self.child_nodes[(self.first[nodes][:, None] + place).clamp_(max=len(self.child_nodes) - 1)]
            q, best = marginals.of(children).masked_fill_(~there, -1.0).max(1)
            going &= q >= self.threshold
            nodes = torch.where(going, children.gather(1, best[:, None])[:, 0], nodes)
        return nodes

    def explain(self, marginals: Marginals, node: int) -> str:
        steps = self.hierarchy.ancestors(node)[1:].tolist()
        listed = ", ".join(f"{self.title(step)} {self.share(marginals, step, self.threshold)}" for step in steps[-SHOWN_STEPS:])
        walked = f"to the most probable child at every step: {'… ' if len(steps) > SHOWN_STEPS else ''}{listed}" if steps else ""
        if self.hierarchy.is_leaf(node):
            return walked or f"{self.title(node)} is the only class"
        child = self.best_child(marginals, node)
        stop = f"{self.share(marginals, child, self.threshold)}, below {exactly(self.threshold)}"
        if not steps:
            return f"even the most probable node below {self.title(node)}, {self.title(child)}, has {stop}"
        return f"{walked}; {self.title(child)} has {stop}"
