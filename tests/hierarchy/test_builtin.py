"""The built-in trees: the counted facts, and that the files are what tools/make_hierarchy.py makes today."""

import importlib.util
from pathlib import Path

import pytest

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import builtin, builtin_names, read_hierarchy

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "hiercnn" / "hierarchy" / "builtin"


@pytest.fixture(scope="module")
def make_hierarchy():
    spec = importlib.util.spec_from_file_location("make_hierarchy", REPOSITORY / "tools" / "make_hierarchy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


GROUPS_BY_DEPTH = {
    "cifar10": [2, 7, 10],
    "cifar100": [8, 20, 100],
    "cifar100_semantic": [4, 16, 32, 48, 70, 87, 98, 100],
    "fashion_mnist": [2, 6, 10],
    "imagenet1k": [2, 5, 8, 14, 32, 76, 193, 328, 467, 582, 679, 750, 819, 877, 918, 977, 999, 1000],
    "synthetic": [3, 9, 36],
}


def test_names():
    assert builtin_names() == sorted(GROUPS_BY_DEPTH)
    with pytest.raises(HierarchyError, match=r"no built-in hierarchy 'cifar-10'; did you mean 'cifar10'\?; there are cifar10, cifar100"):
        builtin("cifar-10")


@pytest.mark.parametrize("name", GROUPS_BY_DEPTH)
def test_groups_by_depth(name):
    tree = builtin(name)
    assert [len(tree.cut(depth=depth)) for depth in range(1, tree.height + 1)] == GROUPS_BY_DEPTH[name]
    assert tree.meta["source"]
    assert tree.meta["notice"]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "synthetic"])
def test_cuts_by_groups_are_the_cuts_by_depth(name):
    tree = builtin(name)
    for depth, groups in enumerate(GROUPS_BY_DEPTH[name], start=1):
        assert tree.cut(groups=groups).groups.tolist() == tree.cut(depth=depth).groups.tolist()
    tree.cuts(GROUPS_BY_DEPTH[name])


def partition(tree, groups: int) -> set[frozenset[str]]:
    return {frozenset(tree.classes[c] for c in tree.leaves(node)) for node in tree.cut(groups=groups).nodes}


def test_cifar10_groups():
    tree = builtin("cifar10")
    assert tree.classes == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    seven = [{"airplane"}, {"ship"}, {"automobile", "truck"}, {"bird"}, {"frog"}, {"cat", "dog"}, {"deer", "horse"}]
    assert partition(tree, 7) == set(map(frozenset, seven))
    assert frozenset().union(*seven[:3]) in partition(tree, 2)


def test_fashion_mnist_groups():
    tree = builtin("fashion_mnist")
    assert tree.classes == ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    assert frozenset({"Sandal", "Sneaker", "Ankle boot"}) in partition(tree, 6)
    assert frozenset({"T-shirt/top", "Pullover", "Shirt"}) in partition(tree, 6)
    assert frozenset({"Sandal", "Sneaker", "Ankle boot", "Bag"}) in partition(tree, 2)


def test_cifar100_groups_of_superclasses():
    tree = builtin("cifar100")
    superclasses = sorted(tree.cut(depth=2).names)
    above = [int(tree.cut(depth=1).label_groups[tree.label(name)]) for name in superclasses]
    published = [0, 0, 1, 2, 1, 2, 2, 3, 4, 5, 5, 4, 4, 3, 6, 4, 4, 1, 7, 7]
    assert above == published
    assert tree.cut(depth=2).sizes.tolist() == [5] * 20


def test_cifar100_order_and_superclasses_are_the_official_ones(shared):
    official = read_hierarchy(shared / "data" / "cifar100" / "classes.csv", columns=["superclass", "class"])
    tree = builtin("cifar100")
    assert tree.classes == official.classes == builtin("cifar100_semantic").classes
    assert partition(tree, 20) == partition(official, 20)


def test_semantic_tree_facts(shared):
    tree = builtin("cifar100_semantic")
    assert (tree.num_nodes, tree.depths[tree.leaf_nodes].min(), tree.height) == (163, 2, 8)
    source = read_hierarchy(shared / "data" / "cifar100_semantic_tree.csv")
    assert source.with_classes(tree.classes) == tree


def test_imagenet1k_is_sorted_titled_and_small():
    tree = builtin("imagenet1k")
    assert list(tree.classes) == sorted(tree.classes)
    assert (tree.num_classes, tree.num_nodes, tree.meta["parent_rule"]) == (1000, 1818, "longest")
    assert [tree.titles[node] for node in tree.leaf_nodes[[0, 1, 999]]] == ["tench", "goldfish", "toilet tissue"]
    assert "Copyright 2006 by Princeton University" in tree.meta["notice"]
    assert (FOLDER / "imagenet1k.json").stat().st_size < 150_000


def check_same(make_hierarchy, out: Path, name: str, *options: str) -> None:
    assert make_hierarchy([name, "--out", str(out), *options]) == 0
    assert (out / f"{name}.json").read_text() == (FOLDER / f"{name}.json").read_text(), f"run tools/make_hierarchy.py {name} again"


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "synthetic"])
def test_small_files_are_what_the_tool_makes(make_hierarchy, tmp_path, name):
    check_same(make_hierarchy, tmp_path, name)


def test_cifar100_files_are_what_the_tool_makes(make_hierarchy, tmp_path, shared):
    check_same(make_hierarchy, tmp_path, "cifar100", "--cifar100-classes", str(shared / "data" / "cifar100" / "classes.csv"))
    check_same(make_hierarchy, tmp_path, "cifar100_semantic", "--semantic-tree", str(shared / "data" / "cifar100_semantic_tree.csv"))


def test_imagenet1k_file_is_what_the_tool_makes(make_hierarchy, tmp_path, shared, wordnet):
    # also that two interpreters make the same tree: nltk keeps hypernyms in sets, whose order changes with the hash seed
    check_same(make_hierarchy, tmp_path, "imagenet1k", "--imagenet-closure", str(shared / "data" / "wordnet30_imagenet1k.json"))


@pytest.mark.parametrize("form", ['["n02391049", "n02084071"]', "n02391049\nn02084071\n"])
def test_the_tool_takes_any_list_of_wnids(make_hierarchy, tmp_path, wordnet, form):
    (tmp_path / "wnids").write_text(form)
    make_hierarchy(["imagenet1k", "--out", str(tmp_path), "--imagenet-closure", str(tmp_path / "wnids")])
    assert read_hierarchy(tmp_path / "imagenet1k.json").classes == ("n02391049", "n02084071")


TOOL_ERRORS = {
    "cifar100": (["cifar100"], "cifar100 needs --cifar100-classes"),
    "semantic": (["cifar100_semantic"], "cifar100_semantic needs --semantic-tree"),
    "imagenet": (["imagenet1k"], "imagenet1k needs --imagenet-closure"),
    "missing": (["imagenet1k", "--imagenet-closure", "nowhere"], "cannot read nowhere: No such file"),
    "unknown": (["cifar1000"], "invalid choice: 'cifar1000'"),
}


@pytest.mark.parametrize(("arguments", "message"), TOOL_ERRORS.values(), ids=TOOL_ERRORS)
def test_the_tool_says_what_it_needs(make_hierarchy, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        make_hierarchy([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_the_tool_refuses_another_class_list(make_hierarchy, tmp_path, capsys):
    (tmp_path / "classes.csv").write_text("class,superclass\na,x\nb,y\n")
    with pytest.raises(SystemExit):
        make_hierarchy(["cifar100", "--out", str(tmp_path), "--cifar100-classes", str(tmp_path / "classes.csv")])
    assert "2 superclasses, 2 classes; CIFAR-100 has 20 and 100" in capsys.readouterr().err
