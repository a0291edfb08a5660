"""Faults on purpose: exactly what was asked for changes, the truth says what, and counting finds agrees with scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evidence import FLAT, TREE
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from hiercnn.data import ImageSet, in_memory
from hiercnn.diagnose import inject
from hiercnn.errors import DataError, HierarchyError
from hiercnn.hierarchy import from_nested

LABELS = np.repeat(np.arange(9), 20)
TOP = TREE.cut(depth=1).groups


def drawings(split: str, seed: int) -> ImageSet:
    """An image of smooth noise for every label."""
    coarse = torch.rand(len(LABELS), 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    return in_memory((255 * smooth).byte().numpy(), LABELS, split)


TEST, TRAIN = drawings("test", 0), drawings("train", 1)


def names(labels: np.ndarray, tree=TREE) -> list[str]:
    return [tree.names[tree.label_nodes[label]] for label in labels]


@pytest.mark.parametrize("kind", inject.KINDS)
def test_relabelling_takes_the_same_share_of_every_class(kind):
    found = inject.relabel(LABELS, TREE, 0.1, kind)
    changed = np.flatnonzero(found.labels != LABELS)
    assert changed.tolist() == found.images.tolist()
    assert np.bincount(LABELS[changed]).tolist() == [2] * 9
    parents = TREE.parents[TREE.leaf_nodes]
    same_parent = parents[LABELS[changed]] == parents[found.labels[changed]]
    same_top = TOP[LABELS[changed]] == TOP[found.labels[changed]]
    assert same_parent.all() if kind == "near" else not same_top.any()
    assert not np.array_equal(inject.relabel(LABELS, TREE, 0.1, kind, seed=1).labels, found.labels)


def test_only_some_images_may_be_changed():
    assert inject.relabel(LABELS, TREE, 0.5, "far", among=np.arange(10)).images.max() < 10


def test_a_lonely_class_is_near_its_cousins():
    tree = from_nested({"animal": {"pet": ["cat"], "wild": ["wolf"]}, "thing": ["car", "bus"]})
    assert inject.near_classes(tree, "cat") == ["wolf"]
    assert inject.far_classes(tree, "cat") == ["car", "bus"]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: inject.relabel(LABELS, TREE, 0.1, "nearby"), DataError, "wanted near or far"),
        (lambda: inject.relabel(LABELS, TREE, 0.01, "near"), DataError, "changes no label: the largest class has 20 images"),
        (lambda: inject.relabel(LABELS % 3, FLAT, 0.1, "far"), HierarchyError, "one level"),
        (lambda: inject.split(LABELS, TREE, "cat", 0.01), DataError, "leaves one part empty"),
        (lambda: inject.split(LABELS, TREE, "pet"), HierarchyError, "'pet' is a group"),
        (lambda: inject.split(LABELS, TREE, "cow"), HierarchyError, "no node is called 'cow'"),
        (lambda: inject.merge(LABELS, TREE, "cat", "cat"), HierarchyError, "with itself"),
        (lambda: inject.widen(LABELS, TREE, "cat", "cat"), DataError, "wanted two classes"),
        (lambda: inject.move(LABELS % 3, FLAT, "cat"), HierarchyError, "one level"),
        (lambda: inject.copies(TEST, TRAIN, 0.1, "turned"), DataError, "wanted shifted, flipped, brighter, jpeg, got 'turned'"),
        (lambda: inject.copies(TEST, TRAIN, 0.001, "jpeg"), DataError, "share=0.001 of 180 images is 0, out of 180"),
        (lambda: inject.copies(TEST, TRAIN, 0.1, "jpeg", among=np.arange(9)), DataError, "is 18, out of 9 that may be changed"),
        (lambda: inject.copies(TEST.subset([0]), TRAIN.subset([1]), 1.0, "jpeg"), DataError, "all images are of one kind"),
        (lambda: inject.copies(replace(TEST, images=None), TRAIN, 0.1, "jpeg"), DataError, "data.storage=memory"),
        (lambda: inject.compose(TEST, TREE, 0.1, "above"), DataError, "wanted beside, blended, got 'above'"),
        (lambda: inject.compose(TEST.subset(np.arange(60)), FLAT, 0.1, "beside"), HierarchyError, "one level"),
        (lambda: inject.found([1, 1], [1]), DataError, "listed once"),
        (lambda: inject.found([1], []), DataError, "one fault at least"),
    ],
)
def test_what_cannot_be_done_is_told(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_a_split_class_has_a_twin_beside_it():
    found = inject.split(LABELS, TREE, "cat", 0.25)
    assert found.classes == ("cat", "cat (2)")
    assert found.tree.classes == (*TREE.classes, "cat (2)")
    assert inject.near_classes(found.tree, "cat (2)") == [name for name in TREE.classes if name in ("cat", "dog", "fish")]
    wanted = ["cat (2)" if i in found.images else name for i, name in enumerate(names(LABELS))]
    assert names(found.labels, found.tree) == wanted
    assert len(found.images) == 5
    with pytest.raises(HierarchyError, match="split another one"):
        inject.split(found.labels, found.tree, "cat")


def test_merged_classes_have_one_name():
    found = inject.merge(LABELS, TREE, "cat", "bus")
    assert found.classes == ("cat",)
    assert "bus" not in found.tree
    assert names(found.labels, found.tree) == ["cat" if name == "bus" else name for name in names(LABELS)]
    assert found.images.tolist() == np.flatnonzero(TREE.label("bus") == LABELS).tolist()


def test_a_group_without_classes_goes():
    found = inject.merge(inject.merge(LABELS, TREE, "cat", "bus").labels, inject.merge(LABELS, TREE, "cat", "bus").tree, "cat", "car")
    assert "road" not in found.tree


def test_a_widened_class_takes_half_of_another():
    found = inject.widen(LABELS, TREE, "cat", "dog")
    assert found.classes == ("dog", "cat")
    counts = np.bincount(found.labels)
    assert (counts[TREE.label("cat")], counts[TREE.label("dog")]) == (30, 10)


@pytest.mark.parametrize("name", TREE.classes)
def test_a_moved_class_hangs_in_another_top_level_group(name):
    found = inject.move(LABELS, TREE, name)
    assert found.classes == (name,)
    assert found.labels.tolist() == LABELS.tolist()
    before, after = (dict(zip(tree.classes, tree.parents[tree.leaf_nodes], strict=True)) for tree in (TREE, found.tree))
    homes = [{each: tree.names[node] for each, node in home.items()} for tree, home in ((TREE, before), (found.tree, after))]
    assert {each for each in TREE.classes if homes[0][each] != homes[1][each]} == {name}
    assert set(inject.far_classes(TREE, name)) >= set(inject.near_classes(found.tree, name))


def test_labels_that_are_groups_keep_their_names():
    labels = np.append(LABELS, [TREE.label("wild"), TREE.label("animal")])
    for found in (inject.split(labels, TREE, "cat"), inject.merge(labels, TREE, "cat", "bus"), inject.move(labels, TREE, "cat")):
        assert names(found.labels[-2:], found.tree) == ["wild", "animal"]


@pytest.mark.parametrize("relabelled", [False, True])
@pytest.mark.parametrize("change", inject.CHANGES)
def test_copies_stand_in_the_place_of_images_of_other_classes(change, relabelled):
    found = inject.copies(TEST, TRAIN, 0.1, change, relabelled=relabelled, among=np.arange(5, 175))
    changed = (found.split.images != TEST.images).any((1, 2, 3)).nonzero()[:, 0].tolist()
    assert changed == found.images.tolist()
    assert len(changed) == len(found.sources) == 18
    assert 5 <= min(changed) <= max(changed) < 175
    assert (TRAIN.labels[found.sources] != TEST.labels[changed]).all()
    assert found.split.labels[changed].tolist() == (TEST.labels[changed] if relabelled else TRAIN.labels[found.sources]).tolist()
    untouched = np.setdiff1d(np.arange(180), changed)
    assert found.split.labels[untouched].tolist() == TEST.labels[untouched].tolist()
    assert found.split.ids == TEST.ids
    assert inject.copies(TEST, TRAIN, 0.1, change, seed=1).images.tolist() != changed


def test_copies_differ_by_what_was_asked_for():
    def pairs(change):
        found = inject.copies(TEST, TRAIN, 0.2, change)
        return found.split.images[found.images].float(), TRAIN.images[found.sources].float()

    made, original = pairs("shifted")
    assert torch.equal(made[..., 1:, 1:], original[..., :-1, :-1])
    assert torch.equal(made[..., 0, 0], original[..., 0, 0])
    made, original = pairs("flipped")
    assert torch.equal(made, original.flip(-1))
    made, original = pairs("brighter")
    assert torch.equal(made, (original * 1.2).round().clamp(max=255))
    assert made.max() == 255
    made, original = pairs("jpeg")
    assert 0 < (made - original).abs().mean() < 20 < (made - original.flip(0)).abs().mean()


@pytest.mark.parametrize("layout", inject.LAYOUTS)
def test_two_objects_are_of_different_top_level_groups(layout):
    found = inject.compose(TEST, TREE, 0.1, layout, among=np.arange(60))
    changed, sources = found.images, found.sources
    assert (found.split.images != TEST.images).any((1, 2, 3)).nonzero()[:, 0].tolist() == changed.tolist()
    assert len(changed) == 18
    assert changed.max() < 60
    assert found.split.labels.tolist() == LABELS.tolist()
    assert (TOP[LABELS[changed]] != TOP[LABELS[sources]]).all()
    made, own, other = found.split.images[changed], TEST.images[changed], TEST.images[sources]
    if layout == "beside":
        assert torch.equal(made[..., :6], own[..., :6])
        assert torch.equal(made[..., 6:], other[..., 6:])
    else:
        assert ((made.float() - (own.float() + other.float()) / 2).abs() <= 0.5).all()


@given(st.permutations(range(12)), st.sets(st.integers(0, 11), min_size=1))
def test_average_precision_is_scikit_learn_s(ranking, faults):
    found = inject.found(ranking, list(faults))
    scores = np.empty(12)
    scores[ranking] = -np.arange(12)
    assert found.average_precision == pytest.approx(average_precision_score(np.isin(np.arange(12), list(faults)), scores))
    assert found.precision == len(faults.intersection(ranking[: len(faults)])) / len(faults)


def test_a_fault_that_is_not_listed_counts_as_missed():
    assert inject.found([3], [3, 4]) == inject.Found(2, 0.5, 0.5)
