"""Builders: what each makes, what each refuses and in which words, and that none is quadratic."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import Hierarchy, from_classes, from_edges, from_folders, from_nested, from_rows, to_nested

TREE = st.from_type(Hierarchy)
MANY = 100_000


def edges_of(tree: Hierarchy) -> list[tuple[str, str]]:
    return [(tree.names[parent], name) for name, parent in zip(tree.names, tree.parents, strict=True) if parent >= 0]


@given(TREE, st.randoms(use_true_random=False))
def test_edges_give_the_tree_back(tree, random):
    edges = edges_of(tree) * 2  # an edge given twice counts once
    if edges:
        random.shuffle(edges)
        back = from_edges(edges, tree.classes)
        assert set(edges_of(back)) == set(edges_of(tree))
        assert back.classes == tree.classes


@given(TREE)
def test_nested_mappings_and_rows_give_the_tree_back(tree):
    def below(node):
        return {tree.names[child]: below(child) for child in tree.children(node).tolist()} or None

    assert from_nested({"n0": below(0)}, tree.classes) == tree
    assert to_nested(tree) == {"n0": below(0) or {}}
    rows = [[tree.names[node] for node in tree.ancestors(leaf)] for leaf in tree.leaf_nodes]
    assert set(edges_of(from_rows(rows))) == set(edges_of(tree))
    assert from_rows(rows).classes == tree.classes


@given(TREE)
def test_folders_give_the_tree_back(tmp_path_factory, tree):
    top = tmp_path_factory.mktemp("tree")
    for leaf in tree.leaf_nodes:
        (top / "/".join(tree.names[node] for node in tree.ancestors(leaf))).mkdir(parents=True)
    assert set(edges_of(from_folders(top))) == set(edges_of(tree))


def test_several_tops_are_joined():
    assert from_edges([("a", "b"), ("c", "d")]).names == ("root", "a", "b", "c", "d")
    assert from_edges([("root", "b"), ("(root)", "d")]).names == ("((root))", "root", "b", "(root)", "d")
    assert from_rows([["a", "b"], ["c"]]).names == ("root", "a", "b", "c")
    assert from_classes(["a", "b"]).names == ("root", "a", "b")


def test_rows_may_be_uneven():
    tree = from_rows([["x", "a"], ["x", "", "b"], ["x", None, " c "], ["d", "d", "d"], [1, 2]])
    assert edges_of(tree) == [("root", "x"), ("x", "a"), ("x", "b"), ("x", "c"), ("root", "d"), ("root", "1"), ("1", "2")]
    assert tree.classes == ("a", "b", "c", "d", "2")


def test_nested_values_may_be_mappings_lists_or_names():
    tree = from_nested({"a": {"b": ["c", {"d": ["e"]}, 7]}, "f": "g", "h": None, "i": [], "j": {}})
    assert tree.classes == ("c", "e", "7", "g", "h", "i", "j")


def test_numbers_are_names():
    assert from_classes([0, 1]).classes == ("0", "1")
    assert from_edges([(0, 1), (0, 2)], [2, 1]).classes == ("2", "1")


DIAMOND = [
    ("r", "long"),
    ("long", "longer"),
    ("longer", "x"),
    ("r", "short"),
    ("short", "x"),
    ("short", "y"),
    ("r", "barren"),
    ("barren", "y"),
]


def test_parent_rules():
    longest, shortest = (from_edges(DIAMOND, parent_rule=rule) for rule in ("longest", "shortest"))
    assert set(edges_of(longest)) == {("r", "long"), ("long", "longer"), ("longer", "x"), ("r", "barren"), ("barren", "y")}
    assert set(edges_of(shortest)) == {("r", "short"), ("short", "x"), ("r", "barren"), ("barren", "y")}
    assert longest.meta == {"parent_rule": "longest"}


def test_parent_rule_ties_go_to_the_smallest_name():
    for edges in ([("r", "b"), ("r", "a"), ("b", "x"), ("a", "x")], [("r", "a"), ("r", "b"), ("a", "x"), ("b", "x")]):
        assert from_edges(edges, parent_rule="longest").names == ("r", "a", "x")


def test_folders_skip_files_and_hidden_folders_and_follow_links(tmp_path):
    for folder in ("b/two", "b/one", "a", ".cache/deep"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    (tmp_path / "set" / "a" / "image.png").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    tree = from_folders(tmp_path / "set")
    assert tree.names == ("root", "a", "b", "one", "two", "linked")
    assert tree.classes == ("a", "one", "two", "linked")


def test_bad_folders(tmp_path):
    with pytest.raises(HierarchyError, match="nowhere is not a folder"):
        from_folders(tmp_path / "nowhere")
    with pytest.raises(HierarchyError, match="has no sub-folders, so there are no classes"):
        from_folders(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(HierarchyError, match=r"two folders below .* are called '(a|loop)'; names must be unique"):
        from_folders(tmp_path)


def test_folder_names_that_are_not_utf8(tmp_path):
    try:
        os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    except OSError:
        pytest.skip("needs a file system that takes names that are not UTF-8")
    with pytest.raises(HierarchyError, match=r"cannot be written as UTF-8, near .*rename that class or folder"):
        from_folders(tmp_path)


BAD_INPUT = {
    "no classes": (lambda: from_classes([]), "the hierarchy has no classes"),
    "same class": (lambda: from_classes(["a", "a"]), "used twice: 'a'"),
    "no edges": (lambda: from_edges([]), "no edges: the hierarchy is empty"),
    "empty parent": (lambda: from_edges([("a", "b"), ("", "c")]), "edge 2: '' is no name"),
    "None child": (lambda: from_edges([("a", None)]), "edge 1: None is no name; names are text"),
    "two parents": (lambda: from_edges([("a", "x"), ("b", "x")]), r"'x' has two parents \('a', 'b'\); pick one with parent_rule="),
    "several": (lambda: from_edges([("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")]), r"\(2 nodes have several parents\)"),
    "bad rule": (lambda: from_edges([("a", "b")], parent_rule="longst"), "unknown parent_rule 'longst'; .* did you mean 'longest'"),
    "cycle": (lambda: from_edges([("r", "a"), ("a", "b"), ("b", "c"), ("c", "b")], parent_rule="longest"), "a cycle: 'b' → 'c' → 'b'"),
    "cycle no rule": (lambda: from_edges([("a", "b"), ("b", "a")]), "form a cycle: 'a' → 'b' → 'a'"),
    "edge classes": (lambda: from_edges([("a", "b"), ("a", "c")], ["b"]), "leaves of the tree that are no class: 'c'"),
    "empty nested": (lambda: from_nested({}), "the nested mapping is empty"),
    "nested twice": (lambda: from_nested({"a": ["x"], "b": ["x"]}), r"'x' has two parents \('a', 'b'\)"),
    "nested top": (lambda: from_nested({"a": ["b"], "b": None}), r"'b' has two parents \('a', the top\)"),
    "nested bool": (lambda: from_nested({"a": [True]}), "below 'a': True is no name"),
    "nested float": (lambda: from_nested({"a": 1.5}), "below 'a': 1.5 is no name"),
    "nested list": (lambda: from_nested({"a": [["b"]]}), r"below 'a': \['b'\] is no name"),
    "nested None": (lambda: from_nested({None: ["b"]}), "below the top: None is no name"),
    "nested blank": (lambda: from_nested({"a": [" "]}), "below 'a': ' ' is no name"),
    "no rows": (lambda: from_rows([]), "no rows: the hierarchy is empty"),
    "empty row": (lambda: from_rows([["a"], ["", " "]]), "row 2 names no class; remove it or fill it in"),
    "class twice": (lambda: from_rows([["a", "x"], ["b", "y"], ["a", "x"]]), "class 'x' stands in rows 1 and 3"),
    "row parents": (lambda: from_rows([["a", "m", "x"], ["b", "m", "y"]]), r"'m' has two parents \('a' in row 1, 'b' in row 2\)"),
    "row top": (lambda: from_rows([["a", "x"], ["b", "a", "y"]]), r"'a' has two parents \(the top in row 1, 'b' in row 2\)"),
    "row comes back": (lambda: from_rows([["a", "b", "a"]]), r"'a' has two parents \(the top in row 1, 'b' in row 1\)"),
    "class is group": (lambda: from_rows([["a"], ["a", "b"]]), "'a' is the class of row 1 but a group elsewhere"),
    "row NaN": (lambda: from_rows([["a", float("nan")]]), "row 1: nan is no name"),
}


@pytest.mark.parametrize(("call", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input(call, message):
    with pytest.raises(HierarchyError, match=message):
        call()


def chain() -> Hierarchy:
    return from_edges((f"n{i}", f"n{i + 1}") for i in range(MANY))


def comb() -> Hierarchy:
    return from_edges(edge for i in range(MANY // 4) for edge in ((f"n{i}", f"n{i + 1}"), (f"n{i}", f"c{i}")))


def nested_chain() -> Hierarchy:
    nested: dict = {}
    for i in range(MANY // 4):
        nested = {f"n{i}": nested}
    return from_nested(nested)


def failing(call) -> None:
    with pytest.raises(HierarchyError):
        call()


def prune_deep_comb() -> None:
    tree = comb()
    assert tree.prune(tree.classes[-1000:]).num_classes == 1000
    assert tree.collapse().num_classes == tree.num_classes
    assert len(tree.cut(groups=1000)) == 1000


SLOW_IF_QUADRATIC = {
    "chain": chain,
    "nested chain": nested_chain,
    "row chain": lambda: from_rows([[f"n{i}" for i in range(MANY)]]),
    "deep comb": prune_deep_comb,
    "cycle": lambda: failing(lambda: from_edges((f"n{i}", f"n{(i + 1) % MANY}") for i in range(MANY))),
    "cycle by rule": lambda: failing(lambda: from_edges(((f"n{i}", f"n{(i + 1) % MANY}") for i in range(MANY)), parent_rule="longest")),
    "many parents": lambda: failing(lambda: from_edges((f"n{i}", "x") for i in range(MANY))),
    "many classes twice": lambda: failing(lambda: from_classes(range(MANY // 4)).with_classes([*range(MANY // 4)] * 2)),
}


@pytest.mark.parametrize("build", SLOW_IF_QUADRATIC.values(), ids=SLOW_IF_QUADRATIC)
def test_nothing_is_quadratic(build):
    start = time.process_time()
    build()
    assert time.process_time() - start < 5  # about 0.5 s; the quadratic forms took minutes
