"""Cuts against plain loops: by depth, by number of groups, at nodes, random; and how they nest."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import Hierarchy, from_classes, from_nested

TREE = st.from_type(Hierarchy)
PETS = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf"]}}, "car": None})


def group_sets(cut) -> list[set[int]]:
    return [set(np.flatnonzero(cut.groups == k).tolist()) for k in range(len(cut))]


def naive_depth_cut(tree: Hierarchy, depth: int) -> list[int]:
    """Walk down from the root; stop at this depth or at a class."""
    done, open_nodes = [], [0]
    while open_nodes:
        node = open_nodes.pop()
        if tree.depths[node] == depth or tree.is_leaf(node):
            done.append(node)
        else:
            open_nodes.extend(tree.children(node).tolist())
    return sorted(done)


def naive_groups_cut(tree: Hierarchy, groups: int) -> list[int]:
    """Expand the inner node with most classes, the first of equals, until the next step would pass the number."""
    frontier = [0]
    while len(frontier) < groups:
        inner = [node for node in frontier if not tree.is_leaf(node)]
        if not inner:
            break
        widest = min(inner, key=lambda node: (-len(tree.leaves(node)), node))
        expanded = [node for node in frontier if node != widest] + tree.children(widest).tolist()
        if len(expanded) > groups:
            break
        frontier = expanded
    return sorted(frontier)


def check_cut(tree: Hierarchy, cut, nodes: list[int]) -> None:
    """The cut has exactly these nodes, and its arrays say so for classes and for inner labels."""
    assert sorted(cut.nodes) == nodes
    assert cut.names == tuple(tree.names[node] for node in cut.nodes)
    assert group_sets(cut) == [set(tree.leaves(node).tolist()) for node in cut.nodes]
    assert cut.sizes.tolist() == [len(tree.leaves(node)) for node in cut.nodes]
    for label, node in enumerate(tree.label_nodes):
        above = [k for k, group in enumerate(cut.nodes) if group in tree.ancestors(node)]
        assert cut.label_groups[label] == (above[0] if above else -1)


@given(TREE, st.integers(0, 25))
def test_cut_by_depth(tree, depth):
    cut = tree.cut(depth=depth)
    check_cut(tree, cut, naive_depth_cut(tree, depth))
    assert tree.cut(depth=depth + 1).refines(cut)


@given(TREE, st.data())
def test_cut_by_groups(tree, data):
    groups = data.draw(st.integers(1, tree.num_classes))
    expected = naive_groups_cut(tree, groups)
    if len(expected) == 1 < groups:
        with pytest.raises(HierarchyError, match=f"groups={groups}: the first split already makes"):
            tree.cut(groups=groups)
        return
    cut = tree.cut(groups=groups)
    check_cut(tree, cut, expected)
    assert len(cut) <= groups


@given(TREE)
def test_cuts_by_groups_are_nested_and_end_at_the_classes(tree):
    cuts = []
    for groups in range(1, tree.num_classes + 1):
        try:
            cuts.append(tree.cut(groups=groups))
        except HierarchyError:
            assert cuts[1:] == []  # only before the first split
    assert all(fine.refines(coarse) for coarse, fine in pairwise(cuts))
    assert len(cuts[0]) == 1
    assert len(cuts[-1]) == tree.num_classes


@given(TREE)
def test_leaf_cut_is_the_identity(tree):
    for cut in (tree.leaf_cut(), tree.cut(depth=tree.height), tree.cut_at(tree.leaf_nodes)):
        assert cut.name == "leaf"
        assert cut.names == tree.classes
        assert cut.groups.tolist() == list(range(tree.num_classes))
        assert cut.label_groups.tolist() == [*range(tree.num_classes)] + [-1] * (tree.num_nodes - tree.num_classes)


@given(TREE, st.lists(st.integers(0, 23), max_size=4, unique=True))
def test_cut_at_takes_exactly_the_antichains_that_cover(tree, nodes):
    nodes = [node % tree.num_nodes for node in nodes]
    covered = sorted(c for node in nodes for c in tree.leaves(node).tolist())
    if covered == list(range(tree.num_classes)):
        check_cut(tree, tree.cut_at(nodes), sorted(nodes))
    else:
        with pytest.raises(HierarchyError, match="do not cover every class exactly once"):
            tree.cut_at(nodes)


@given(TREE, st.integers(0, 5), st.integers(0, 1000))
def test_random_partitions_keep_sizes_and_nest_with_one_seed(tree, depth, seed):
    coarse, fine = tree.cut(depth=depth), tree.cut(depth=depth + 1)
    random_coarse, random_fine = tree.random_like(coarse, seed), tree.random_like(fine, seed)
    assert random_coarse.sizes.tolist() == coarse.sizes.tolist()
    assert random_fine.refines(random_coarse)
    assert random_coarse.nodes is None
    assert random_coarse.name == f"random {coarse.name}"
    assert random_coarse.label_groups.tolist() == random_coarse.groups.tolist() + [-1] * (tree.num_nodes - tree.num_classes)
    assert (random_coarse.groups == tree.random_like(coarse, seed).groups).all()


def test_random_partitions_differ_between_seeds():
    tree = from_nested({f"g{i}": [f"c{i}{j}" for j in range(10)] for i in range(5)})
    drawn = {tuple(tree.random_like(tree.cut(depth=1), seed).groups) for seed in range(20)}
    assert len(drawn) == 20


@given(TREE, TREE)
def test_refines_says_whether_groups_lie_inside_groups(tree, other):
    classes = min(tree.num_classes, other.num_classes)
    a, b = (t.prune(t.classes[:classes]).cut(depth=2) for t in (tree, other))
    assert a.refines(b) is all(any(small <= large for large in group_sets(b)) for small in group_sets(a))


def test_cuts_takes_numbers_mappings_and_leaf():
    cuts = PETS.cuts([{"groups": 1}, np.int64(2), {"depth": 2}, "leaf"])
    assert [cut.name for cut in cuts] == ["1 groups", "2 groups", "3 groups", "leaf"]
    assert [cut.names for cut in cuts[:3]] == [("root",), ("animal", "car"), ("pet", "wild", "car")]
    assert PETS.cuts([]) == []


def test_partition_by_hand():
    cut = PETS.partition([0, 1, 1, 0], ["left", "right"], name="mine")
    assert (cut.name, cut.names, cut.nodes) == ("mine", ("left", "right"), None)
    assert cut.label_groups.tolist() == [0, 1, 1, 0, -1, -1, -1, -1, -1]


WIDE = from_nested({"top": {"mid": list("abcdefghij")}})
BAD_CUTS = {
    "neither": (lambda: PETS.cut(), "either depth= or groups="),
    "both": (lambda: PETS.cut(depth=1, groups=2), "either depth= or groups="),
    "depth below": (lambda: PETS.cut(depth=-1), "depth=-1: depths start at 0"),
    "depth bool": (lambda: PETS.cut(depth=True), "depth= must be a whole number; got True"),
    "depth float": (lambda: PETS.cut(depth=1.5), "depth= must be a whole number; got 1.5"),
    "depth text": (lambda: PETS.cut(depth="1"), "depth= must be a whole number; got '1'"),
    "groups bool": (lambda: PETS.cut(groups=True), "groups= must be a whole number; got True"),
    "groups float": (lambda: PETS.cut(groups=2.0), "groups= must be a whole number; got 2.0"),
    "groups text": (lambda: PETS.cut(groups="2"), "groups= must be a whole number; got '2'"),
    "groups 0": (lambda: PETS.cut(groups=0), "groups=0: the tree has 4 classes, so ask for 1 to 4"),
    "groups above": (lambda: PETS.cut(groups=5), "groups=5: the tree has 4 classes"),
    "first split": (lambda: WIDE.cut(groups=5), "groups=5: the first split already makes 10 groups; ask for 1 or for at least 10"),
    "no nodes": (lambda: PETS.cut_at([]), "no nodes do not cover every class"),
    "node above": (lambda: PETS.cut_at([9]), "there is no node number 9; they go from 0 to 8"),
    "node below": (lambda: PETS.cut_at([-1]), "there is no node number -1"),
    "node float": (lambda: PETS.cut_at([0.0]), "node numbers must be whole numbers; got"),
    "node twice": (lambda: PETS.cut_at([0, 0]), "'root', 'root' do not cover every class exactly once"),
    "not nested": (lambda: PETS.cuts([3, 2]), "cut '2 groups' does not refine '3 groups'; list nested cuts, coarse first"),
    "after leaf": (lambda: PETS.cuts(["leaf", 2]), "does not refine 'leaf'"),
    "unknown cut": (lambda: PETS.cuts([{"deph": 1}]), "cannot cut by {'deph': 1}; use a number of groups"),
    "empty cut": (lambda: PETS.cuts([{}]), "either depth= or groups="),
    "bool cut": (lambda: PETS.cuts([True]), "cannot cut by True"),
    "text cut": (lambda: PETS.cuts(["leaves"]), "cannot cut by 'leaves'"),
    "random other": (lambda: PETS.random_like(WIDE.leaf_cut(), 0), "gives groups to 10 classes; the hierarchy has 4"),
    "refines other": (lambda: PETS.leaf_cut().refines(WIDE.leaf_cut()), "cut 'leaf' has 4 classes, cut 'leaf' 10"),
    "partition short": (lambda: PETS.partition([0, 0], ["x"], name="p"), "cut 'p' gives groups to 2 classes; the hierarchy has 4"),
    "partition range": (lambda: PETS.partition([0, 0, 1, 0], ["x"], name="p"), "there is no group number 1; they go from 0 to 0"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CUTS.values(), ids=BAD_CUTS)
def test_bad_cuts(call, message):
    with pytest.raises(HierarchyError, match=message):
        call()


def test_flat_tree_has_two_cuts():
    flat = from_classes(["a", "b", "c"])
    assert [len(flat.cut(groups=groups)) for groups in (1, 3)] == [1, 3]
    with pytest.raises(HierarchyError, match="the first split already makes 3 groups"):
        flat.cut(groups=2)


def test_a_tree_may_end_at_a_cut():
    tree = from_nested({"x": {"u": ["a", "b"], "v": ["c"]}, "y": ["d", {"w": ["e", "f"]}]}, classes=list("fedcba"))
    cut = tree.cut(depth=2)
    above = tree.above(cut)
    assert above.classes == cut.names
    assert set(above.names) == {"root", "x", "y", *cut.names}
    for name in above.names:
        one, other = (each.names[each.parents[each.node(name)]] if name != "root" else None for each in (tree, above))
        assert one == other
    assert tree.above(tree.leaf_cut()).names == tree.names
    with pytest.raises(HierarchyError, match="no tree ends at them"):
        tree.above(tree.random_like(cut, 0))
