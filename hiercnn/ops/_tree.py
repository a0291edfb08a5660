"""A tree as tensors for the operators that visit all nodes, height by height, and how a CPU does."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Nodes(NamedTuple):
    """A tree of N nodes, of which I are inner and C leaves. Node 0 is the root; scores of nodes [B, N − 1] leave it out.

    Attributes:
        leaf_nodes: Node of each class [C], int64.
        inner: Inner nodes by height, lowest first [I], int64: children stand before their parents.
        children: Children of inner[0], of inner[1], … [N − 1], int64.
        offsets: children[offsets[i] : offsets[i + 1]] are those of inner[i] [I + 1], int64.
        counts: Number of inner nodes of each height 1, 2, …
    """

    leaf_nodes: Tensor
    inner: Tensor
    children: Tensor
    offsets: Tensor
    counts: list[int]

    @classmethod
    def from_parents(cls, parents: np.ndarray, leaf_nodes: np.ndarray) -> "Nodes":
        """From the parent of each node [N] (−1 for the root, parents before children) and the node of each class [C]."""
        heights = np.zeros(len(parents), dtype=np.int64)
        for node in range(len(parents) - 1, 0, -1):
            heights[parents[node]] = max(heights[parents[node]], heights[node] + 1)
        inner = np.flatnonzero(heights)
        inner = inner[np.argsort(heights[inner], kind="stable")]
        place = np.zeros(len(parents), dtype=np.int64)
        place[inner] = np.arange(len(inner))
        children = np.argsort(place[parents[1:]], kind="stable") + 1
        offsets = np.append(0, np.bincount(place[parents[1:]], minlength=len(inner)).cumsum())
        counts = np.bincount(heights[inner], minlength=1)[1:].tolist()
        return cls(*(torch.tensor(np.asarray(x, dtype=np.int64)) for x in (leaf_nodes, inner, children, offsets[: len(inner) + 1])), counts)

    @property
    def num_nodes(self) -> int:
        """Number of nodes N, the root included."""
        return len(self.children) + 1


class Families(NamedTuple):
    """All inner nodes of one height, with their children, in tables [N, B] of a row a node in the order of `Nodes.children`, the root last.

    So the children of a node are neighbours, those of all nodes of one height a slice, and work on a node is work on whole rows.

    Attributes:
        parents: Rows of the inner nodes [P].
        children: Rows of all their children.
        owner: Parent of each child: its place in `parents`.
    """

    parents: Tensor
    children: slice
    owner: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """Each parent's row [P, B] at each of its children."""
        return values.index_select(0, self.owner)

    def spread_from(self, table: Tensor) -> Tensor:
        """Each parent's row of a table [N, B] at each of its children."""
        return table.index_select(0, self.parents[self.owner])

    def sums(self, values: Tensor) -> Tensor:
        """Sum over the children of each parent [P, B], in float64 on the way, whatever the number of children."""
        return self._reduced("sum", values.double(), 0.0).to(values.dtype)

    def log_sum_exp(self, top: Tensor, log_sum: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-sum-exp over the children of top + log_sum, each [children, B], for each parent [P, B], in the same two parts.

        Scores far below 0 have few digits left behind the point; so the largest score travels unchanged, beside the small rest.
        """
        high = self._reduced("amax", top, -torch.inf)
        rest = top - self.spread(high.masked_fill(high == -torch.inf, 0))  # −inf − −inf is no number
        return high, self.sums((rest if log_sum is None else rest.add_(log_sum)).exp_()).log_()

    def _reduced(self, reduce: str, values: Tensor, start: float) -> Tensor:
        found = values.new_full((len(self.parents), values.shape[1]), start)
        return found.scatter_reduce_(0, self.owner[:, None].expand_as(values), values, reduce)


def rows(children: Tensor) -> Tensor:
    """The row of each node [N] in tables of `Families`."""
    order = torch.empty(len(children) + 1, dtype=torch.int64)
    order[children] = torch.arange(len(children))
    order[0] = len(children)
    return order


def from_leaves(values: Tensor, leaf_nodes: Tensor, children: Tensor) -> Tensor:
    """Values of the leaves [B, C] as a table of `Families` [N, B]; rows of inner nodes are to be filled."""
    source = torch.zeros(len(children) + 1, dtype=torch.int64)
    source[rows(children)[leaf_nodes]] = torch.arange(len(leaf_nodes))
    return values.t().contiguous().index_select(0, source)


def to_columns(table: Tensor, nodes: Tensor, children: Tensor) -> Tensor:
    """Some nodes' rows of a table of `Families` [N, B] as columns [B, nodes]."""
    return table.index_select(0, rows(children)[nodes]).t().contiguous()


def families(inner: Tensor, children: Tensor, offsets: Tensor, counts: list[int]) -> list[Families]:
    """Height after height, from the leaves up."""
    row, found, first = rows(children)[inner], [], 0
    for count in counts:
        edges = offsets[first : first + count + 1]
        owner = torch.arange(count).repeat_interleave(edges.diff())
        found.append(Families(row[first : first + count], slice(int(edges[0]), int(edges[-1])), owner))
        first += count
    return found
