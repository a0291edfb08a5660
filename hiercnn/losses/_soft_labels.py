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
from hiercnn.losses._rings import node_rings, paths
from hiercnn.ops import known_rows, ring_nll
from hiercnn.settings import checked_options

MOST_CLASSES = 5000  # where targets are a [C, C] table


@losses.register("soft_labels")
class SoftLabels(LeafLoss):
    """−Σ_j t_j log p_j with t_j ∝ exp(−β D[y, j] / max D): hierarchical label smoothing. β → ∞ is cross-entropy.

    A label that is an inner node v brings −log q_v. Distances that only depend on the common ancestor (lca, information) need no table of
    all pairs of classes; the others gather rows of one.

    Args:
        hierarchy: Its classes are the logits, its labels the targets.
        beta: β; 4 smooths much, 30 little.
        distance: D, a distance of `Hierarchy.distances`.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.

    Shapes:
        logits [B, C] (half types are summed in float32), labels [B] int64 → {"soft_labels": mean over the batch, in nats}.

    Raises:
        HierarchyError: More than 5,000 classes with a distance that needs the [C, C] table. ShapeError: logits that are not [B, C].

    Source: Bertinetto et al., "Making better mistakes" (CVPR 2020), soft labels.
    """

    @checked_options
    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        beta: Annotated[float, Field(gt=0)] = 10.0,
        distance: Literal["lca", "path", "wup", "information"] = "lca",
        inner_labels: bool = False,
    ):
        super().__init__(hierarchy, inner_labels=inner_labels)
        self.by_ancestor = distance in ("lca", "information")
        if self.by_ancestor:
            self._keep_rings(hierarchy, beta, distance)
        else:
            self._keep_table(hierarchy, beta, distance)
            self.keep_own(hierarchy)

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.by_ancestor:
            return {"soft_labels": ring_nll(logits, labels, self.rings("soft"))}
        if not self.inner_labels:
            return {"soft_labels": self._by_table(logits, labels)}
        leaf, own = self.is_leaf(labels), self.own_nll(logits, labels)
        return {"soft_labels": torch.where(leaf, self._by_table(logits, torch.where(leaf, labels, 0)), own)}

    def _by_table(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = self.targets[known_rows(labels, len(self.targets))].to(logits.dtype)
        return -torch.where(targets != 0, targets * logits.log_softmax(1), 0).sum(1)

    def _keep_rings(self, hierarchy: Hierarchy, beta: float, distance: str) -> None:
        """t_j by the ring that j lies in: the distance of all its classes is that of the path's node, their lowest common ancestor."""
        nodes = np.maximum.accumulate(paths(hierarchy, self.num_labels), axis=1)
        leaves = nodes[: self.num_classes]
        below = (hierarchy.stops - hierarchy.starts)[leaves]
        sizes = below - np.append(below[:, 1:], np.zeros_like(below[:, :1]), 1)  # classes in each ring
        far = hierarchy.heights if distance == "lca" else np.log2(hierarchy.stops - hierarchy.starts)
        farthest = far[leaves][sizes > 0].max() or 1  # of two classes; an only child's parent is no common ancestor
        share, own = np.zeros(nodes.shape), np.zeros(nodes.shape)
        share[: self.num_classes] = np.exp(-beta * far[leaves] / farthest)
        share[: self.num_classes] /= (share[: self.num_classes] * sizes).sum(1, keepdims=True)
        own[self.num_classes :, -1] = 1  # inner nodes: −log q_v alone
        self.keep("soft", node_rings(hierarchy, nodes, own, share))

    def _keep_table(self, hierarchy: Hierarchy, beta: float, distance: str) -> None:
        if hierarchy.num_classes > MOST_CLASSES:
            raise HierarchyError(
                f"soft_labels keeps a table of {hierarchy.num_classes}² targets for the distance '{distance}'; it takes at most "
                f"{MOST_CLASSES} classes. The distances lca and information need none"
            )
        classes = np.arange(hierarchy.num_classes)
        distances = hierarchy.distances(classes[:, None], classes, distance)
        targets = torch.tensor(-beta * distances / (distances.max() or 1)).softmax(1)
        self.register_buffer("targets", targets.float(), persistent=False)
