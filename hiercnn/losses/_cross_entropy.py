"""Cross-entropy of the leaf, also for samples that are labelled with an inner node only."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.losses._registry import losses


@losses.register("cross_entropy")
class CrossEntropy(nn.Module):
    """−log p_y, the flat baseline; −log q_v = −log Σ_{leaves of v} p for a label v that is an inner node.

    Args:
        hierarchy: Its classes are the logits, its labels the targets.
        label_smoothing: ε times the loss averaged over leaves is mixed in; samples with an inner label are not smoothed.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.

    Shapes:
        logits [B, C] (half types are summed in float32), labels [B] int64 → {"cross_entropy": mean over the batch, in nats}.

    Raises:
        ShapeError: Logits that are not one score a class.
    """

    def __init__(self, hierarchy: Hierarchy, *, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0, inner_labels: bool = False):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.inner_labels = inner_labels
        nodes = hierarchy.label_nodes
        for name, array in {"rank": hierarchy.leaf_rank, "start": hierarchy.starts[nodes], "stop": hierarchy.stops[nodes]}.items():
            self.register_buffer(name, torch.tensor(array), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if logits.ndim != 2 or logits.shape[1] != len(self.rank):
            raise ShapeError(f"logits: wanted [B, {len(self.rank)}], one score a class, got {list(logits.shape)}")
        logits = logits.float()
        if not self.inner_labels:
            return {"cross_entropy": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}
        is_leaf = labels < logits.shape[1]
        leaf = F.cross_entropy(logits, torch.where(is_leaf, labels, 0), label_smoothing=self.label_smoothing, reduction="none")
        return {"cross_entropy": torch.where(is_leaf, leaf, self._inner(logits, labels)).mean()}

    def _inner(self, logits: Tensor, labels: Tensor) -> Tensor:
        below = (self.rank >= self.start[labels, None]) & (self.rank < self.stop[labels, None])  # [B, C]
        return logits.logsumexp(1) - logits.masked_fill(~below, -torch.inf).logsumexp(1)
