"""Likelihood of labels that may name another class of the right group."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hiercnn.errors import RecipeError
from hiercnn.hierarchy import CutChoice, Hierarchy, chosen_cuts
from hiercnn.losses._leaf_loss import LeafLoss
from hiercnn.losses._registry import losses
from hiercnn.losses._rings import partition_rings
from hiercnn.ops import ring_nll
from hiercnn.settings import checked_options


@losses.register("forward_correction")
class ForwardCorrection(LeafLoss):
    """−log Σ_c T[c, y] p_c: the network says what the class is, T[c, y] how often a class c is labelled y.

    A share ρ of the labels is taken to name any other class of the same group: with n classes in it, q its probability and
    b = ρ/(n − 1), the loss is −log((1 − ρ − b) p_y + b q). So the network need not learn wrong labels by heart to explain them.
    A group of one class has no wrong labels, and ρ = 0 is cross-entropy. A label that is an inner node v is taken to be right: −log q_v.

    Args:
        hierarchy: Its classes are the logits, its labels the targets.
        rate: ρ; in every group the right label must be more frequent than each wrong one.
        cut: The groups inside which labels go astray; {depth: 0} is one group of all classes.
        group_weight: Weight of −log q of a class label's group, added as level_nll does.
        random: Random groups of the same sizes instead (a control): true draws them from the run's seed, a number from that.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.
        seed: Where `random: true` draws from; the run's in a recipe.

    Shapes:
        logits [B, C] (half types are summed in float32), labels [B] int64 → {"forward_correction": …, and with a weight "group": …},
        means over the batch in nats.

    Raises:
        HierarchyError: A cut that does not exist. RecipeError: ρ so high that a label tells nothing. ShapeError: logits not [B, C].

    Source: forward correction of Patrini et al., "Making deep neural networks robust to label noise" (CVPR 2017), with a T of the tree.
    """

    @checked_options
    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        rate: Annotated[float, Field(ge=0, lt=1)],
        cut: CutChoice,
        group_weight: Annotated[float, Field(ge=0)] = 0.0,
        random: bool | Annotated[int, Field(ge=0)] = False,
        inner_labels: bool = False,
        seed: int = 0,
    ):
        super().__init__(hierarchy, inner_labels=inner_labels)
        self.group_weight = group_weight
        groups = chosen_cuts(hierarchy, [cut])[0]
        if random is not False:
            groups = hierarchy.random_like(groups, seed if random is True else random)
        size = np.bincount(groups.groups)[groups.groups]  # of the group that each class is in
        wrong = np.where(size > 1, rate / np.maximum(size - 1, 1), 0.0)
        right = np.where(size > 1, 1 - rate - wrong, 1.0)
        if (right <= 0).any():
            raise RecipeError(
                f"rate: with {rate:g}, a label in a group of {size[right <= 0].min()} classes tells nothing; it must be lower"
            )
        self.register_buffer("shares", torch.tensor(np.stack([right, wrong]), dtype=torch.float64).log(), persistent=False)
        self.keep_own(hierarchy)
        self.keep("around", partition_rings(groups, self.num_labels, 1.0))

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        own, group = self.own_nll(logits, labels), ring_nll(logits, labels, self.rings("around"))
        leaf = self.is_leaf(labels)
        right, wrong = self.shares.to(own.dtype)[:, torch.where(leaf, labels, 0)]
        terms = {"forward_correction": torch.where(leaf, -torch.logaddexp(right - own, wrong - group), own)}
        return {**terms, "group": self.group_weight * torch.where(leaf, group, 0)} if self.group_weight else terms
