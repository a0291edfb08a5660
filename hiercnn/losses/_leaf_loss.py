"""What all losses share: their hierarchy as buffers, their checks, and labels that are inner nodes."""

import numpy as np
import torch
from torch import Tensor, nn

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.losses._rings import node_rings
from hiercnn.ops import Mixed, Rings, ring_nll


class TreeLoss(nn.Module):
    """Base of the losses: scores [B, S] and labels [B] → named terms, means over the batch, whose sum is minimised.

    A loss names its terms for each image in `terms`. Labels may be `Mixed` pairs.

    Args:
        hierarchy: Its classes and inner nodes are the labels.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.

    Attributes:
        scores: Whose scores it takes: `leaf` [B, C], or `nodes` [B, N − 1], all but the root.
    """

    scores = "leaf"

    def __init__(self, hierarchy: Hierarchy, *, inner_labels: bool):
        super().__init__()
        self.inner_labels = inner_labels
        self.num_classes = hierarchy.num_classes
        self.num_labels = hierarchy.num_nodes if inner_labels else hierarchy.num_classes

    def forward(self, scores: Tensor, labels: Tensor | Mixed) -> dict[str, Tensor]:
        scores = self.checked(scores)
        if not isinstance(labels, Mixed):
            return {name: losses.mean() for name, losses in self.terms(scores, labels).items()}
        first, second = (self.terms(scores, those) for those in (labels.first, labels.second))
        return {name: labels.mix(first[name], second[name]).mean() for name in first}

    def checked(self, scores: Tensor) -> Tensor:
        """The scores as the terms want them. Raises ShapeError unless there is one for each class, or node."""
        raise NotImplementedError

    def terms(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of every image by term, each [B] in nats."""
        raise NotImplementedError

    def keep(self, name: str, tables: tuple) -> None:
        """Hold tables of an operator as buffers that move with the module; `rings` gives them back."""
        for field, value in zip(type(tables)._fields, tables, strict=True):
            self.register_buffer(f"{name}_{field}", value, persistent=False)

    def rings(self, name: str) -> Rings:
        """The tables kept under a name."""
        return Rings(*(self.get_buffer(f"{name}_{field}") for field in Rings._fields[:4]), getattr(self, f"{name}_soft"))

    def is_leaf(self, labels: Tensor) -> Tensor:
        """Whether each label is a class: [B] bool."""
        return labels < self.num_classes


class LeafLoss(TreeLoss):
    """Base of the losses of leaf logits [B, C].

    Args:
        hierarchy: Its classes are the logits, its labels the targets.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.
    """

    def __init__(self, hierarchy: Hierarchy, *, inner_labels: bool):
        super().__init__(hierarchy, inner_labels=inner_labels)
        own = hierarchy.label_nodes[: self.num_labels]
        self.keep("own", node_rings(hierarchy, np.stack([np.zeros_like(own), own], 1), np.ones((len(own), 2))))

    def checked(self, logits: Tensor) -> Tensor:
        """The logits in float32 or more. Raises ShapeError unless they are [B, C]."""
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ShapeError(f"logits: wanted [B, {self.num_classes}], one score a class, got {list(logits.shape)}")
        return logits.float() if logits.dtype.itemsize < 4 else logits

    def own_nll(self, logits: Tensor, labels: Tensor) -> Tensor:
        """−log p_y or −log q_v of the node that each label is: [B]."""
        return ring_nll(logits, labels, self.rings("own"))

    def smoothing(self, logits: Tensor, labels: Tensor, share: float) -> Tensor:
        """What mixes the mean over all classes of −log p into −log p_y, share : 1 − share, for labels that are classes: [B]."""
        if not share:
            return logits.new_zeros(())
        mean = logits.logsumexp(1) - logits.mean(1)
        return torch.where(self.is_leaf(labels), share * (mean - self.own_nll(logits, labels)), 0)
