"""HD@1 and severity against plain loops over the tree's own distances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import trees

from hiercnn.hierarchy import Hierarchy, builtin, from_classes, from_nested
from hiercnn.metrics import LevelAccuracy, Mistakes

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf"]}}, "car": None}, ["car", "wolf", "cat", "dog"])
CAR, WOLF, CAT, DOG = range(4)


@st.composite
def cases(draw) -> tuple[Hierarchy, torch.Tensor, torch.Tensor]:
    """A random tree, logits [B, C], some of them high at the right class, and labels [B] of classes and inner nodes."""
    tree, seed, count = draw(trees()), draw(st.integers(0, 999)), draw(st.integers(0, 20))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, tree.num_nodes if draw(st.booleans()) else tree.num_classes, (count,), generator=generator)
    logits = torch.randn(count, tree.num_classes, generator=generator)
    return tree, logits + 2 * (labels[:, None] == torch.arange(tree.num_classes)), labels


def measured(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor) -> dict:
    mistakes = Mistakes(tree)
    mistakes.update(logits, labels)
    return mistakes.compute()


def predicting(tree: Hierarchy, labels: list[int], predicted: list[int]) -> dict:
    """What is measured if these classes are predicted for these labels."""
    return measured(tree, torch.nn.functional.one_hot(torch.tensor(predicted), tree.num_classes).float(), torch.tensor(labels))


def loop(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor) -> dict:
    """The same numbers, one image after the other."""
    distances, severities = [], []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label >= tree.num_classes:
            continue
        guess = max(range(tree.num_classes), key=lambda c: row[c])
        distances.append(float(tree.distances(label, guess, kind="lca")) * tree.height)
        severities += [distances[-1]] if guess != label else []
    hd1 = sum(distances) / len(distances) if distances else math.nan
    return {"hd1": hd1, "severity": sum(severities) / len(severities) if severities else None}


def check_equal(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    assert found["hd1"] == pytest.approx(wanted["hd1"], nan_ok=True)
    assert found["severity"] == (wanted["severity"] if wanted["severity"] is None else pytest.approx(wanted["severity"]))


@given(cases())
def test_numbers_are_those_of_loops(case):
    check_equal(measured(*case), loop(*case))


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
@given(cases(), st.lists(st.integers(0, 20), min_size=1, max_size=4))
def test_merging_and_batches_give_one_pass(case, ends):
    tree, logits, labels = case
    ends = [0, *sorted(min(end, len(labels)) for end in ends), len(labels)]
    batches, parts = Mistakes(tree), [Mistakes(tree) for _ in ends[1:]]
    for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True):
        part.update(logits[start:end], labels[start:end])
        batches.update(logits[start:end], labels[start:end])
    for part in parts[1:]:
        parts[0].merge(part)
    check_equal(batches.compute(), measured(*case))
    check_equal(parts[0].compute(), measured(*case))


def test_what_is_merged_stays_as_it_was():
    one, other = Mistakes(TREE), Mistakes(TREE)
    one.update(torch.eye(4), torch.tensor([CAR, CAR, CAT, CAT]))  # right, 4, right, 1
    other.update(torch.eye(4)[:1], torch.tensor([CAT]))  # 4
    before = other.compute()
    one.merge(other)
    assert other.compute() == before == {"hd1": 4, "severity": 4}
    assert one.compute() == {"hd1": 9 / 5, "severity": 3}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_type_of_logits(dtype):
    logits, labels = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).to(dtype), torch.arange(30) % 4
    check_equal(measured(TREE, logits, labels), loop(TREE, logits, labels))


def test_inputs_are_not_written_to():
    logits, labels = torch.eye(4), torch.tensor([0, 1, TREE.label("pet"), 2])
    measured(TREE, logits, labels)
    assert logits.equal(torch.eye(4))
    assert labels.tolist() == [0, 1, TREE.label("pet"), 2]


def test_equal_scores_are_one_prediction_for_all_metrics():
    tree = builtin("synthetic")
    logits, labels = torch.randint(0, 2, (500, tree.num_classes)).float(), torch.randint(tree.num_classes, (500,))
    cuts = tree.cuts([3, 9])
    levels, mistakes = LevelAccuracy(tree.num_classes, cuts), Mistakes(tree)
    levels.update(logits, labels)
    mistakes.update(logits, labels)
    wrong = [1 - accuracy for accuracy in levels.compute()["accuracy"].values()]
    assert mistakes.compute()["hd1"] == pytest.approx(sum(wrong))  # every level of this tree is a cut
