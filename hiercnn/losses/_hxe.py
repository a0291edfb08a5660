"""Hierarchical cross-entropy: cross-entropy of every step down the path, errors near the root costing more."""

from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.losses._leaf_loss import LeafLoss
from hiercnn.losses._registry import losses
from hiercnn.losses._rings import node_rings, paths
from hiercnn.ops import ring_nll
from hiercnn.settings import checked_options


@losses.register("hxe")
class HXE(LeafLoss):
    """−Σ_k λ_k log(q_{v_k} / q_{v_{k−1}}) over the path to the label, with λ_k = exp(−α (k − 1)). α = 0 is cross-entropy.

    A label that is an inner node brings the steps down to it.

    Args:
        hierarchy: Its classes are the logits, its labels the targets.
        alpha: α; 0.1 to 0.6 in the paper.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.

    Shapes:
        logits [B, C] (half types are summed in float32), labels [B] int64 → {"hxe": mean over the batch, in nats}.

    Raises:
        ShapeError: Logits that are not [B, C].

    Source: Bertinetto et al., "Making better mistakes" (CVPR 2020), with λ of the depth, as in the authors' code.
    """

    @checked_options
    def __init__(self, hierarchy: Hierarchy, *, alpha: Annotated[float, Field(ge=0)] = 0.3, inner_labels: bool = False):
        super().__init__(hierarchy, inner_labels=inner_labels)
        nodes = paths(hierarchy, self.num_labels)
        step = np.where(nodes >= 0, np.exp(-alpha * np.maximum(np.arange(nodes.shape[1]) - 1, 0)), 0.0)  # λ_k
        self.keep("path", node_rings(hierarchy, nodes, step - np.append(step[:, 1:], np.zeros_like(step[:, :1]), 1)))  # λ_k − λ_{k+1}

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"hxe": ring_nll(logits, labels, self.rings("path"))}
