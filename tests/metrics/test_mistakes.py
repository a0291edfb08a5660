"""HD@k and severity against plain loops over the tree's own distances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.batches import (
    ALONE,
    SPLITS,
    TREE,
    assert_batches_do_not_matter,
    assert_close,
    assert_scores_are_checked,
    cases,
    mean,
    order,
)

from hiercnn.errors import HierarchyError, ShapeError
from hiercnn.hierarchy import DISTANCES, Hierarchy, builtin, from_classes
from hiercnn.metrics import LevelAccuracy, Mistakes, mistakes
from hiercnn.metrics._mistakes import top_classes

CAR, WOLF, CAT, DOG = range(4)
NEAREST = {"ks": (1,)}


def measured(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor, **options) -> dict:
    found = Mistakes(tree, **(NEAREST | options))
    found.update(logits, labels)
    return found.compute()


def predicting(tree: Hierarchy, labels: list[int], predicted: list[int]) -> dict:
    """HD@1 and severity if these classes are predicted for these labels."""
    found = measured(tree, torch.nn.functional.one_hot(torch.tensor(predicted), tree.num_classes).float(), torch.tensor(labels))
    assert found.pop("top1") == mean([label == guess for label, guess in zip(labels, predicted, strict=True) if label < tree.num_classes])
    return found


def loop(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor, ks=(1,), distance: str = "lca") -> dict:
    """The same numbers, one image after the other."""
    apart, severities, right = {k: [] for k in ks}, [], []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label >= tree.num_classes:
            continue
        guesses = order(row)
        distances = [float(tree.distances(label, guess, kind=distance)) * (tree.height if distance == "lca" else 1) for guess in guesses]
        right.append(guesses[0] == label)
        severities += [] if right[-1] else distances[:1]
        for k in ks:
            apart[k].append(mean(distances[:k]))
    return {"top1": mean(right), **{f"hd{k}": mean(apart[k]) for k in ks}, "severity": mean(severities) if severities else None}


@given(cases(), st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True), st.sampled_from(DISTANCES))
def test_numbers_are_those_of_loops(case, ks, distance):
    tree, logits, labels = case
    assert_close(mistakes(logits, labels, tree, ks=ks, distance=distance), loop(tree, logits, labels, ks, distance))


@given(st.integers(1, 7), st.integers(0, 99))
def test_top_classes_of_equal_scores_are_the_first(k, seed):
    scores = torch.randint(0, 3, (20, 7), generator=torch.Generator().manual_seed(seed)).float()
    assert top_classes(scores, k).tolist() == [order(row)[:k] for row in scores.tolist()]


def test_by_hand():
    """cat–dog meet at pet (1 up from the leaves), cat–wolf at animal (3, by way of the wolf), cat–car at the root (4)."""
    assert predicting(TREE, [CAT], [DOG]) == {"hd1": 1, "severity": 1}
    assert predicting(TREE, [CAT, WOLF], [WOLF, CAT]) == {"hd1": 3, "severity": 3}
    assert predicting(TREE, [CAT, CAR, WOLF], [CAR, CAT, CAR]) == {"hd1": 4, "severity": 4}
    assert predicting(TREE, [CAT, CAT, DOG, CAR], [CAT, DOG, DOG, WOLF]) == {"hd1": 5 / 4, "severity": 5 / 2}


def test_in_a_tree_of_one_level_hd1_is_the_error():
    tree = from_classes(["a", "b", "c"])
    assert predicting(tree, [0, 1, 2, 2], [0, 2, 1, 2]) == {"hd1": 0.5, "severity": 1}


def test_without_mistakes_there_is_no_severity():
    assert predicting(TREE, [CAT, CAR], [CAT, CAR]) == {"hd1": 0, "severity": None}


def test_labels_that_are_groups_are_left_out():
    pet, root = TREE.label("pet"), TREE.label("root")
    found = predicting(TREE, [CAT, pet, CAT, root, pet], [DOG, CAR, CAT, CAR, WOLF])
    assert found == predicting(TREE, [CAT, CAT], [DOG, CAT]) == {"hd1": 0.5, "severity": 1}


@pytest.mark.parametrize("labels", [[], [TREE.label("pet")] * 2])
def test_nothing_measured_is_nan(labels):
    for found in (Mistakes(TREE).compute(), measured(TREE, torch.zeros(len(labels), 4), torch.tensor(labels, dtype=torch.int64))):
        assert math.isnan(found["hd1"])
        assert found["severity"] is None


@settings(max_examples=50)
@given(cases(), SPLITS)
def test_batches_do_not_matter(case, ends):
    tree, logits, labels = case
    assert_batches_do_not_matter(lambda: Mistakes(tree, ks=(1, 3)), (logits, labels), ends)


def test_other_distances_by_hand():
    """cat–dog: path 2, lca pet; cat–car: path 4, lca the root of the four."""
    logits, labels = torch.eye(4)[[DOG, CAR]], torch.tensor([CAT, CAT])
    assert measured(TREE, logits, labels)["hd1"] == (1 + 4) / 2
    assert measured(TREE, logits, labels, distance="path")["hd1"] == (2 + 4) / 2
    assert measured(TREE, logits, labels, distance="wup")["hd1"] == pytest.approx((1 - 4 / 6 + 1) / 2)
    assert measured(TREE, logits, labels, distance="information")["hd1"] == pytest.approx((1 / 2 + 1) / 2)


def test_further_down_the_list():
    """Of dog the four are dog, cat, wolf, car: 0, 1, 3, 4 edges."""
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    found = mistakes(scores, torch.tensor([DOG]), TREE, ks=(1, 2, 4, 20))
    assert found == {"top1": 1, "hd1": 0, "hd2": 1 / 2, "hd4": 2, "hd20": 2, "severity": None}


def test_one_class_is_no_distance_away():
    found = mistakes(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), ALONE)
    assert found == {"top1": 1, "hd1": 0, "hd5": 0, "hd20": 0, "severity": None}


def test_what_does_not_fit_is_refused():
    assert_scores_are_checked(Mistakes(TREE), lambda scores, labels: mistakes(scores, labels, TREE))
    with pytest.raises(ShapeError, match="ks: wanted one k or several"):
        Mistakes(TREE, ks=())
    with pytest.raises(HierarchyError, match="unknown distance 'lcs'"):
        Mistakes(TREE, distance="lcs")


def test_a_score_that_is_no_number_shows():
    """Training looks at the result and not at every batch."""
    found = measured(TREE, torch.tensor([[0.0, torch.nan, 1, 2], [1, 0, 0, 0]]), torch.tensor([DOG, CAR]), ks=(1, 5))
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_type_of_logits(dtype):
    logits, labels = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).to(dtype), torch.arange(30) % 4
    assert_close(measured(TREE, logits, labels), loop(TREE, logits, labels))


def test_inputs_are_not_written_to():
    logits, labels = torch.eye(4), torch.tensor([0, 1, TREE.label("pet"), 2])
    measured(TREE, logits, labels)
    assert logits.equal(torch.eye(4))
    assert labels.tolist() == [0, 1, TREE.label("pet"), 2]


def test_equal_scores_are_one_prediction_for_all_metrics():
    tree = builtin("synthetic")
    logits, labels = torch.randint(0, 2, (500, tree.num_classes)).float(), torch.randint(tree.num_classes, (500,))
    cuts = tree.cuts([3, 9])
    levels = LevelAccuracy(tree.num_classes, cuts)
    levels.update(logits, labels)
    wrong = [1 - accuracy for accuracy in levels.compute()["accuracy"].values()]
    assert mistakes(logits, labels, tree)["hd1"] == pytest.approx(sum(wrong))  # every level of this tree is a cut
