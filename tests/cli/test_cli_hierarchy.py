"""`hiercnn hierarchy`."""

import json

import pytest

from hiercnn.hierarchy import builtin_names, read_cuts, read_hierarchy

ANIMALS = {"pets": ["cat", "dog"], "wild": ["lynx", "wolf"]}


@pytest.fixture
def animals(tmp_path):
    """A CSV file of two groups of two classes."""
    path = tmp_path / "animals.csv"
    path.write_text("group,name\n" + "\n".join(f"{group},{name}" for group, names in ANIMALS.items() for name in names))
    return path


def test_show_draws_the_tree(command, animals):
    code, out, _ = command("hierarchy", "show", animals, "--columns", "group,name")
    assert code == 0
    assert out.index("pets") < out.index("cat") < out.index("dog") < out.index("wild") < out.index("wolf")


def test_show_stops_at_a_depth(command):
    out = command("hierarchy", "show", "synthetic", "--depth", 1).out
    assert len(out.splitlines()) == 4  # the root and three families


def test_check_counts(command, animals):
    code, out, _ = command("hierarchy", "check", animals, "--columns", "group,name")
    assert code == 0
    assert out.splitlines()[0] == "sound: 4 classes, 7 nodes, leaf depth 2 to 2"
    assert "groups at depth 1 to 2: 2, 4" in out


def test_check_of_a_folder(command, tmp_path):
    for group, names in ANIMALS.items():
        for name in names:
            (tmp_path / "images" / group / name).mkdir(parents=True)
            (tmp_path / "images" / group / name / "1.png").touch()
    assert "sound: 4 classes, 7 nodes" in command("hierarchy", "check", tmp_path / "images").out


def test_check_tells_single_children(command, tmp_path):
    (tmp_path / "tree.csv").write_text("group,name\npets,cat\nwild,lynx\nwild,wolf\n")
    assert "1 inner nodes have a single child" in command("hierarchy", "check", tmp_path / "tree.csv", "--columns", "group,name").out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cifar1000", "did you mean 'cifar100'?"),
        ("nowhere.csv", "nowhere.csv"),
    ],
)
def test_unknown_sources(command, source, message):
    code, out, err = command("hierarchy", "check", source)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_two_parents_are_told(command, tmp_path):
    (tmp_path / "tree.csv").write_text("group,name\npets,cat\nwild,cat\nwild,wolf\n")
    code, _, err = command("hierarchy", "check", tmp_path / "tree.csv")
    assert code == 2
    assert "cat" in err


def test_cut_prints_groups_and_writes_the_file(command, animals, tmp_path):
    code, out, _ = command("hierarchy", "cut", animals, "--columns", "group,name", "--groups", 2, "--out", tmp_path / "tree.json")
    assert code == 0
    assert out.splitlines() == ["pets (2): cat, dog", "wild (2): lynx, wolf", f"wrote {tmp_path / 'tree.json'}: 4 classes, 7 nodes"]
    tree = read_hierarchy(tmp_path / "tree.json")
    assert [cut.names for cut in read_cuts(tmp_path / "tree.json", tree)] == [("pets", "wild")]


def test_cut_by_depth(command):
    assert len(command("hierarchy", "cut", "synthetic", "--depth", 2).out.splitlines()) == 9


def test_cut_needs_one_wish(command):
    code, _, err = command("hierarchy", "cut", "cifar100")
    assert code == 2
    assert "say where to cut: --groups or --depth" in err


def test_list(command):
    out = command("hierarchy", "list").out
    assert [line.split()[0] for line in out.splitlines()] == builtin_names()
    assert "100 classes" in out


def test_build_from_wordnet(command, wordnet, tmp_path):
    (tmp_path / "names.txt").write_text("cat.n.01\n\nwolf.n.01\n")
    code, out, _ = command("hierarchy", "build", "dog.n.01", f"@{tmp_path / 'names.txt'}", "--out", tmp_path / "tree.json", "--collapse")
    assert code == 0
    assert out.startswith(f"wrote {tmp_path / 'tree.json'}: 3 classes, ")
    tree = read_hierarchy(tmp_path / "tree.json")
    assert len(tree.classes) == 3
    assert all(len(tree.children(node)) != 1 for node in range(tree.num_nodes))


def test_build_from_a_missing_list(command, tmp_path):
    code, _, err = command("hierarchy", "build", "@nowhere.txt", "--out", tmp_path / "tree.json")
    assert code == 2
    assert "cannot read class names from nowhere.txt" in err


def test_cut_into_a_folder_that_is_not_there(command, animals, tmp_path):
    code, _, err = command("hierarchy", "cut", animals, "--columns", "group,name", "--depth", 1, "--out", tmp_path / "no" / "tree.json")
    assert code == 2
    assert "cannot write" in err


def test_written_tree_is_json(command, tmp_path):
    command("hierarchy", "cut", "synthetic", "--groups", 3, "--out", tmp_path / "tree.json")
    assert json.loads((tmp_path / "tree.json").read_text())["classes"]


def test_out_never_overwrites_and_is_json(command, tmp_path):
    (tmp_path / "tree.json").write_text("mine")
    for name, message in (("tree.json", "is there already; name a new file"), ("tree.csv", "trees are written as .json")):
        code, _, error = command("hierarchy", "cut", "cifar10", "--groups", "7", "--out", str(tmp_path / name))
        assert code == 2
        assert message in error
    assert (tmp_path / "tree.json").read_text() == "mine"


def test_columns_are_for_files(command):
    code, _, error = command("hierarchy", "show", "cifar100", "--columns", "a,b")
    assert code == 2
    assert "--columns and --parent-rule are for files" in error
