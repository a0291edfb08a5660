"""Cross-entropy of the leaf, also for samples that are labelled with an inner node only."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.losses._leaf_loss import LeafLoss
from hiercnn.losses._registry import losses
from hiercnn.ops import Mixed, check_target
from hiercnn.settings import checked_options


@losses.register("cross_entropy")
class CrossEntropy(LeafLoss):
    """−log p_y, the flat baseline; −log q_v = −log Σ_{leaves of v} p for a label v that is an inner node.

    Args:
        hierarchy: Its classes are the logits, its labels the targets.
        label_smoothing: ε times the loss averaged over leaves is mixed in; samples with an inner label are not smoothed.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.

    Shapes:
        logits [B, C] (half types are summed in float32), labels [B] int64 → {"cross_entropy": mean over the batch, in nats}.

    Raises:
        ShapeError: Logits that are not one number a class.
    """

    @checked_options
    def __init__(self, hierarchy: Hierarchy, *, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0, inner_labels: bool = False):
        super().__init__(hierarchy, inner_labels=inner_labels)
        self.label_smoothing = label_smoothing
        self.keep_own(hierarchy, label_smoothing)

    def forward(self, logits: Tensor, labels: Tensor | Mixed) -> dict[str, Tensor]:
        if self.inner_labels or isinstance(labels, Mixed):
            return super().forward(logits, labels)
        logits = self.checked(logits)
        check_target(labels, logits)
        return {"cross_entropy": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}  # torch's, bit for bit

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"cross_entropy": self.own_nll(logits, labels)}
