"""Images with a wrong label: the odds that the label is a slip, given what the network sees and how slips are spread over the tree."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from hiercnn.diagnose._evidence import Evidence, Finding, ranked
from hiercnn.diagnose._registry import detectors
from hiercnn.hierarchy import Hierarchy
from hiercnn.settings import checked_options

BLOCK = 2**22  # probabilities looked at together
TINY = 1e-12  # a label's probability counts as no less


@detectors.register("mislabel")
@checked_options
def mislabel(
    evidence: Evidence, *, score: Literal["odds", "margin"] = "odds", nearness: Annotated[float, Field(ge=0, le=1)] = 0.5
) -> list[Finding]:
    """Images whose label is not what the network takes them for.

    Args:
        score: `odds`: see `slip_odds`; `margin`: (p_ŷ − p_y) times the height of the lowest common ancestor of label and prediction.
        nearness: Of the odds; 0 leaves the tree out, which ranks by the label's probability alone.
    """
    tree, labels, predicted = evidence.tree, evidence.labels, evidence.predicted
    if score == "odds":
        values = slip_odds(evidence.probabilities, labels, tree, nearness=nearness)
    else:
        values = (evidence.of_best - evidence.of_label) * tree.distances(labels, predicted)
    meet = tree.lca(tree.leaf_nodes[labels], tree.leaf_nodes[predicted])
    wrong = np.flatnonzero(predicted != labels)
    return ranked([Finding(float(values[i]), _sentence(evidence, i, meet[i]), int(i), classes=_names(evidence, i)) for i in wrong])


def slip_odds(probabilities: np.ndarray, labels: np.ndarray, tree: Hierarchy, *, nearness: float = 0.5) -> np.ndarray:
    """Log-odds [N] that a label y is a slip: log Σ_{j≠y} p_j P(y | j) − log p_y, up to a constant.

    P(y | j), how likely one who means class j slips to y, falls with the number m of classes that part from j where y does: it goes as
    m^−nearness. With 1, slips to a sibling and to anything at the far side of the tree are equally likely altogether; with 0 all classes
    are, and what remains ranks by p_y alone.

    Args:
        probabilities: [N, C]. labels: [N], int64.
        nearness: 0 to 1.
    """
    slips = _slip_weights(tree, nearness)
    rows = max(1, BLOCK // tree.num_classes)
    parts = [_mass(probabilities[at : at + rows], labels[at : at + rows], tree, slips) for at in range(0, len(labels), rows)]
    of_label = np.maximum(probabilities[np.arange(len(labels)), labels].astype(np.float64), TINY)
    return np.log(np.maximum(np.concatenate(parts), TINY)) - np.log(of_label)


def _slip_weights(tree: Hierarchy, nearness: float) -> np.ndarray:
    """P(y | j) for classes y that part from class j at its ancestor of each depth [depth, C], classes by rank; 0 where none does."""
    sizes = tree.stops - tree.starts
    ancestors = _ancestors(tree)
    rings = sizes[ancestors[:-1]] - sizes[ancestors[1:]]  # [depth, C]
    weights = np.where(rings > 0, np.maximum(rings, 1) ** -nearness, 0.0)
    return weights / np.maximum((weights * rings).sum(0), TINY)


def _ancestors(tree: Hierarchy) -> np.ndarray:
    """Ancestor of each class at each depth [height + 1, C], classes by rank; a class stands in for its own descendants."""
    nodes = tree.leaf_nodes[tree.leaf_order]
    above = [nodes]
    for depth in range(tree.height, 0, -1):
        above.append(np.where(tree.depths[above[-1]] >= depth, tree.parents[above[-1]], above[-1]))
    return np.array(above[::-1])


def _mass(probabilities: np.ndarray, labels: np.ndarray, tree: Hierarchy, slips: np.ndarray) -> np.ndarray:
    """Σ_{j≠y} p_j P(y | j) [B]: over the ancestors of y, the classes below each but not below the next."""
    by_rank = probabilities[:, tree.leaf_order].astype(np.float64)
    ancestors = _ancestors(tree)[:, tree.leaf_rank[labels]]  # [height + 1, B]
    total = np.zeros(len(labels))
    for depth in range(tree.height):
        sums = np.cumsum(by_rank * slips[depth], axis=1)
        total += _below(sums, tree, ancestors[depth]) - _below(sums, tree, ancestors[depth + 1])
    return total


def _below(sums: np.ndarray, tree: Hierarchy, nodes: np.ndarray) -> np.ndarray:
    """What of running sums [B, C] over ranks lies below a node of each row [B]."""
    rows, starts = np.arange(len(sums)), tree.starts[nodes]
    return sums[rows, tree.stops[nodes] - 1] - np.where(starts > 0, sums[rows, starts - 1], 0.0)


def _names(evidence: Evidence, image: int) -> tuple[str, str]:
    classes = evidence.tree.classes
    return classes[evidence.labels[image]], classes[evidence.predicted[image]]


def _sentence(evidence: Evidence, image: int, meet: int) -> str:
    label, best, titles = evidence.labels[image], evidence.predicted[image], evidence.titles
    both = f"both are {evidence.tree.titles[meet]}" if meet else "the two have no group in common"
    return (
        f"labelled {titles[label]} ({evidence.of_label[image]:.2%}), but looks like {titles[best]} ({evidence.of_best[image]:.1%}); {both}"
    )
