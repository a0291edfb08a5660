"""Negative log-likelihood of the label's ancestors, all read from the one leaf head."""

from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor

from hiercnn.errors import RecipeError
from hiercnn.hierarchy import Cut, CutChoice, Hierarchy, chosen_cuts
from hiercnn.losses._leaf_loss import LeafLoss
from hiercnn.losses._registry import losses
from hiercnn.losses._rings import node_rings, partition_rings
from hiercnn.ops import ring_nll
from hiercnn.settings import Settings, checked_options


class Level(Settings):
    """One level of the loss.

    Attributes:
        cut: Its groups.
        weight: Weight of its term; the label's own term has weight 1.
        random: Random groups of the same sizes instead (a control): true draws them from the run's seed, a number from that.
    """

    cut: CutChoice
    weight: Annotated[float, Field(ge=0)] = 1.0
    random: bool | Annotated[int, Field(ge=0)] = False


@losses.register("level_nll")
class LevelNLL(LeafLoss):
    """−log p_y − Σ_l w_l log q_{A[l, y]}, where q of a group is the sum of its leaves' probabilities.

    One leaf head answers for every level, so the levels are consistent by construction and nothing is added to the network. A label v
    that is an inner node brings −log q_v and the levels strictly above it.

    Args:
        hierarchy: Its classes are the logits, its labels the targets.
        levels: The levels beside the label's own; a recipe writes `levels: [{cut: 20, weight: 1.0}]`.
        label_smoothing: ε times the loss averaged over leaves is mixed into the term of leaf labels.
        inner_labels: Whether labels may be inner nodes; the data decide this in a recipe.
        seed: Where `random: true` draws from; the run's in a recipe.

    Shapes:
        logits [B, C] (half types are summed in float32), labels [B] int64 → {"level_nll": …}, mean over the batch in nats, with weights;
        random levels, if any, are terms of their own.

    Raises:
        HierarchyError: A cut that does not exist. RecipeError: no level, or a cut of one group. ShapeError: logits that are not [B, C].

    Source: the marginal form of Bertinetto et al., "Making better mistakes" (CVPR 2020).
    """

    @checked_options
    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        levels: list[Level],
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        inner_labels: bool = False,
        seed: int = 0,
    ):
        super().__init__(hierarchy, inner_labels=inner_labels)
        self.random: list[str] = []
        if not levels:
            raise RecipeError("levels: needs at least one level, such as {cut: 20, weight: 1.0}")
        nodes, weights = [np.zeros(self.num_labels, dtype=np.int64)], [np.zeros(self.num_labels)]
        for level in levels:
            cut = chosen_cuts(hierarchy, [level.cut])[0]
            if len(cut) < 2:
                raise RecipeError(f"levels: the cut '{cut.name}' has one group, which every image is in; cut lower")
            if level.random is False:
                group = _group_of_label(cut, hierarchy)[: self.num_labels]
                nodes.append(np.where(group >= 0, cut.nodes[group], 0))
                weights.append(np.where(group >= 0, level.weight, 0.0))
            else:
                cut = hierarchy.random_like(cut, seed if level.random is True else level.random)
                self.random.append(cut.name)
                self.keep(f"random{len(self.random)}", partition_rings(cut, self.num_labels, level.weight))
        nodes.append(hierarchy.label_nodes[: self.num_labels])
        weights.append(np.ones(self.num_labels))
        order = np.argsort(np.stack(nodes, 1), axis=1, kind="stable")  # all are on the path to the label, so the deeper have larger numbers
        columns = (np.take_along_axis(np.stack(listed, 1), order, 1) for listed in (nodes, weights))
        self.keep("levels", node_rings(hierarchy, *self.smoothed(*columns, label_smoothing)))

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        terms = {"level_nll": ring_nll(logits, labels, self.rings("levels"))}
        for number, name in enumerate(self.random, start=1):
            terms[name] = terms.get(name, 0) + ring_nll(logits, labels, self.rings(f"random{number}"))
        return terms


def _group_of_label(cut: Cut, hierarchy: Hierarchy) -> np.ndarray:
    """Group of each label [N] at the cut, −1 where the label is coarser, or is itself a group of several classes, said by its own term."""
    groups = cut.label_groups.copy()
    inner = np.arange(len(groups)) >= hierarchy.num_classes
    groups[inner & (groups >= 0) & (cut.nodes[groups] == hierarchy.label_nodes)] = -1
    return groups
