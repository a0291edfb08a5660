"""The answer that is least far off on average."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hiercnn.errors import RecipeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.inference._marginals import Marginals
from hiercnn.inference._paths import PathRule
from hiercnn.inference._registry import rules
from hiercnn.inference._rule import deepest
from hiercnn.ops import Nodes, path_sum
from hiercnn.settings import checked_options


@rules.register("crm")
class CRM(PathRule):
    """The node of least expected distance from the truth: conditional risk minimisation. The first class of equal ones.

    A distance that depends on the lowest common ancestor is a sum along the path to the answer v, and no table of distances is needed:

        lca    E = h(root) − Σ_{u on path(v), u ≠ root} (h(parent u) − h(u)) q_u     height of the common ancestor
        path   E = d(v) + E[d(truth)] − 2 Σ_{u on path(v), u ≠ root} q_u              edges between, E[d(truth)] = Σ_{u ≠ root} q_u

    Both hold for inner nodes v too: the common ancestor of v and a class below v is v. With `lca` a step down to a child c changes E by
    −(h(v) − h(c)) q_c ≤ 0, so that some class is always as good as any inner node. With `path` it changes E by 1 − 2 q_c: the best node is
    reached by stepping down as long as q_c > ½, and CRM over all nodes is the rule `threshold` with t = ½.

    Args:
        hierarchy: Its classes are the logits.
        distance: `lca`, edges from the common ancestor down to the deepest class below it, or `path`, edges between.
        nodes: Answers to choose from: `leaves` or `all`, with `path`.
        temperature: T; logits are divided by it.

    Raises:
        RecipeError: All nodes with `lca`.

    Source: Karthik et al., "No cost likelihood manipulation at test time for making better mistakes in deep networks" (ICLR 2021).
    """

    @checked_options
    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        distance: Literal["lca", "path"] = "lca",
        nodes: Literal["leaves", "all"] = "leaves",
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ):
        super().__init__(hierarchy, temperature=temperature)
        if (distance, nodes) == ("lca", "all"):
            raise RecipeError("CRM: with distance: lca a class is never worse than a node above it; use nodes: leaves or distance: path")
        self.distance, self.nodes = distance, nodes
        drops = hierarchy.heights[hierarchy.parents[1:]] - hierarchy.heights[1:]
        tree = Nodes.from_parents(hierarchy.parents, hierarchy.leaf_nodes)
        tables = {f"tree_{name}": getattr(tree, name) for name in Nodes._fields[:-1]}
        tables["weights"] = torch.tensor(drops if distance == "lca" else np.full_like(drops, 2))  # of q_u in the sums
        tables["own"] = torch.tensor(np.zeros_like(hierarchy.depths) if distance == "lca" else hierarchy.depths)  # d(v) [N]
        self.counts = tree.counts
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def choose(self, marginals: Marginals) -> Tensor:
        if self.nodes == "all":
            paths, q = self.along(marginals, self.middle(marginals))
            return deepest(paths, q > 0.5)
        return self.leaf_nodes[self.rank(marginals).argmax(1)]

    def rank(self, marginals: Marginals) -> Tensor:
        """Minus the expected distance of each class, but for a constant of the sample."""
        tree = Nodes(*(self.get_buffer(f"tree_{name}") for name in Nodes._fields[:-1]), self.counts)
        terms = marginals.everywhere()[:, 1:].mul_(self.weights).to(marginals.logits.dtype)
        return path_sum(terms, tree) - self.own[self.leaf_nodes]

    def explain(self, marginals: Marginals, node: int) -> str:
        unit, among = {"lca": "levels", "path": "edges"}[self.distance], {"leaves": "classes", "all": "nodes"}[self.nodes]
        best = self.best_node(marginals)
        answer = f"{self.title(node)} is off by {self.expected(marginals, node):.2f} {unit} on average, the least of all {among}"
        if best == node:
            return f"{answer}, and the most probable class with {self.share(marginals, node)}"
        rival = f"the most probable class, {self.title(best)} with {self.share(marginals, best)}"
        return f"{answer}; {rival}, is off by {self.expected(marginals, best):.2f}"

    def expected(self, marginals: Marginals, node: int) -> float:
        """Expected distance of the truth from a node, in edges, for the one sample of `marginals`."""
        q = marginals.everywhere()[0]
        path = torch.tensor(self.hierarchy.ancestors(node)[1:], device=q.device)
        start = self.hierarchy.height if self.distance == "lca" else q[1:].sum() + self.own[node]
        return float(start - (self.weights[path - 1] * q[path]).sum())
