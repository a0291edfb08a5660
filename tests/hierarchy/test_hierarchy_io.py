"""Files: what is written is read back, every bad file is refused in clear words, and large trees are quick."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import Hierarchy, from_dict, from_nested, from_rows, read_cuts, read_hierarchy, save_hierarchy, to_dict

TREE = st.from_type(Hierarchy)
PETS = from_nested({"pet": ["cat", "dog"], "car": None}, ["dog", "car", "cat"], meta={"source": "me"})


@given(TREE)
def test_dict_round_trip(tree):
    back = from_dict(json.loads(json.dumps(to_dict(tree))))
    assert back == tree
    assert to_dict(back) == to_dict(tree)


@pytest.mark.long
@given(TREE, st.integers(0, 99))
def test_file_round_trip_with_cuts(tmp_path_factory, tree, seed):
    path = tmp_path_factory.mktemp("trees") / "tree.json"
    tree = Hierarchy(tree.names, tree.parents, tree.classes, titles=[f"Título {n}" for n in tree.names], meta={"source": "me"})
    cuts = [tree.cut(depth=1), tree.random_like(tree.cut(depth=1), seed), tree.leaf_cut()]
    save_hierarchy(tree, path, cuts)
    back = read_hierarchy(path)
    assert (back, back.titles, back.meta) == (tree, tree.titles, tree.meta)
    for cut, read in zip(cuts, read_cuts(path, back), strict=True):
        assert (read.name, read.names, read.nodes is None) == (cut.name, cut.names, cut.nodes is None)
        assert read.groups.tolist() == cut.groups.tolist()
        assert read.label_groups.tolist() == cut.label_groups.tolist()
        assert not read.groups.flags.writeable
    assert [file.name for file in path.parent.iterdir()] == ["tree.json"]


def test_to_dict_gives_a_copy():
    document = to_dict(PETS)
    document["meta"]["source"] = "you"
    document["names"].clear()
    assert PETS.meta == {"source": "me"}
    assert from_dict(to_dict(PETS)) == PETS


def test_files_without_cuts_have_none(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(to_dict(PETS)))
    assert read_cuts(path, PETS) == []


def test_saving_where_there_is_no_folder(tmp_path):
    with pytest.raises(HierarchyError, match=r"cannot write hierarchy .*tree\.json: No such file"):
        save_hierarchy(PETS, tmp_path / "none" / "tree.json")


# Every one of these files holds: r over (x over (a, b)) and c.
SAME_TREE = {
    "edges.csv": "parent,child\nr,x\nx,a\nx,b\nr,c\n",
    "bom.csv": "\ufeffparent,child\r\nr,x\r\nx,a\r\nx,b\r\nr,c\r\n",
    "spaces.csv": "parent, child\n\nr, x\n x,a\nx ,b\n,\nr,c\n",
    "turned.csv": 'child,parent\n"x",r\na,"x"\nb,x\nc,r\n',
    "rows.csv": "top,group,class\nr,x,a\nr,x,b\nr,,c\n",
    "short.csv": "top,group,class\nr,x,a\nr,x,b\nr,c\n",
    "repeated.csv": "top,group,class\nr,x,a\nr,x,b\nr,c,c\n",
    "nested.json": '{"r": {"x": ["a", "b"], "c": null}}',
    "nested.yaml": "r:\n  x: [a, b]\n  c:\n",
    "lists.yml": "r:\n- x:\n  - a\n  - b\n- c\n",
    "upper.YAML": "r: {x: {a: null, b: ~}, c: {}}\n",
}


@pytest.mark.parametrize("name", SAME_TREE)
def test_reading(tmp_path, name):
    (tmp_path / name).write_text(SAME_TREE[name], encoding="utf-8", newline="")
    assert read_hierarchy(tmp_path / name) == from_nested({"r": {"x": ["a", "b"], "c": None}})


def test_columns_are_picked_coarse_to_fine(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('id,class,group\n0,a,"x, y"\n1,b,"x, y"\n2,c,z\n')
    assert read_hierarchy(path, columns=["group", "class"]).names == ("root", "x, y", "a", "b", "z", "c")


def test_columns_make_rows_of_an_edge_file(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("parent,child\na,b\nc,d\n")
    assert read_hierarchy(path, columns=["child"]).classes == ("b", "d")


def test_parent_rule_reaches_the_edges(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text("parent,child\nr,a\na,b\nr,b\nb,x\n")
    assert read_hierarchy(path, parent_rule="longest").names == ("r", "a", "b", "x")


def test_yaml_names_stay_as_written(tmp_path):
    path = tmp_path / "tree.yaml"
    path.write_text("yes: [no, on, 007, 1.10, 12:30, 2020-13-45, 1e3, 'null', .nan]\n")
    tree = read_hierarchy(path)
    assert tree.names[0] == "yes"
    assert tree.classes == ("no", "on", "007", "1.10", "12:30", "2020-13-45", "1e3", "null", ".nan")


def test_yaml_tags_run_nothing(tmp_path):
    path = tmp_path / "tree.yaml"
    path.write_text("a: !!python/object/apply:os.system [b, c]\n")
    assert read_hierarchy(path).classes == ("b", "c")


def test_csv_names_may_hold_newlines(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('group,class\n"x\ny",a\u2028b\n')
    assert read_hierarchy(path).names == ("x\ny", "a\u2028b")


def ours(**changes) -> str:
    document = {"format": "hiercnn.hierarchy/1", "names": ["r", "a", "b"], "parents": [-1, 0, 0], "classes": ["a", "b"]} | changes
    return json.dumps({key: value for key, value in document.items() if value != "gone"})


BAD_FILES = {
    "suffix.txt": ("a", r"cannot read a hierarchy from '\.txt'; use \.json"),
    "empty.json": ("", "not valid JSON: Expecting value: line 1"),
    "list.json": ("[1, 2]", "expected a nested mapping"),
    "deep.json": ('{"a":' * 100_000, "nested too deeply; write the tree as a CSV"),
    "digits.json": ('{"a": [' + "1" * 5000 + "]}", "not valid JSON: Exceeds the limit"),
    "nan.json": ('{"a": [NaN]}', "below 'a': nan is no name"),
    "twice.json": ('{"a": ["x"], "a": ["y"]}', "'a' stands twice in one mapping; merge the two"),
    "bytes.json": (b'{"a": ["caf\xe9"]}', r"is not UTF-8 \(line 1, byte 0xe9\); save it as UTF-8"),
    "utf16.csv": ("a,b\nx,y".encode("utf-16"), r"is not UTF-8 \(line 1, byte 0xff\)"),
    "latin.csv": (b"a,b\nx,y\nx,caf\xe9\n", r"is not UTF-8 \(line 3, byte 0xe9\)"),
    "version.json": (ours(format="hiercnn.hierarchy/2"), "not a hierarchy of the format 'hiercnn.hierarchy/1'"),
    "no_names.json": (ours(names="gone"), "not a hierarchy file: 'names' missing or of the wrong kind"),
    "null_name.json": (ours(names=[None, "a", "b"]), "'names' missing or of the wrong kind"),
    "list_name.json": (ours(names=["r", ["a"], "b"]), "'names' missing or of the wrong kind"),
    "float_parent.json": (ours(parents=[-1, 0.0, 0]), "'parents' missing or of the wrong kind"),
    "bool_parent.json": (ours(parents=[-1, False, 0]), "'parents' missing or of the wrong kind"),
    "outside.json": (ours(parents=[-1, 0, 3]), "outside the list of names, for 'b'"),
    "cycle.json": (ours(parents=[-1, 2, 1]), "form a cycle: 'a' → 'b' → 'a'"),
    "classes.json": (ours(classes=["a"]), "no class: 'b'"),
    "class_numbers.json": (ours(classes=[1, 2]), "'classes' missing or of the wrong kind"),
    "titles.json": (ours(titles={}), "'titles' missing or of the wrong kind"),
    "few_titles.json": (ours(titles=["r"]), "3 names need as many titles; got 1"),
    "meta.json": (ours(meta=[1]), "'meta' missing or of the wrong kind"),
    "surrogate.json": (ours(names=["r", "\ud800", "b"]), "cannot be written as UTF-8"),
    "empty.yaml": ("", "expected a nested mapping"),
    "text.yaml": ("just text", "expected a nested mapping"),
    "tab.yaml": ("a:\n\t- b", "not valid YAML: while scanning"),
    "two.yaml": ("a: [b]\n---\nc: [d]", "not valid YAML: expected a single document"),
    "deep.yaml": ("[" * 1000, "nested too deeply"),
    "deep_map.yaml": ("\n".join(" " * i + f"a{i}:" for i in range(1500)), "nested too deeply"),
    "twice.yaml": ("a: [x]\na: [y]", "'a' stands twice in one mapping"),
    "key.yaml": ("? [a, b]\n: c", "a key is a list or mapping; names are text"),
    "self.yaml": ("a: &a {x: *a}", "not valid YAML: found unconstructable recursive node"),
    "bomb.yaml": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "'x' has two parents|is no name"),
    "null.yaml": ("a: [~]", "below 'a': None is no name"),
    "empty.csv": ("", "the file is empty"),
    "blank.csv": ("\n\n,,\n", "the file is empty"),
    "header.csv": ("group,class\n", "no rows: the hierarchy is empty"),
    "edge_header.csv": ("parent,child\n", "no edges: the hierarchy is empty"),
    "ragged.csv": ("group,class\nx,a\nx,b,c\n", "line 3 has 3 cells, the header 2; put names that hold a comma in quotes"),
    "columns_twice.csv": ("a,b,a\nx,y,z\n", "columns named twice: 'a'"),
    "semicolons.csv": ("group;class\nx;a\n", "one column, 'group;class'; separate the columns with commas"),
    "open_quote.csv": ('group,class\n"x,a\nx,b\n', "not valid CSV, line 3: unexpected end of data"),
    "stray_quote.csv": ('group,class\nx,"a"b\n', "not valid CSV, line 2"),
    "huge_cell.csv": ("group,class\nx," + "y" * 200_000, "not valid CSV, line 2: field larger than field limit"),
    "no_parent.csv": ("parent,child\n\n,a\na,b\n", "line 3 has no parent; fill it in"),
    "no_child.csv": ("parent,child\na\n", "line 2 has no child"),
    "two_parents.csv": ("parent,child\na,x\n\nb,x\n", r"'x' has two parents \('a', 'b'\); pick one with parent_rule= or edit line 4"),
    "class_twice.csv": ("group,class\n\nx,a\ny,a\n", "class 'a' stands in lines 3 and 4"),
    "group_twice.csv": ("top,group,class\nr,x,a\ns,x,b\n", r"'x' has two parents \('r' in line 2, 's' in line 3\)"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(HierarchyError, match=message) as caught:
        read_hierarchy(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(HierarchyError, match=r"cannot read hierarchy .*none\.json: No such file"):
        read_hierarchy(tmp_path / "none.json")
    with pytest.raises(HierarchyError, match=r"cannot read hierarchy .*folder\.csv: Is a directory"):
        read_hierarchy(tmp_path / "folder.csv")


def test_missing_relative_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HierarchyError) as caught:
        read_hierarchy("data/none.csv")
    assert f"No such file or directory in {tmp_path}; start where it is" in str(caught.value)


def test_options_that_do_not_apply(tmp_path):
    (tmp_path / "rows.csv").write_text("group,class\nx,a\n")
    (tmp_path / "tree.yaml").write_text("x: a")
    with pytest.raises(HierarchyError, match=r"no column 'clas'; did you mean 'class'\?; its columns are 'group', 'class'"):
        read_hierarchy(tmp_path / "rows.csv", columns=["group", "clas"])
    with pytest.raises(HierarchyError, match="parent_rule= is for files with the columns parent and child"):
        read_hierarchy(tmp_path / "rows.csv", parent_rule="longest")
    with pytest.raises(HierarchyError, match=r"columns= and parent_rule= are for \.csv files"):
        read_hierarchy(tmp_path / "tree.yaml", columns=["x"])


def test_from_dict_refuses_what_is_no_mapping():
    with pytest.raises(HierarchyError, match="not a hierarchy of the format"):
        from_dict([])


BAD_CUTS = {
    "nothing": ("", "not valid JSON"),
    "list": ("[]", "expected a nested mapping"),
    "number": ('{"cuts": 5}', "'int' object is not iterable"),
    "no name": ('{"cuts": [{"tree": true}]}', "'names'"),
    "unknown": ('{"cuts": [{"tree": true, "name": "c", "names": ["cats"]}]}', "no node is called 'cats'; did you mean 'cat'"),
    "no cover": ('{"cuts": [{"tree": true, "name": "c", "names": ["cat"]}]}', "do not cover every class"),
    "other size": ('{"cuts": [{"tree": false, "name": "c", "names": ["g"], "groups": [0]}]}', "to 1 classes; the hierarchy has 3"),
    "other group": ('{"cuts": [{"tree": false, "name": "c", "names": ["g"], "groups": [0, 0, 1]}]}', "there is no group number 1"),
    "float": ('{"cuts": [{"tree": false, "name": "c", "names": ["g"], "groups": [0, 0.5, 0]}]}', "must be whole numbers"),
}


@pytest.mark.parametrize(("text", "message"), BAD_CUTS.values(), ids=BAD_CUTS)
def test_bad_cuts_in_files(tmp_path, text, message):
    path = tmp_path / "tree.json"
    path.write_text(text)
    with pytest.raises(HierarchyError, match=rf"tree\.json holds no cuts of this hierarchy: .*{message}"):
        read_cuts(path, PETS)


def test_cuts_of_a_missing_file(tmp_path):
    with pytest.raises(HierarchyError, match="No such file"):
        read_cuts(tmp_path / "none.json", PETS)


def seconds_for_a_large_tree(rows, path) -> float:
    start = time.process_time()  # a busy neighbour does not count
    tree = from_rows(rows)
    cuts = [tree.cut(depth=1), tree.cut(groups=1000)]
    save_hierarchy(tree, path, cuts)
    return time.process_time() - start


@pytest.mark.long
def test_a_hundred_thousand_classes_take_two_seconds(tmp_path):
    rows = [(f"a{i // 5000}", f"b{i // 50}", f"c{i}") for i in range(100_000)]
    assert any(seconds_for_a_large_tree(rows, tmp_path / "tree.json") < 2 for _ in range(3))
