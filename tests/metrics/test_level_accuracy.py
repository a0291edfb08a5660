"""Accuracy per level against plain loops; merging, inner labels, and few classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from metrics.batches import ALONE, SPLITS, assert_batches_do_not_matter, assert_close, assert_scores_are_checked, cases, mean, order, path

from hiercnn.errors import ShapeError
from hiercnn.hierarchy import Cut, Hierarchy, from_classes, from_nested
from hiercnn.metrics import LevelAccuracy, level_accuracy

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf", "bear"]}}, "thing": {"car": None, "road": ["a", "b"]}})
CUTS = TREE.cuts([{"depth": 1}, {"depth": 2}, "leaf"])
CLASSES = TREE.num_classes


def batch(seed: int, count: int, labels: int = TREE.num_nodes) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [count, C], some of them high at the right class, and labels below `labels`."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, labels, count)
    logits = rng.normal(size=(count, CLASSES)) + 2 * (target[:, None] == np.arange(CLASSES))
    return torch.from_numpy(logits).float(), torch.from_numpy(target)


def measured(logits, labels, sizes=None, cuts=CUTS) -> dict:
    """What comes out when batches of these sizes go in; None for all at once."""
    levels, sizes = LevelAccuracy(logits.shape[1], cuts), sizes or [len(labels)]
    for x, y in zip(logits.split(sizes), labels.split(sizes), strict=True):
        levels.update(x, y)
    return levels.compute()


def groups_of(tree: Hierarchy, cut: Cut, label: int) -> list[int]:
    """The node of the cut that is the label's or above it, if there is one."""
    return [node for node in path(tree, label) if node in cut.nodes]


def loops(tree: Hierarchy, cuts: list[Cut], logits: torch.Tensor, labels: torch.Tensor, ks=(5,)) -> dict:
    """The same numbers, one image after the other."""
    right = {cut.name: {} for cut in cuts}  # of each group
    tops, nll = {k: [] for k in ks}, []
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        guesses = order(row)
        for cut in cuts:
            for wanted in groups_of(tree, cut, label):
                right[cut.name].setdefault(wanted, []).append(groups_of(tree, cut, guesses[0]) == [wanted])
        if label < tree.num_classes:
            for k in ks:
                tops[k].append(label in guesses[:k])
            nll.append(np.log(np.exp(row).sum()) - row[label])
    return {
        "accuracy": {name: mean([hit for hits in groups.values() for hit in hits]) for name, groups in right.items()},
        "macro_accuracy": {name: mean([mean(hits) for hits in groups.values()]) for name, groups in right.items()},
        **{f"top{k}": mean(hits) for k, hits in tops.items()},
        "nll": mean(nll),
        "images": len(nll),
    }


def check_equal(found: dict, wanted: dict) -> None:
    assert_close(found, wanted, rel=1e-5, abs=1e-6)  # float32 logits


@pytest.mark.long
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_numbers_are_those_of_loops(seed, count):
    logits, labels = batch(seed, count)
    check_equal(measured(logits, labels), loops(TREE, CUTS, logits, labels))


@pytest.mark.long
@given(cases(), st.lists(st.integers(1, 7), min_size=1, max_size=3, unique=True))
def test_random_trees(case, ks):
    """Of equal scores the first is the highest, for every k."""
    tree, logits, labels = case
    cuts = list({len(cut): cut for cut in (tree.cut(depth=depth) for depth in range(tree.height + 1))}.values())
    cuts = [cut for cut in cuts if cut.name != "leaf"] + [tree.leaf_cut()]
    found = level_accuracy(logits, labels, tree, cuts, ks=ks)
    check_equal(found, loops(tree, cuts, logits, labels, ks))
    for shares in ("accuracy", "macro_accuracy"):
        assert_close(found[shares], loops(tree, cuts, logits, labels, ks)[shares])


@pytest.mark.long
@given(st.integers(0, 10**6), st.integers(1, 30), SPLITS)
def test_batches_do_not_matter(seed, count, ends):
    assert_batches_do_not_matter(lambda: LevelAccuracy(CLASSES, CUTS, ks=(1, 2)), batch(seed, count), ends)


def test_the_mean_over_groups_leaves_groups_without_images_out():
    """Three cats of which two are right, one car that is wrong: a dog."""
    cat, dog, car = map(TREE.label, ("cat", "dog", "car"))
    logits = F.one_hot(torch.tensor([cat, cat, dog, dog]), CLASSES).float()
    found = measured(logits, torch.tensor([cat, cat, cat, car]))
    assert found["accuracy"] == {"2 groups": 3 / 4, "4 groups": 3 / 4, "leaf": 1 / 2}
    assert found["macro_accuracy"] == {"2 groups": 1 / 2, "4 groups": 1 / 2, "leaf": pytest.approx(1 / 3)}


def test_of_equal_scores_the_first_is_the_highest():
    found = level_accuracy(torch.zeros(3, CLASSES), torch.tensor([0, 2, 3]), TREE, ks=(1, 3, 4))
    assert (found["top1"], found["top3"], found["top4"]) == (1 / 3, 2 / 3, 1)
    assert found["accuracy"]["leaf"] == found["top1"]


def test_one_class_is_always_right():
    found = level_accuracy(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), ALONE, ks=(1, 5))
    assert found == {"accuracy": {"leaf": 1}, "macro_accuracy": {"leaf": 1}, "top1": 1, "top5": 1, "nll": 0, "images": 2}


def test_what_does_not_fit_is_refused():
    metric = LevelAccuracy(CLASSES, CUTS)
    assert_scores_are_checked(metric, lambda scores, labels: level_accuracy(scores, labels, TREE, CUTS), TREE)
    assert metric.compute()["images"] == 0
    with pytest.raises(ShapeError, match=r"ks: wanted one k or several, each 1 or more, got \[0, 5\]"):
        LevelAccuracy(CLASSES, CUTS, ks=(0, 5))


def test_a_score_that_is_no_number_shows():
    """Training looks at the result and not at every batch."""
    logits, labels = batch(0, 9, CLASSES)
    logits[4, 1] = torch.nan
    found = measured(logits, labels)
    assert np.isnan([*found["accuracy"].values(), found["top5"], found["nll"]]).all()
    assert found["images"] == 9


@pytest.mark.parametrize(
    ("label", "counted"),
    [
        ("cat", (True, True, True)),
        ("car", (True, True, True)),
        ("pet", (True, True, False)),
        ("big", (True, True, False)),
        ("animal", (True, False, False)),
        ("root", (False,) * 3),
    ],
)
def test_inner_labels_count_at_cuts_at_or_above_them(label, counted):
    """The leaf predicted lies at or below the label, so it is right wherever the label counts."""
    predicted = "car" if label == "car" else "wolf" if label == "big" else "cat"
    logits = F.one_hot(torch.tensor([TREE.label(predicted)]), CLASSES).float()
    found = measured(logits, torch.tensor([TREE.label(label)]))
    assert [value == 1 for value in found["accuracy"].values()] == list(counted)
    assert [np.isnan(value) for value in found["accuracy"].values()] == [not known for known in counted]
    assert found["images"] == (TREE.label(label) < CLASSES)


def test_group_of_the_most_likely_leaf_not_the_most_likely_group():
    logits = torch.full((1, CLASSES), -9.0)
    logits[0, [TREE.label("wolf"), TREE.label("bear"), TREE.label("car")]] = torch.tensor([1.0, 1.0, 1.5])
    found = measured(logits, torch.tensor([TREE.label("wolf")]))
    assert found["accuracy"] == {"2 groups": 0, "4 groups": 0, "leaf": 0}


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5])
def test_with_five_classes_or_fewer_top5_is_all(classes):
    tree = from_classes([f"c{i}" for i in range(classes)])
    found = measured(torch.randn(9, classes, generator=torch.Generator().manual_seed(0)), torch.arange(9) % classes, cuts=[tree.leaf_cut()])
    assert found["top5"] == 1
    assert list(found["accuracy"]) == ["leaf"]


def test_top5_counts_the_fifth_and_not_the_sixth():
    logits = torch.arange(CLASSES).flip(0).float().expand(2, -1)  # class 0 first
    assert measured(logits, torch.tensor([4, 5]))["top5"] == 0.5


def test_half_logits_are_summed_in_float32():
    logits, labels = batch(0, 4000, CLASSES)
    half = measured(logits.bfloat16(), labels)
    check_equal(half, measured(logits.bfloat16().float(), labels))


def test_nothing_measured_is_nan():
    found = LevelAccuracy(CLASSES, CUTS).compute()
    assert np.isnan([*found["accuracy"].values(), *found["macro_accuracy"].values(), found["top5"], found["nll"]]).all()
    assert found["images"] == 0
