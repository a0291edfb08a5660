"""Which classes stand close in the tree, and which far apart."""

import numpy as np

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import Cut, Hierarchy


def parent_groups(tree: Hierarchy) -> Cut:
    """The classes by their parent, groups in depth-first order; a class whose parent has other groups below it too may be alone."""
    parents, groups = np.unique(tree.parents[tree.leaf_nodes], return_inverse=True)
    return tree.partition(groups, [tree.titles[node] for node in parents], name="parents")


def top_groups(tree: Hierarchy) -> Cut:
    """The first cut below the root with two groups or more. Raises HierarchyError if these are the classes themselves."""
    for depth in range(1, tree.height):
        cut = tree.cut(depth=depth)
        if len(cut) > 1:
            return cut
    raise HierarchyError("the tree has one level: there are no groups between its root and its classes. Give the recipe a hierarchy")


def group_titles(tree: Hierarchy, cut: Cut) -> list[str]:
    """Readable names of the groups of a cut [K]."""
    return list(cut.names) if cut.nodes is None else [tree.titles[node] for node in cut.nodes]


def class_titles(tree: Hierarchy) -> list[str]:
    """Readable names of the classes [C]."""
    return [tree.titles[node] for node in tree.leaf_nodes]
