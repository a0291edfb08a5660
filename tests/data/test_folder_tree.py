"""One root of nested folders as both data and tree, through hiercnn.fit and through `hierarchy.folders` alone."""

from collections.abc import Iterable, Mapping

import pytest
from pictures import save_all

import hiercnn
from hiercnn.data import data_sets, match
from hiercnn.errors import DataError
from hiercnn.hierarchy import from_folders

UNEVEN = {"animal/pet/cat": 6, "animal/pet/dog": 6, "animal/wolf": 6, "car": 6}
CLASSES = ("car", "cat", "dog", "wolf")
GROUPS = {"cat": ["pet", "animal"], "dog": ["pet", "animal"], "wolf": ["animal"], "car": []}
RECIPE = {
    "epochs": 1,
    "model": {"backbone": "alexnet_bn", "heads": [{"stage": "early", "cut": {"depth": 1}}]},
    "train": {"precision": "float32", "device": "cpu"},
    "logging": {"display": "quiet"},
}


def images(counts: Mapping[str, int], below: str = "") -> list[str]:
    return [f"{below}{folder}/{i}.png" for folder, count in counts.items() for i in range(count)]


def fitted(root, folders, run_dir, **hierarchy):
    data = {"name": "folder", "root": str(root), "image_size": 16, "batch_size": 8}
    return hiercnn.fit(RECIPE | {"data": data, "hierarchy": {"folders": str(folders), **hierarchy}}, run_dir=run_dir)


def groups_above(tree, name: str) -> list[str]:
    """Names of the groups of a class, root left out, fine → coarse."""
    above, node = [], tree.parents[tree.leaf_nodes[tree.classes.index(name)]]
    while node > 0:
        above.append(tree.names[node])
        node = tree.parents[node]
    return above


def test_without_splits(tmp_path):
    root = save_all(tmp_path / "set", images(UNEVEN))
    run = fitted(root, root, tmp_path / "run")
    assert run.hierarchy.classes == CLASSES
    assert {name: groups_above(run.hierarchy, name) for name in CLASSES} == GROUPS
    assert set(run.metrics[0]["val"]["heads"]) == {"stage1_2"}


@pytest.mark.parametrize("below", ["", "train"])
@pytest.mark.parametrize("flat", [False, True], ids=["val as deep", "val flat"])
def test_with_splits(tmp_path, below, flat):
    """`folders` may be the root of the splits or that of train; val and test need not be nested."""
    names = {folder.split("/")[-1] if flat else folder: 2 for folder in UNEVEN}
    listed = [*images(UNEVEN, "train/"), *images(names, "val/"), *images(names, "test/"), "notes/drawing.png"]
    root = save_all(tmp_path / "set", listed)
    run = fitted(root, root / below, tmp_path / "run")
    assert {name: groups_above(run.hierarchy, name) for name in run.hierarchy.classes} == GROUPS
    assert run.end["test"]["accuracy"].keys() == run.metrics[0]["val"]["accuracy"].keys() == {"2 groups", "3 groups", "leaf"}


def test_folders_without_images_can_be_pruned(tmp_path):
    root = save_all(tmp_path / "set", images(UNEVEN))
    (root / "animal" / "pet" / "fox").mkdir()
    with pytest.raises(DataError, match=r"the hierarchy has classes without data: 'fox' \(hierarchy\.prune=true leaves them out\)"):
        fitted(root, root, tmp_path / "run")
    assert fitted(root, root, tmp_path / "run", prune=True).hierarchy.classes == CLASSES


def matched(root, paths: Iterable[str]):
    save_all(root, paths)
    return match(data_sets["folder"](root=root), from_folders(root))[0]


def test_images_in_the_folder_of_a_group_are_refused(tmp_path):
    with pytest.raises(DataError, match="these are groups of the hierarchy, not classes: 'pet'"):
        matched(tmp_path, [*images(UNEVEN), "animal/pet/some.png"])


@pytest.mark.parametrize(
    ("folders", "groups"),
    [
        (["fruit/apple/apple", "fruit/pear", "car"], {"apple": ["fruit"], "car": [], "pear": ["fruit"]}),
        (["food/food/apple", "food/food/pear", "car"], {"apple": ["food"], "car": [], "pear": ["food"]}),
        (["vehicle/train", "vehicle/bus", "cat"], {"bus": ["vehicle"], "cat": [], "train": ["vehicle"]}),
    ],
    ids=["class in a group of its name", "group in a group of its name", "a class called train"],
)
def test_folders_that_are_no_mistake(tmp_path, folders, groups):
    tree = matched(tmp_path, images(dict.fromkeys(folders, 1)))
    assert {name: groups_above(tree, name) for name in tree.classes} == groups


def test_a_group_called_train_is_no_split_without_another(tmp_path):
    for folder in ("train/steam", "train/diesel", "car"):
        (tmp_path / folder).mkdir(parents=True)
    assert groups_above(from_folders(tmp_path), "steam") == ["train"]
