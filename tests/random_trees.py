"""Random trees for hypothesis, of uneven depth and with single children, and their cuts."""

from contextlib import suppress

from hypothesis import strategies as st

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import Hierarchy


@st.composite
def trees(draw, most_nodes: int = 24) -> Hierarchy:
    """A tree of up to so many nodes, down to the root alone; classes in any order."""
    parents = [-1] + [drawn % (i + 1) for i, drawn in enumerate(draw(st.lists(st.integers(0, 99), max_size=most_nodes - 1)))]
    names = [f"n{i}" for i in range(len(parents))]
    leaves = [name for i, name in enumerate(names) if i not in parents]
    return Hierarchy(names, parents, draw(st.permutations(leaves)))


def several_classes(tree: Hierarchy) -> bool:
    return tree.num_classes > 1


def choices_of_cuts(tree: Hierarchy) -> list[dict[str, int]]:
    """What a recipe may write for a cut of this tree into two groups or more."""
    kept = []
    for choice in [{"depth": depth} for depth in range(1, tree.height + 1)] + [{"groups": k} for k in range(2, tree.num_classes + 1)]:
        with suppress(HierarchyError):  # the first split makes more groups
            kept += [choice] if len(tree.cut(**choice)) > 1 else []
    return kept
