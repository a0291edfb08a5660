"""A tree as tensors for the operators that visit all nodes, level by level; on a CPU one row a node, so that levels are whole rows."""

from collections.abc import Iterator
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
    """All inner nodes of one height, with their children."""

    parents: Tensor
    children: Tensor
    edges: np.ndarray  # first child of each parent, counted from the first of them all

    def spread(self, rows: Tensor) -> Tensor:
        """Each parent's row [parents, B] beside each of its children [children, B]."""
        lengths = np.diff(np.append(self.edges, len(self.children)))
        return rows.repeat_interleave(torch.from_numpy(lengths), 0, output_size=len(self.children))

    def sums(self, rows: Tensor) -> Tensor:
        """Sum of the children's rows [children, B] for each parent [parents, B]; in float64, whatever the number of children."""
        return torch.from_numpy(np.add.reduceat(rows.numpy(), self.edges, axis=0, dtype=np.float64)).to(rows.dtype)

    def log_sum_exp(self, top: Tensor, log_sum: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-sum-exp of the children's top + log_sum [children, B] for each parent [parents, B], in the same two parts.

        Scores far below 0 have few digits left behind the point; so the largest score travels unchanged, beside the small rest.
        """
        high = torch.from_numpy(np.maximum.reduceat(top.numpy(), self.edges, axis=0))
        rest = top - self.spread(torch.where(high == -torch.inf, 0, high))  # −inf − −inf is no number
        return high, self.sums((rest if log_sum is None else rest + log_sum).exp_()).log_()


def families(inner: Tensor, children: Tensor, offsets: Tensor, counts: list[int]) -> Iterator[Families]:
    """Height after height, from the leaves up; reversed(list(…)) goes down."""
    first = 0
    for count in counts:
        edges = offsets[first : first + count + 1]
        yield Families(inner[first : first + count], children[edges[0] : edges[-1]], (edges[:-1] - edges[0]).numpy())
        first += count
