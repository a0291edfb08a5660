"""Made-up predictions with known answers."""

import numpy as np

from hiercnn.diagnose import Evidence
from hiercnn.hierarchy import Hierarchy, from_nested

TREE = from_nested(
    {"animal": {"pet": ["cat", "dog", "fish"], "wild": ["wolf", "bear"]}, "thing": {"road": ["car", "bus"], "tool": ["saw", "axe"]}}
)
FLAT = from_nested(["cat", "dog", "car"])


def likely(tree: Hierarchy, *rows: dict[str, float]) -> np.ndarray:
    """Probabilities [N, C] by class name; what is left is spread evenly over the others."""
    found = np.empty((len(rows), tree.num_classes))
    for row, named in zip(found, rows, strict=True):
        row[:] = (1 - sum(named.values())) / (tree.num_classes - len(named))
        for name, share in named.items():
            row[tree.label(name)] = share
    return found


def judged(tree: Hierarchy, *rows: tuple[str, dict[str, float]], **more) -> Evidence:
    """Evidence of images by label and probabilities."""
    return Evidence(tree, np.array([tree.label(label) for label, _ in rows]), likely(tree, *(named for _, named in rows)), **more)


def right(tree: Hierarchy, each: int = 4, share: float = 0.8) -> list[tuple[str, dict[str, float]]]:
    """Rows of a network that is right about every class."""
    return [(name, {name: share}) for name in tree.classes for _ in range(each)]
