"""A cut: one level of a hierarchy, as a partition of its classes."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hiercnn.errors import HierarchyError


@dataclass(frozen=True, eq=False)
class Cut:
    """A partition of the classes into groups, usually by an antichain of tree nodes.

    Attributes:
        name: What tables call it: `leaf`, `20 groups`, `random 20 groups`.
        names: Name of each group [K].
        groups: Group of each class [C], int64, classes in the data set's order.
        label_groups: Group of each label [N], int64: the classes first, then the inner nodes (see `Hierarchy.label`);
            -1 where a label is coarser than the cut.
        nodes: The tree nodes that are the groups [K], or None when the groups are not nodes of the tree.
    """

    name: str
    names: tuple[str, ...]
    groups: np.ndarray
    label_groups: np.ndarray
    nodes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray:
        """Number of classes in each group [K], int64."""
        return np.bincount(self.groups, minlength=len(self))

    def refines(self, coarser: "Cut") -> bool:
        """Whether every group of this cut lies inside one group of `coarser`, a cut of the same classes."""
        if len(self.groups) != len(coarser.groups):
            raise HierarchyError(f"cut '{self.name}' has {len(self.groups)} classes, cut '{coarser.name}' {len(coarser.groups)}")
        pairs = np.unique(np.stack([self.groups, coarser.groups], axis=1), axis=0)
        return len(pairs) == len(np.unique(self.groups))


def check_nested(cuts: list[Cut]) -> list[Cut]:
    """Return `cuts` unchanged, or raise if one does not refine the one before it."""
    for coarse, fine in pairwise(cuts):
        if not fine.refines(coarse):
            raise HierarchyError(f"cut '{fine.name}' does not refine '{coarse.name}'; list nested cuts, coarse first")
    return cuts
