"""The tree against plain loops: structure, labels, ancestors, distances, and the trees made from it."""

import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import DISTANCES, Hierarchy, draw, from_classes, from_edges, from_nested

TREE = st.from_type(Hierarchy)
PETS = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf"]}}, "car": None})


def path_up(tree: Hierarchy, name: str) -> list[str]:
    """The oracle of most tests: names from a node to the root."""
    parent = tree.parents[tree.names.index(name)]
    return [name] + (path_up(tree, tree.names[parent]) if parent >= 0 else [])


def classes_below(tree: Hierarchy, name: str) -> set[str]:
    return {c for c in tree.classes if name in path_up(tree, c)}


@pytest.mark.long
@given(st.lists(st.integers(0, 99), max_size=23), st.randoms(use_true_random=False))
def test_any_order_of_nodes_gives_the_same_edges(drawn, random):
    parent_of = {"n0": None} | {f"n{i}": f"n{x % i}" for i, x in enumerate(drawn, start=1)}
    names = list(parent_of)
    random.shuffle(names)
    tree = Hierarchy(names, [-1 if parent_of[name] is None else names.index(parent_of[name]) for name in names])
    assert {name: tree.names[p] if p >= 0 else None for name, p in zip(tree.names, tree.parents, strict=True)} == parent_of
    assert list(tree.classes) == [name for name in names if name not in parent_of.values()]


@given(TREE)
def test_nodes_are_depth_first(tree):
    order, stack = [], [0]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(reversed([child for child in range(tree.num_nodes) if tree.parents[child] == node]))
    assert order == list(range(tree.num_nodes))


@given(TREE)
def test_depths_heights_and_ranges(tree):
    for node, name in enumerate(tree.names):
        assert tree.depths[node] == len(path_up(tree, name)) - 1
        below = classes_below(tree, name)
        assert tree.heights[node] == max(len(path_up(tree, c)) for c in below) - 1 - tree.depths[node]
        assert {tree.classes[i] for i in tree.leaves(node)} == below
        assert tree.stops[node] - tree.starts[node] == len(below)
        assert tree.is_leaf(node) is (name in tree.classes)
    assert tree.height == tree.heights[0]


@given(TREE)
def test_ranks_and_classes_are_inverse(tree):
    assert sorted(tree.leaf_order) == list(range(tree.num_classes))
    assert (tree.leaf_rank[tree.leaf_order] == np.arange(tree.num_classes)).all()
    assert [tree.names[node] for node in tree.leaf_nodes] == list(tree.classes)
    assert (tree.starts[tree.leaf_nodes] == tree.leaf_rank).all()


@given(TREE)
def test_children_and_ancestors(tree):
    for node, name in enumerate(tree.names):
        assert tree.children(node).tolist() == [i for i in range(tree.num_nodes) if tree.parents[i] == node]
        assert [tree.names[i] for i in tree.ancestors(node)] == path_up(tree, name)[::-1]


@given(TREE)
def test_labels_are_classes_then_inner_nodes(tree):
    inner = [name for name in tree.names if name not in tree.classes]
    assert [tree.label(name) for name in [*tree.classes, *inner]] == list(range(tree.num_nodes))
    assert [tree.names[node] for node in tree.label_nodes] == [*tree.classes, *inner]


def naive_lca(tree: Hierarchy, a: str, b: str) -> str:
    return next(name for name in path_up(tree, a) if name in path_up(tree, b))


@given(TREE)
def test_lca_of_all_pairs(tree):
    nodes = np.arange(tree.num_nodes)
    found = tree.lca(nodes[:, None], nodes)
    for a in nodes:
        for b in nodes:
            assert tree.names[found[a, b]] == naive_lca(tree, tree.names[a], tree.names[b])


def naive_distance(tree: Hierarchy, a: str, b: str, kind: str) -> float:
    top = naive_lca(tree, a, b)
    depth = {name: len(path_up(tree, name)) - 1 for name in (a, b, top)}
    if kind == "path":
        return depth[a] + depth[b] - 2 * depth[top]
    if a == b:
        return 0.0
    if kind == "wup":
        return 1 - 2 * depth[top] / (depth[a] + depth[b])
    if kind == "lca":
        return (max(len(path_up(tree, c)) for c in classes_below(tree, top)) - 1 - depth[top]) / tree.height
    return math.log2(len(classes_below(tree, top))) / math.log2(tree.num_classes)


@pytest.mark.parametrize("kind", DISTANCES)
@given(tree=TREE)
def test_distances_of_all_pairs(kind, tree):
    classes = np.arange(tree.num_classes)
    found = tree.distances(classes[:, None], classes, kind)
    assert found.dtype == np.float64
    expected = [[naive_distance(tree, a, b, kind) for b in tree.classes] for a in tree.classes]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_distances_take_scalars_lists_and_nothing():
    assert PETS.distances(0, [0, 1, 2]).shape == (3,)
    assert float(PETS.distances(np.int32(0), 1, "path")) == 2
    assert PETS.distances([], []).shape == (0,)


def test_single_node_tree_works():
    one = Hierarchy(["a"], [-1])
    assert [float(one.distances(0, 0, kind)) for kind in DISTANCES] == [0, 0, 0, 0]
    assert (one.height, one.cut(depth=0).names, one.cut(groups=1).names, one.label("a")) == (0, ("a",), ("a",), 0)


@given(TREE)
def test_arrays_cannot_be_written(tree):
    arrays = [tree.parents, tree.depths, tree.heights, tree.starts, tree.stops, tree.leaf_nodes, tree.leaf_order, tree.leaf_rank]
    arrays += [tree.label_nodes, tree.children(0), tree.leaves(0)]
    cuts = [tree.leaf_cut(), tree.cut(depth=0), tree.random_like(tree.leaf_cut(), 0)]
    arrays += [array for cut in cuts for array in (cut.groups, cut.label_groups, cut.nodes) if array is not None]
    for array in arrays:
        assert not array.flags.writeable


def test_inputs_are_not_kept():
    parents, meta = np.array([-1, 0, 0]), {"source": "me"}
    tree = Hierarchy(["r", "a", "b"], parents, meta=meta)
    parents[2], meta["source"] = 1, "you"
    assert tree.parents.tolist() == [-1, 0, 0]
    assert tree.meta == {"source": "me"}


@given(TREE, TREE)
def test_equality_digest_and_hash_agree(a, b):
    same = a.names == b.names and a.parents.tolist() == b.parents.tolist() and a.classes == b.classes
    assert (a == b) is same
    assert (a.digest == b.digest) is same
    twin = Hierarchy(a.names, a.parents, a.classes)
    assert twin == a
    assert hash(twin) == hash(a)
    assert pickle.loads(pickle.dumps(a)) == a


def test_class_order_is_part_of_equality():
    turned = PETS.with_classes(PETS.classes[::-1])
    assert turned != PETS
    assert turned != "a tree"
    assert turned.with_classes(PETS.classes) == PETS


@given(TREE, st.data())
def test_prune_keeps_the_paths_of_its_classes(tree, data):
    kept = data.draw(st.lists(st.sampled_from(tree.classes), min_size=1, unique=True))
    pruned = tree.prune(kept)
    assert list(pruned.classes) == kept
    assert set(pruned.names) == {name for c in kept for name in path_up(tree, c)}
    assert all(path_up(pruned, c) == path_up(tree, c) for c in kept)


@given(TREE)
def test_collapse_leaves_no_single_child(tree):
    small = tree.collapse()
    assert small.classes == tree.classes
    assert 1 not in np.bincount(small.parents[1:], minlength=small.num_nodes)
    single = {name for i, name in enumerate(tree.names) if len(tree.children(i)) == 1}
    assert set(small.names) == set(tree.names) - single
    assert all(path_up(small, c) == [name for name in path_up(tree, c) if name not in single] for c in tree.classes)
    assert small.collapse() == small


def test_titles_and_meta_survive_pruning():
    tree = from_edges([("r", "x"), ("x", "a"), ("r", "b")], titles={"a": "an a"}, meta={"source": "me"})
    for other in (tree.prune(["a"]), tree.collapse(), tree.with_classes(["b", "a"])):
        assert other.titles[other.node("a")] == "an a"
        assert other.meta == {"source": "me"}


def test_names_are_found():
    assert "pet" in PETS
    assert "pets" not in PETS
    assert PETS.names[PETS.node("pet")] == "pet"
    assert repr(PETS) == "Hierarchy(4 classes, 9 nodes, height 4)"


BAD_TREES = {
    "no nodes": ([], [], None, "the hierarchy has no nodes"),
    "empty name": (["r", " "], [-1, 0], None, "a node has an empty name"),
    "twice": (["r", "a", "a"], [-1, 0, 0], None, "used twice: 'a'"),
    "two roots": (["r", "a"], [-1, -1], None, "these have no parent: 'r', 'a'"),
    "cycle": (["r", "a", "b"], [-1, 2, 1], None, "form a cycle: 'a' → 'b' → 'a'; remove one"),
    "own parent": (["r", "a"], [-1, 1], None, "form a cycle: 'a' → 'a'"),
    "no root": (["a", "b"], [1, 0], None, "form a cycle: 'a' → 'b' → 'a'"),
    "too few parents": (["r", "a"], [-1], None, "2 names need as many parents; got 1"),
    "outside": (["r", "a"], [-1, 2], None, "outside the list of names, for 'a'"),
    "below -1": (["r", "a"], [-1, -2], None, "outside the list of names, for 'a'"),
    "float": (["r", "a"], [-1, 0.0], None, "parents must be positions"),
    "huge": (["r", "a"], [-1, 10**30], None, "parents must be positions"),
    "surrogate": (["r", "caf\udce9"], [-1, 0], None, "cannot be written as UTF-8, near 'rcaf"),
    "inner class": (["r", "a"], [-1, 0], ["r"], "classes that are not leaves of the tree: 'r'"),
    "unknown class": (["r", "cat", "b"], [-1, 0, 0], ["cats", "b"], "not leaves of the tree: 'cats'; did you mean 'cat'"),
    "missing class": (["r", "a", "b"], [-1, 0, 0], ["a"], "leaves of the tree that are no class: 'b'"),
    "class twice": (["r", "a"], [-1, 0], ["a", "a"], "classes listed twice: 'a'"),
}


@pytest.mark.parametrize(("names", "parents", "classes", "message"), BAD_TREES.values(), ids=BAD_TREES)
def test_bad_trees(names, parents, classes, message):
    with pytest.raises(HierarchyError, match=message):
        Hierarchy(names, parents, classes)


def test_titles_need_one_each():
    with pytest.raises(HierarchyError, match="2 names need as many titles; got 1"):
        Hierarchy(["r", "a"], [-1, 0], titles=["x"])
    with pytest.raises(HierarchyError, match="cannot be written as UTF-8"):
        Hierarchy(["r", "a"], [-1, 0], titles=["r", "caf\udce9"])


BAD_CALLS = {
    "unknown node": (lambda t: t.node("cta"), "no node is called 'cta'; did you mean 'cat'"),
    "unknown label": (lambda t: t.label("zebra"), "no node is called 'zebra'"),
    "unknown distance": (lambda t: t.distances(0, 1, "lcas"), "unknown distance 'lcas'; choose one of lca.*did you mean 'lca'"),
    "class above": (lambda t: t.distances([0, 4], 1), "there is no class number 4; they go from 0 to 3"),
    "class below": (lambda t: t.distances(0, -1), "there is no class number -1"),
    "class float": (lambda t: t.distances(0.0, 1), "class numbers must be whole numbers; got 0.0"),
    "class bool": (lambda t: t.distances(True, 1), "class numbers must be whole numbers; got True"),
    "lca above": (lambda t: t.lca(9, 1), "there is no node number 9; they go from 0 to 8"),
    "children below": (lambda t: t.children(-1), "there is no node number -1"),
    "ancestors above": (lambda t: t.ancestors(99), "there is no node number 99"),
    "leaves float": (lambda t: t.leaves(1.0), "node must be a whole number; got 1.0"),
    "is_leaf text": (lambda t: t.is_leaf("cat"), "node must be a whole number; got 'cat'"),
    "prune unknown": (lambda t: t.prune(["cat", "dgo"]), "cannot prune to 'dgo': not classes of this hierarchy; did you mean 'dog'"),
    "prune inner": (lambda t: t.prune(["pet"]), "cannot prune to 'pet'"),
    "prune nothing": (lambda t: t.prune([]), "cannot prune to no classes"),
    "prune twice": (lambda t: t.prune(["cat", "cat"]), "classes listed twice: 'cat'"),
    "with_classes": (lambda t: t.with_classes(["cat"]), "leaves of the tree that are no class: 'car', 'dog', 'wolf'"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls(call, message):
    with pytest.raises(HierarchyError, match=message):
        call(PETS)


def text_of(tree) -> list[str]:
    from rich.console import Console

    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(tree)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_drawing():
    assert text_of(PETS) == [
        "root  4 classes",
        "├── animal  3 classes",
        "│   ├── pet  2 classes",
        "│   │   ├── cat",
        "│   │   └── dog",
        "│   └── wild  1 class",
        "│       └── big  1 class",
        "│           └── wolf",
        "└── car",
    ]
    assert text_of(draw(PETS, max_depth=1)) == ["root  4 classes", "├── animal  3 classes", "└── car"]
    assert text_of(draw(PETS, max_depth=1, max_children=1)) == ["root  4 classes", "├── animal  3 classes", "└── … 1 more"]
    titled = Hierarchy(["[r]", "n1"], [-1, 0], titles=["top", "n1"])
    assert text_of(titled) == ["[r]  top  1 class", "└── n1"]


def test_import_is_free():
    code = "import sys, hiercnn.hierarchy; print(sorted({'torch', 'nltk', 'rich', 'yaml', 'timm', 'triton'} & set(sys.modules)))"
    repository = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_from_classes_avoids_taken_root_names():
    tree = from_classes(["root", "(root)"])
    assert tree.names == ("((root))", "root", "(root)")


def test_nothing_of_a_tree_can_be_changed():
    tree = from_nested({"a": ["b", "c"], "d": None}, meta={"source": "here"})
    with pytest.raises(AttributeError, match="a Hierarchy cannot be changed"):
        tree.names = ("x",)
    with pytest.raises(AttributeError, match="a Hierarchy cannot be changed"):
        tree.anything = 1
    tree.meta["source"] = "elsewhere"
    assert tree.meta == {"source": "here"}
    assert pickle.loads(pickle.dumps(tree)) == tree
