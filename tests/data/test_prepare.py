"""Names matched to the tree, val carved, subsets taken: what a run trains and validates on."""

from dataclasses import replace

import numpy as np
import pytest
from pictures import memory_source, noise, save_all, settings
from pydantic import ValidationError

from hiercnn.data import data_sets, match, prepare
from hiercnn.errors import DataError, HierCNNError
from hiercnn.hierarchy import from_nested

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": ["wolf"]}, "car": None})
CLASSES = ("wolf", "car", "dog", "cat")
FULL = dict.fromkeys(CLASSES, 10)


def names_by_id(image_set, tree) -> dict[str, str]:
    """Name of the label of each image."""
    of_label = {tree.label(name): name for name in tree.names}
    return {image: of_label[label] for image, label in zip(image_set.ids, image_set.labels.tolist(), strict=True)}


def source_names(source, split: str = "train") -> dict[str, str]:
    image_set = getattr(source, split)
    return {image: source.names[label] for image, label in zip(image_set.ids, image_set.labels, strict=True)}


# --- Matching -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_names_count_and_positions_do_not(seed):
    """However the tree numbers its classes, the data set's order stays and every image keeps its name."""
    tree = TREE.with_classes(np.random.default_rng(seed).permutation(TREE.classes).tolist())
    source = memory_source(FULL, test={"cat": 1, "car": 2})
    data = prepare(source, tree, settings(val=2), seed)
    assert data.hierarchy.classes == CLASSES
    assert {data.hierarchy.names[p] for p in data.hierarchy.parents[data.hierarchy.leaf_nodes]} == {"root", "pet", "wild"}
    named = names_by_id(data.train, data.hierarchy) | names_by_id(data.val, data.hierarchy)
    assert named == source_names(source)
    assert names_by_id(data.test, data.hierarchy) == source_names(source, "test")


def test_match_numbers_inner_labels_after_the_classes():
    source = replace(memory_source({"wild": 1, **FULL, "animal": 1}), inner_labels=True)
    tree, labels = match(source, TREE)
    assert tree.classes == CLASSES
    assert labels.tolist() == [tree.label("wild"), 0, 1, 2, 3, tree.label("animal")]
    assert labels[[0, -1]].min() >= 4


def test_without_a_hierarchy_the_tree_has_one_level():
    data = prepare(memory_source(FULL), None, settings(), 0)
    assert (data.hierarchy.height, data.hierarchy.classes) == (1, CLASSES)
    assert not data.inner_labels


def test_prune_leaves_out_classes_without_data():
    data = prepare(memory_source({"dog": 10, "car": 10}), TREE, settings(), 0, prune=True)
    assert data.hierarchy.classes == ("dog", "car")
    assert set(data.hierarchy.names) == {"root", "animal", "pet", "dog", "car"}


MISMATCHES = {
    "unknown": ({**FULL, "woolf": 1}, {}, "the data have classes that the hierarchy lacks: 'woolf'; did you mean 'wolf'"),
    "group": ({**FULL, "pet": 1}, {}, "these are groups of the hierarchy, not classes: 'pet'"),
    "absent": (
        {"cat": 9, "dog": 9},
        {},
        r"the hierarchy has classes without data: 'car', 'wolf' \(hierarchy\.prune=true leaves them out\)",
    ),
    "all at once": (
        {"cat": 9, "wild": 1, "kar": 9},
        {},
        "lacks: 'kar'; did you mean 'car'.*groups .*'wild'; .*without data: 'car', 'dog', 'wolf'",
    ),
    "unknown, pruned": ({"cat": 9, "dog": 9, "cow": 9}, {"prune": True}, "lacks: 'cow'"),
    "one class": ({"cat": 9}, {"prune": True}, "needs at least two classes; the data have 'cat'"),
    "no class": ({"pet": 9}, {"prune": True, "inner": True}, "needs at least two classes; the data have none"),
    "label without classes": ({"cat": 9, "dog": 9, "wild": 9}, {"prune": True, "inner": True}, "no class with data is left below 'wild'"),
}


@pytest.mark.parametrize(("counts", "options", "message"), MISMATCHES.values(), ids=MISMATCHES)
def test_mismatches_are_listed(counts, options, message):
    source = replace(memory_source(counts), inner_labels=options.get("inner", False))
    with pytest.raises(DataError, match=message):
        match(source, TREE, prune=options.get("prune", False))


def test_one_class_without_a_hierarchy():
    with pytest.raises(DataError, match="at least two classes; the data have 'cat'"):
        prepare(memory_source({"cat": 9}), None, settings(), 0)


def test_class_names_used_twice_are_refused():
    with pytest.raises(HierCNNError, match="twice: 'cat'"):
        prepare(replace(memory_source({"cat": 4, "dog": 4}), names=("cat", "cat")), None, settings(), 0)


def test_empty_classes_are_all_named():
    with pytest.raises(DataError, match="train has no image of 'car', 'cat'; add some, or leave the classes out"):
        prepare(memory_source({**FULL, "car": 0, "cat": 0}), TREE, settings(), 0)


# --- Carving --------------------------------------------------------------------------------------------------------------------------


def count(image_set, classes: int = 4) -> list[int]:
    return np.bincount(image_set.labels, minlength=classes).tolist()


def test_val_is_carved_by_share():
    data = prepare(memory_source({"wolf": 40, "car": 12, "dog": 2, "cat": 1}), TREE, settings(val=0.25), 0)
    assert (count(data.train), count(data.val)) == ([30, 9, 1, 1], [10, 3, 1, 0])


def test_val_is_carved_by_number():
    data = prepare(memory_source({"wolf": 40, "car": 12, "dog": 7, "cat": 4}), TREE, settings(val=3), 0)
    assert (count(data.train), count(data.val)) == ([37, 9, 4, 1], [3] * 4)


def test_val_is_disjoint_from_train_and_complete():
    source = memory_source(FULL)
    data = prepare(source, TREE, settings(val=0.3), 0)
    assert set(data.train.ids).isdisjoint(data.val.ids)
    assert sorted([*data.train.ids, *data.val.ids]) == sorted(source.train.ids)
    for split in (data.train, data.val):  # each image is still the one its id says
        for i, name in enumerate(split.ids):
            assert (split.images[i] == source.train.images[source.train.ids.index(name)]).all()


def test_val_depends_on_the_seed_alone():
    def val(run_seed, **options):
        return prepare(memory_source(FULL), TREE, settings(**options), run_seed).val.ids

    assert val(1) == val(1)
    assert len({tuple(val(seed)) for seed in range(6)}) == 6
    assert val(1, seed=5) == val(2, seed=5) == val(5)
    assert val(1, seed=0) == val(0)
    assert val(1) == val(1, per_class=3)


def test_order_of_the_tree_does_not_change_the_split():
    ids = [prepare(memory_source(FULL), tree, settings(), 0).val.ids for tree in (TREE, TREE.with_classes(CLASSES), None)]
    assert ids[0] == ids[1] == ids[2]


def test_own_val_is_used_only_where_it_is_asked_for():
    source = memory_source(FULL, val=dict.fromkeys(CLASSES, 2))
    given, carved = (prepare(source, TREE, settings(val=val), 0) for val in ("given", 0.25))
    assert list(given.val.ids) == list(source.val.ids)
    assert list(given.train.ids) == list(source.train.ids)
    assert (count(carved.train), count(carved.val)) == ([9] * 4, [3] * 4)
    assert sorted([*carved.train.ids, *carved.val.ids]) == sorted([*source.train.ids, *source.val.ids])
    for split in (carved.train, carved.val):
        for i, name in enumerate(split.ids):
            origin = getattr(source, name.split("/")[0])
            assert (split.images[i] == origin.images[origin.ids.index(name)]).all()


def test_own_val_in_files_is_joined(tmp_path):
    names = [f"{split}/{label}/{i}.png" for split in ("train", "val") for label in ("cat", "dog") for i in range(3)]
    data = prepare(data_sets["folder"](root=save_all(tmp_path, names)), None, settings(val=0.5, storage="files", image_size=8), 0)
    assert sorted([*data.train.ids, *data.val.ids]) == names
    assert all(path == tmp_path / name for split in (data.train, data.val) for path, name in zip(split.paths, split.ids, strict=True))


def test_subset_is_fixed_by_the_seed_and_leaves_val_alone():
    def prepared(seed):
        return prepare(memory_source(FULL), TREE, settings(val=2, per_class=3), seed)

    data = prepared(0)
    assert (count(data.train), count(data.val)) == ([3] * 4, [2] * 4)
    assert list(prepared(0).train.ids) == list(data.train.ids)
    assert list(prepared(1).train.ids) != list(data.train.ids)
    assert count(prepare(memory_source(FULL), TREE, settings(val=2, per_class=99), 0).train) == [8] * 4


def test_subset_of_train_with_a_given_val():
    data = prepare(memory_source(FULL, val=FULL), TREE, settings(val="given", per_class=3), 0)
    assert (count(data.train), count(data.val)) == ([3] * 4, [10] * 4)


@pytest.mark.parametrize("options", [{"val": 0.5}, {"val": 9}, {"val": 2, "per_class": 1}])
def test_coarsely_labelled_images_all_stay_in_train(options):
    source = replace(memory_source({**FULL, "pet": 7}), inner_labels=True)
    data = prepare(source, TREE, settings(**options), 0)
    pet = data.hierarchy.label("pet")
    assert (data.train.labels == pet).sum() == 7
    assert (data.val.labels < 4).all()
    assert data.inner_labels


BAD_VALS = {
    "too many": (
        {**FULL, "dog": 3},
        {},
        {"val": 3},
        r"data\.val=3 images a class leaves 'dog' nothing to train on: it has 3; use less or a share",
    ),
    "nothing given": (FULL, {}, {"val": "given"}, "'given', but the data set brings no val split; give a share such as 0.1"),
    "given lacks": (
        FULL,
        {"val": {"cat": 1, "dog": 1}},
        {"val": "given"},
        r"own val \(carve one with data\.val=0\.1\) has no image of 'wolf', 'car'",
    ),
    "singles": (dict.fromkeys(CLASSES, 1), {}, {"val": 0.5}, r"data\.val=0\.5 carves nothing: no class has two images"),
}


@pytest.mark.parametrize(("counts", "splits", "options", "message"), BAD_VALS.values(), ids=BAD_VALS)
def test_bad_vals(counts, splits, options, message):
    with pytest.raises(DataError, match=message):
        prepare(memory_source(counts, **splits), TREE, settings(**options), 0)


@pytest.mark.parametrize("val", [0, 0.0, 1.0, 1.5, -1, True, "some", float("nan"), None])
def test_val_that_means_nothing(val):
    with pytest.raises(ValidationError, match="a share between 0 and 1, a whole number of images of each class, auto or given"):
        settings(val=val)


# --- Storage --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["auto", "memory", "files"])
def test_images_in_memory_are_resized(storage):
    data = prepare(memory_source(FULL), TREE, settings(image_size=12, storage=storage), 0)
    assert data.train.images.shape[1:] == data.val.images.shape[1:] == (3, 12, 12)
    assert prepare(memory_source(FULL), TREE, settings(storage=storage), 0).train.images.shape[1:] == (3, 8, 8)


def test_files_need_a_size(tmp_path):
    source = data_sets["folder"](root=save_all(tmp_path, [f"{label}/{i}.png" for label in "ab" for i in range(2)]))
    with pytest.raises(DataError, match=r"data\.image_size is needed for images in files: the side in pixels"):
        prepare(source, None, settings(), 0)


def test_files_are_decoded_where_storage_and_size_say_so(tmp_path, monkeypatch):
    source = data_sets["folder"](root=save_all(tmp_path, [f"{label}/{i}.png" for label in "ab" for i in range(2)]))

    def in_memory(**options):
        return prepare(source, None, settings(image_size=8, **options), 0).train.images is not None

    assert in_memory()
    assert not in_memory(storage="files")
    assert not in_memory(augment={"resized_crop": (0.5, 1)})
    assert in_memory(augment={"resized_crop": (0.5, 1)}, storage="memory")
    monkeypatch.setattr("hiercnn.data._prepare.MEMORY_LIMIT", 2 * 3 * 8 * 8 - 1)
    assert not in_memory()
    assert in_memory(storage="memory")


def test_sources_are_not_changed():
    source = memory_source(FULL)
    prepare(source, TREE, settings(image_size=4), 0)
    assert (source.train.images.numpy() == noise(40, seed=5)).all()
    assert source.train.labels.max() == 3


def test_a_test_split_with_groups_alone_is_refused():
    tree = from_nested({"pet": ["cat", "dog"], "car": None})
    source = replace(memory_source({"cat": 4, "dog": 4, "car": 4, "pet": 1}, test={"pet": 3}), inner_labels=True)
    with pytest.raises(DataError, match="no test image is labelled with a class"):
        prepare(source, tree, settings(), 0)


def test_auto_takes_a_complete_val_and_carves_otherwise():
    tree = from_nested({"pet": ["cat", "dog"]})
    complete = memory_source({"cat": 20, "dog": 20}, val={"cat": 2, "dog": 3})
    data = prepare(complete, tree, settings(val="auto"), 0)
    assert (len(data.train), len(data.val)) == (40, 5)
    partial = memory_source({"cat": 20, "dog": 20}, val={"cat": 5})
    data = prepare(partial, tree, settings(val="auto"), 0)
    assert (len(data.train), len(data.val)) == (41, 4)
    assert len(prepare(memory_source({"cat": 20, "dog": 20}), tree, settings(val="auto"), 0).val) == 4


def test_digests_tell_splits_apart():
    one, same, other = (memory_source({"cat": 3, "dog": 3}).train for _ in range(3))
    other.images[0, 0, 0, 0] += 1
    assert one.digest == same.digest != other.digest
    assert one.subset(np.array([0, 1])).digest != one.subset(np.array([1, 0])).digest
