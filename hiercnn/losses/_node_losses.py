"""Losses of networks that score every node: softmaxes over siblings, and the soft-max-margin over all nodes."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.losses._leaf_loss import TreeLoss
from hiercnn.losses._registry import losses
from hiercnn.ops import Nodes, check_floats, conditional_nll, margin_nll, path_table
from hiercnn.settings import checked_options


class NodeLoss(TreeLoss):
    """Base of the losses of scores of all nodes but the root [B, N − 1], in depth-first order.

    Args:
        hierarchy: Its nodes are the scores, its labels the targets.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.
    """

    scores = "nodes"
    classifier: str  # the one of models.NODE_SCORES that reads what it trains

    def __init__(self, hierarchy: Hierarchy, *, inner_labels: bool):
        super().__init__(hierarchy, inner_labels=inner_labels)
        table = path_table(hierarchy.parents, hierarchy.depths, hierarchy.label_nodes[: self.num_labels])
        self.register_buffer("paths", table, persistent=False)
        self.num_scores = hierarchy.num_nodes - 1

    def checked(self, scores: Tensor) -> Tensor:
        check_floats("scores", scores, ("node but the root", self.num_scores))
        return scores


@losses.register("conditional_nll")
class ConditionalNLL(NodeLoss):
    """−Σ_k w_k log softmax of the k-th node on the label's path among its siblings; w_k = exp(−α (k − 1)). Needs classifier: conditional.

    A label that is an inner node brings the steps down to it; only children cost nothing.

    Args:
        hierarchy: Its nodes are the scores, its labels the targets.
        alpha: α; 0 weighs every step alike, so that the loss is −log of the label's probability.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.

    Shapes:
        scores [B, N − 1] (half types are summed in float32), labels [B] int64 → {"conditional_nll": mean over the batch, in nats}.

    Raises:
        ShapeError: Scores that are not [B, N − 1].

    Source: Redmon and Farhadi, "YOLO9000" (CVPR 2017).
    """

    classifier = "conditional"

    @checked_options
    def __init__(self, hierarchy: Hierarchy, *, alpha: Annotated[float, Field(ge=0)] = 0.0, inner_labels: bool = False):
        super().__init__(hierarchy, inner_labels=inner_labels)
        nodes = Nodes.from_parents(hierarchy.parents, hierarchy.leaf_nodes)
        self.counts = nodes.counts
        for name in Nodes._fields[:-1]:
            self.register_buffer(f"tree_{name}", getattr(nodes, name), persistent=False)
        weight = np.exp(-alpha * np.maximum(np.arange(self.paths.shape[1]) - 1, 0))
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32).expand(self.paths.shape).contiguous(), persistent=False)

    def terms(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        nodes = Nodes(*(self.get_buffer(f"tree_{name}") for name in Nodes._fields[:-1]), self.counts)
        return {"conditional_nll": conditional_nll(scores, labels, nodes, self.paths, self.weight)}


@losses.register("margin_nll")
class MarginNLL(NodeLoss):
    """−θ_y + log Σ_v exp(θ_v + τ [v is neither the label y nor above it]) over all nodes but the root. Needs classifier: margin.

    Args:
        hierarchy: Its nodes are the scores, its labels the targets.
        margin: τ.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.

    Shapes:
        scores [B, N − 1] (half types are summed in float32), labels [B] int64 → {"margin_nll": mean over the batch, in nats}.

    Raises:
        ShapeError: Scores that are not [B, N − 1].

    Source: Valmadre, "Hierarchical classification at multiple operating points" (NeurIPS 2022), soft-max-margin.
    """

    classifier = "margin"

    @checked_options
    def __init__(self, hierarchy: Hierarchy, *, margin: Annotated[float, Field(ge=0)] = 5.0, inner_labels: bool = False):
        super().__init__(hierarchy, inner_labels=inner_labels)
        self.margin = margin

    def terms(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"margin_nll": margin_nll(scores, labels, self.paths, self.margin)}
