"""Cross-entropy with targets that spread over classes by their distance in the tree."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import Hierarchy
from hiercnn.losses._leaf_loss import LeafLoss
from hiercnn.losses._registry import losses

MOST_CLASSES = 5000  # the table of targets is [C, C]


@losses.register("soft_labels")
class SoftLabels(LeafLoss):
    """−Σ_j t_j log p_j with t_j ∝ exp(−β D[y, j] / max D): hierarchical label smoothing. β → ∞ is cross-entropy.

    A label that is an inner node v brings −log q_v.

    Args:
        hierarchy: Its classes are the logits, its labels the targets.
        beta: β; 4 smooths much, 30 little.
        distance: D, a distance of `Hierarchy.distances`.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.

    Shapes:
        logits [B, C] (half types are summed in float32), labels [B] int64 → {"soft_labels": mean over the batch, in nats}.

    Raises:
        HierarchyError: More than 5,000 classes (the targets are a [C, C] table). ShapeError: logits that are not [B, C].

    Source: Bertinetto et al., "Making better mistakes" (CVPR 2020), soft labels.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        beta: Annotated[float, Field(gt=0)] = 10.0,
        distance: Literal["lca", "path", "wup", "information"] = "lca",
        inner_labels: bool = False,
    ):
        super().__init__(hierarchy, inner_labels=inner_labels)
        if hierarchy.num_classes > MOST_CLASSES:
            raise HierarchyError(f"soft_labels keeps a table of {hierarchy.num_classes}² targets; it takes at most {MOST_CLASSES} classes")
        classes = np.arange(hierarchy.num_classes)
        distances = hierarchy.distances(classes[:, None], classes, distance)
        targets = torch.tensor(-beta * distances / (distances.max() or 1)).softmax(1)
        self.register_buffer("targets", targets.float(), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.checked(logits)
        leaves = torch.where(self.is_leaf(labels), labels, 0) if self.inner_labels else labels
        loss = -(self.targets[leaves].to(logits.dtype) * logits.log_softmax(1)).sum(1)
        if self.inner_labels:
            loss = torch.where(self.is_leaf(labels), loss, self.inner_nll(logits, labels))
        return {"soft_labels": loss.mean()}
