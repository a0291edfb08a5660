"""What all losses of the leaf logits share: their hierarchy as buffers, their checks, and labels that are inner nodes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy


class LeafLoss(nn.Module):
    """Base of the losses: logits [B, C] and labels [B] → named terms, whose sum is minimised.

    Args:
        hierarchy: Its classes are the logits, its labels the targets.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.
    """

    def __init__(self, hierarchy: Hierarchy, *, inner_labels: bool):
        super().__init__()
        self.inner_labels = inner_labels
        nodes = hierarchy.label_nodes
        for name, array in {"rank": hierarchy.leaf_rank, "start": hierarchy.starts[nodes], "stop": hierarchy.stops[nodes]}.items():
            self.register_buffer(name, torch.tensor(array), persistent=False)

    def checked(self, logits: Tensor) -> Tensor:
        """The logits in float32 or more. Raises ShapeError unless they are [B, C]."""
        if logits.ndim != 2 or logits.shape[1] != len(self.rank):
            raise ShapeError(f"logits: wanted [B, {len(self.rank)}], one score a class, got {list(logits.shape)}")
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def mean_nll(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean over the batch of −log p_y of classes (smoothed, if asked) and −log q_v of inner nodes."""
        if not self.inner_labels:
            return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        leaf = F.cross_entropy(logits, torch.where(self.is_leaf(labels), labels, 0), label_smoothing=label_smoothing, reduction="none")
        return torch.where(self.is_leaf(labels), leaf, self.inner_nll(logits, labels)).mean()

    def inner_nll(self, logits: Tensor, labels: Tensor) -> Tensor:
        """−log q_v of the node v that each label is: [B]."""
        return set_nll(logits, (self.rank >= self.start[labels, None]) & (self.rank < self.stop[labels, None]))

    def is_leaf(self, labels: Tensor) -> Tensor:
        """Whether each label is a class: [B] bool."""
        return labels < len(self.rank)


def set_nll(logits: Tensor, members: Tensor) -> Tensor:
    """−log of the summed probability of the classes in `members` [B, C] (bool; a row of none gives inf): [B]."""
    return logits.logsumexp(1) - logits.masked_fill(~members, -torch.inf).logsumexp(1)
