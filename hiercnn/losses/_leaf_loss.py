"""What all losses share: their hierarchy as buffers, their checks, and labels that are inner nodes."""

import numpy as np
import torch
from torch import Tensor, nn

from hiercnn.hierarchy import Hierarchy
from hiercnn.losses._rings import node_rings
from hiercnn.ops import Mixed, Rings, check_floats, check_target, ring_nll


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
        """Terms by name, each the mean over the batch [] in nats; of no images NaN, as torch's mean.

        Raises:
            ShapeError: Scores or labels of another size, type or device.
        """
        scores = self.checked(scores)
        if not isinstance(labels, Mixed):
            check_target(labels, scores)
            return {name: losses.mean() for name, losses in self.terms(scores, labels).items()}
        for those in labels[:2]:
            check_target(those, scores)
        first, second = (self.terms(scores, those) for those in labels[:2])
        return {name: labels.mix(first[name], second[name]).mean() for name in first}

    def _apply(self, fn, recurse=True):
        """Tables go where the module goes and keep their type: weights rounded to a half type are other weights."""
        kept = {name: table for name, table in self._buffers.items() if table is not None and table.is_floating_point()}
        super()._apply(fn, recurse)
        for name, table in kept.items():
            self._buffers[name] = table.to(self._buffers[name].device)
        return self

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

    def keep_own(self, hierarchy: Hierarchy, label_smoothing: float = 0.0) -> None:
        """Tables of −log p_y and −log q_v of the node that each label is, under the name `own`."""
        own = hierarchy.label_nodes[: self.num_labels]
        nodes, weight = np.stack([np.zeros_like(own), own], 1), np.ones((len(own), 2))
        self.keep("own", node_rings(hierarchy, *self.smoothed(nodes, weight, label_smoothing)))

    def smoothed(self, nodes: np.ndarray, weight: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Nodes on the path to each label [T, K], the label last, and weights, with the mean over all classes of −log p mixed into the
        last one's, 1 − share : share, where the label is a class; for `node_rings`."""
        if not share:
            return nodes, weight, None
        soft = np.zeros(weight.shape)
        soft[: self.num_classes] = share / self.num_classes
        weight[: self.num_classes, -1] *= 1 - share
        return nodes, weight, soft

    def checked(self, logits: Tensor) -> Tensor:
        check_floats("logits", logits, ("class", self.num_classes))
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def own_nll(self, logits: Tensor, labels: Tensor) -> Tensor:
        """−log p_y, smoothed if that was asked for, or −log q_v of the node that each label is: [B]."""
        return ring_nll(logits, labels, self.rings("own"))
