"""Probabilities of the nodes of a tree, for decisions."""

from functools import cached_property

import torch
from torch import Tensor


class Marginals:
    """Probabilities q of the nodes for a block of samples: q_v is the sum over the classes below v.

    Differences of prefix sums over leaf ranks, in float64: nodes of the same classes have the same q, none has more than its parent, and
    that of the root is exactly 1. A CPU needs a fifth of the time of `node_log_marginals`, whose digits near 0 no decision needs.

    Args:
        logits: Leaf scores [B, C], float32 or float64.
        order: Class at each leaf rank [C].
        starts, stops: Leaf ranks below each node [N].
    """

    def __init__(self, logits: Tensor, order: Tensor, starts: Tensor, stops: Tensor):
        self.logits = logits
        self._order, self._starts, self._stops = order, starts, stops

    @cached_property
    def best(self) -> Tensor:
        """The most probable class of each sample [B], the first of equal ones."""
        return self.logits.argmax(1)

    @cached_property
    def below(self) -> Tensor:
        """Probability of all classes of smaller leaf rank, for every rank and the end: [B, C + 1], float64, rising from 0 to 1."""
        ranked = self.logits.index_select(1, self._order)
        weights = ranked.sub_(ranked.amax(1, keepdim=True)).exp_()
        sums = weights.new_zeros(len(weights), weights.shape[1] + 1, dtype=torch.float64)
        torch.cumsum(weights, 1, dtype=torch.float64, out=sums[:, 1:])
        return sums.div_(sums[:, -1:].clone())

    def row(self, number: int) -> "Marginals":
        """Those of one sample."""
        one = Marginals(self.logits[number : number + 1], self._order, self._starts, self._stops)
        one.below = self.below[number : number + 1]
        return one

    def of(self, nodes: Tensor) -> Tensor:
        """q of some nodes of each sample [B, K], float64."""
        return self.below.gather(1, self._stops[nodes]) - self.below.gather(1, self._starts[nodes])

    def everywhere(self) -> Tensor:
        """q of all nodes [B, N], float64."""
        return self.below.index_select(1, self._stops).sub_(self.below.index_select(1, self._starts))
