"""What the answers of a rule are worth: how many are right, and how much they say."""

import numpy as np
from torch import Tensor

from hiercnn.errors import DataError
from hiercnn.hierarchy import Hierarchy
from hiercnn.inference._rule import Decision, Rule
from hiercnn.settings import Settings


class Answers(Settings):
    """Answers of a rule to labelled images.

    An answer is right if its classes include all of the label's: the label itself, a node above it, or an only child, which is the same
    class. An answer below a label that is an inner node may be right or not, and counts as not right.

    Attributes:
        images: How many.
        right: Share of right answers.
        below: Share of answers below their label, which nobody can check.
        probability: Mean probability that the rule gave its answers: the share it expects to be right.
        information: Mean of 1 − log |classes of the answer| / log C: 1 for a class, 0 for the root.
        depths: Share of answers at each depth of the tree, the root's first.
        classes: Share of answers that are classes.
    """

    images: int
    right: float
    below: float
    probability: float
    information: float
    depths: list[float]
    classes: float


def describe_answers(hierarchy: Hierarchy, decision: Decision, labels: Tensor) -> Answers:
    """Count the answers of a rule to images with these labels [B], classes or inner nodes. Raises DataError without images."""
    if not len(labels) == len(decision.nodes) > 0:
        raise DataError(f"answers and labels: wanted as many of both, and some; got {len(decision.nodes)} and {len(labels)}")
    nodes, own = decision.nodes.cpu().numpy(), hierarchy.label_nodes[labels.cpu().numpy()]
    right, sizes = includes(hierarchy, nodes, own), (hierarchy.stops - hierarchy.starts)[nodes]
    return Answers(
        images=len(nodes),
        right=right.mean(),
        below=(includes(hierarchy, own, nodes) & ~right).mean(),
        probability=decision.probability.double().mean(),
        information=(1 - np.log(sizes) / np.log(max(hierarchy.num_classes, 2))).mean(),
        depths=(np.bincount(hierarchy.depths[nodes], minlength=hierarchy.height + 1) / len(nodes)).tolist(),
        classes=(hierarchy.heights[nodes] == 0).mean(),
    )


def includes(tree: Hierarchy | Rule, nodes: np.ndarray | Tensor, others: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """Whether the classes below `nodes` include all those below `others`, element by element with broadcasting, bool.

    Arrays with a hierarchy, tensors with a rule, which has the same ranges on its device.
    """
    return (tree.starts[nodes] <= tree.starts[others]) & (tree.stops[nodes] >= tree.stops[others])
