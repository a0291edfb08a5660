"""The operating curve against its definition, threshold by threshold and sample by sample."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.batches import (
    ALONE,
    FLAT,
    SPLITS,
    TREE,
    assert_batches_do_not_matter,
    assert_close,
    assert_scores_are_checked,
    cases,
    common,
    leaves,
    mean,
    predicted_at,
    probabilities,
    says_something,
    thresholds,
)

from hiercnn.errors import DataError, HierarchyError, ShapeError
from hiercnn.hierarchy import Hierarchy, builtin
from hiercnn.metrics import OperatingCurve, operating_curve

NAMES = ("correct", "recall", "precision", "exact")
RULES = st.sampled_from(["threshold", "climbing"])
CAR, WOLF, CAT, DOG = range(4)
ANIMAL, PET, ROOT = (TREE.label(name) for name in ("animal", "pet", "root"))


def judged(tree: Hierarchy, predicted: int, wanted: int) -> tuple[float, ...]:
    """Correct, recall, precision and exact of one node."""
    bits = {node: -math.log2(leaves(tree, node) / tree.num_classes) for node in range(tree.num_nodes)}
    lca = common(tree, predicted, wanted)
    predicted = wanted if lca == wanted else predicted
    recall = bits[lca] / bits[wanted] if bits[wanted] else 1
    precision = bits[lca] / bits[predicted] if bits[predicted] else 1
    return lca == predicted, recall, precision, predicted == wanted


def point(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor, rule: str, threshold: float) -> tuple[float, ...]:
    """Means over the samples at one threshold."""
    rows = [
        judged(tree, predicted_at(tree, q, row, rule, threshold), int(tree.label_nodes[label]))
        for q, row, label in zip(probabilities(tree, logits).tolist(), logits.tolist(), labels.tolist(), strict=True)
        if says_something(tree, label)
    ]
    return tuple(mean(column) for column in zip(*rows, strict=True)) if rows else (math.nan,) * 4


def area(points: list[tuple[float, float]]) -> float:
    """Below the highest value at a recall or beyond it."""
    found, last = 0.0, 0.0
    for recall in sorted({recall for recall, _ in points}):
        found += (recall - last) * max(value for r, value in points if r >= recall)
        last = recall
    return found


def loop(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor, rule: str) -> dict:
    points = [point(tree, logits, labels, rule, threshold) for threshold in thresholds(probabilities(tree, logits))]
    counted = sum(says_something(tree, label) for label in labels.tolist())
    if not counted:
        return dict.fromkeys(("ac", "ap", "ac_exact", "recall_at_95"), math.nan) | {"images": 0}
    return {
        "ac": area([(recall, correct) for correct, recall, _, _ in points]),
        "ap": area([(recall, precision) for _, recall, precision, _ in points]),
        "ac_exact": area([(exact, correct) for correct, _, _, exact in points]),
        "recall_at_95": max([recall for correct, recall, _, _ in points if correct >= 0.95], default=0.0),
        "images": counted,
    }


@pytest.mark.long
@settings(max_examples=60)
@given(cases(), RULES)
def test_numbers_are_those_of_loops(case, rule):
    tree, logits, labels = case
    assert_close(operating_curve(logits, labels, tree, rule), loop(tree, logits, labels, rule))


@pytest.mark.long
@settings(max_examples=40)
@given(cases(), RULES)
def test_every_point_is_the_mean_at_its_threshold(case, rule):
    tree, logits, labels = case
    metric = OperatingCurve(tree, rule)
    metric.update(logits, labels)
    curve = metric.curve()
    assert (curve["threshold"][1:] < curve["threshold"][:-1]).all()
    for at, threshold in enumerate(curve["threshold"]):
        if len(metric):
            assert_close([curve[name][at] for name in NAMES], list(point(tree, logits, labels, rule, threshold)))


@settings(max_examples=50)
@given(cases(), RULES, SPLITS)
def test_batches_do_not_matter(case, rule, ends):
    tree, logits, labels = case
    assert_batches_do_not_matter(lambda: OperatingCurve(tree, rule), (logits, labels), ends)


@pytest.mark.parametrize("rule", ["threshold", "climbing"])
def test_ends_of_the_curve(rule):
    """From the root, which is correct and says nothing, to the most likely leaf."""
    tree = builtin("synthetic")
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(tree.num_classes, (200,), generator=generator)
    logits = torch.randn(200, tree.num_classes, generator=generator) + 2 * torch.nn.functional.one_hot(labels, tree.num_classes)
    metric = OperatingCurve(tree, rule)
    metric.update(logits, labels)
    curve = metric.curve()
    assert [curve[name][0] for name in NAMES] == [1, 0, 1, 0]
    top1 = (logits.argmax(1) == labels).double().mean().item()
    assert curve["correct"][-1] == pytest.approx(top1)
    assert curve["exact"][-1] == pytest.approx(top1)


def test_by_hand():
    """Two cats, sure of the animal at .9 and of the leaf at .6: a cat, and at .5 a dog. Bits: animal log2 4/3, leaf 2."""
    metric = OperatingCurve(TREE)
    sequence = torch.tensor([[ROOT, ANIMAL, CAT], [ROOT, ANIMAL, DOG]])
    metric.update_sequences(sequence, torch.tensor([[1, 0.9, 0.6], [1, 0.9, 0.5]]), torch.tensor([CAT, CAT]))
    animal, pet = math.log2(4 / 3) / 2, 1 / 2  # recall of a cat
    curve = metric.curve()
    assert curve["threshold"].tolist() == pytest.approx([math.inf, 0.9, 0.6, 0.5])
    assert curve["correct"].tolist() == [1, 1, 1, 0.5]
    assert curve["recall"].tolist() == pytest.approx([0, animal, (1 + animal) / 2, (1 + pet) / 2])
    assert curve["precision"].tolist() == pytest.approx([1, 1, 1, (1 + pet) / 2])
    assert curve["exact"].tolist() == [0, 0, 0.5, 0.5]
    found = metric.compute()
    rest = (pet - animal) / 2
    assert found["ac"] == pytest.approx((1 + animal) / 2 + rest / 2)
    assert found["ap"] == pytest.approx((1 + animal) / 2 + rest * 3 / 4)
    assert found["ac_exact"] == 0.5
    assert found["recall_at_95"] == pytest.approx((1 + animal) / 2)


def test_a_point_that_another_beats_in_both_does_not_count():
    """A car that is an animal at first: at .8 both samples have half, at .5 all."""
    metric = OperatingCurve(TREE)
    sequence = torch.tensor([[ROOT, CAT, -1], [ROOT, ANIMAL, CAR]])
    metric.update_sequences(sequence, torch.tensor([[1, 0.8, 0], [1, 0.9, 0.5]]), torch.tensor([CAT, CAR]))
    assert metric.curve()["correct"].tolist() == [1, 0.5, 0.5, 1]
    assert metric.curve()["recall"].tolist() == [0, 0, 0.5, 1]
    assert metric.compute() == {"ac": 1, "ap": 1, "ac_exact": 1, "recall_at_95": 1, "images": 2}


def test_predictions_below_an_inner_label_are_cut_back_to_it():
    found = operating_curve(torch.eye(4)[[CAT, DOG]] * 100, torch.tensor([PET, PET]), TREE)
    assert found == {"ac": 1, "ap": 1, "ac_exact": 1, "recall_at_95": 1, "images": 2}


def test_labels_that_hold_all_classes_are_left_out():
    logits = torch.eye(4)
    found = operating_curve(logits, torch.tensor([CAR, ROOT, CAT, ROOT]), TREE)
    assert found == operating_curve(logits[[0, 2]], torch.tensor([CAR, CAT]), TREE)
    assert math.isnan(operating_curve(logits[:1], torch.tensor([ROOT]), TREE)["ac"])


def test_in_a_tree_of_one_level_it_is_selective_accuracy():
    """Root or leaf: recall is the share of right leaves given, AC the area under the share of no wrong ones."""
    scores = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]], dtype=torch.float64).log()
    found = operating_curve(scores, torch.tensor([0, 1, 2]), FLAT)
    assert_close(found, {"ac": 2 / 3, "ap": 2 / 3, "ac_exact": 2 / 3, "recall_at_95": 2 / 3, "images": 3})


def test_one_class_is_always_right():
    found = operating_curve(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), ALONE)
    assert found == {"ac": 1, "ap": 1, "ac_exact": 1, "recall_at_95": 1, "images": 2}


def test_wordnet_sequences_are_short():
    """What is kept is stated in bytes a step."""
    tree = builtin("imagenet1k")
    metric = OperatingCurve(tree)
    metric.update(3 * torch.randn(200, 1000, generator=torch.Generator().manual_seed(0)), torch.arange(200))
    (confidence, predicted, lengths, labels) = metric._parts[0]
    assert len(confidence) == len(predicted) == lengths.sum()
    assert confidence.itemsize + predicted.itemsize == 12
    assert lengths.itemsize + labels.itemsize == 16
    assert lengths.max() < 40


@pytest.mark.parametrize(
    ("predicted", "confidence", "wanted"),
    [
        ([ANIMAL, CAT, DOG], [0.9, 0.5, 0.6], "sample 0 of this batch has a confidence that rises"),
        ([CAT, PET, -1], [0.9, 0.8, 0.7], "has a node less specific than the one before it"),
        ([-1, -1, -1], [0.9, 0.8, 0.7], "is empty, or has a gap"),
        ([ANIMAL, -1, CAT], [0.9, 0.8, 0.7], "is empty, or has a gap"),
        ([ANIMAL, PET, CAT], [0.9, math.nan, 0.7], "has a confidence that is no number"),
    ],
)
def test_sequences_that_are_none_are_refused(predicted, confidence, wanted):
    metric = OperatingCurve(TREE)
    with pytest.raises(DataError, match=wanted):
        metric.update_sequences(torch.tensor([predicted]), torch.tensor([confidence]), torch.tensor([CAT]))
    assert len(metric) == 0


def test_what_does_not_fit_is_refused():
    assert_scores_are_checked(OperatingCurve(TREE), lambda scores, labels: operating_curve(scores, labels, TREE))
    with pytest.raises(HierarchyError, match="unknown decision rule 'treshold'.*did you mean 'threshold'"):
        OperatingCurve(TREE, "treshold")
    metric, one = OperatingCurve(TREE), torch.tensor([CAT])
    with pytest.raises(ShapeError, match=r"predicted: wanted int64 \[1, S\], got \[2, 3\]"):
        metric.update_sequences(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), one)
    with pytest.raises(ShapeError, match=r"confidence: wanted floats \[1, 3\], got \[1, 2\]"):
        metric.update_sequences(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 2), one)
    with pytest.raises(ShapeError, match="predicted: wanted numbers from -1 to 8, got 9"):
        metric.update_sequences(torch.tensor([[9]]), torch.ones(1, 1), one)


def test_nothing_measured_is_nan():
    found = OperatingCurve(TREE).compute()
    assert math.isnan(found["ac"])
    assert found["images"] == 0
