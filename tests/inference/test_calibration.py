"""Temperature, the threshold that keeps a promise, and what answers are worth."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inference import oracles
from inference.oracles import TREE, cases
from scipy.stats import binom

from hiercnn.errors import CheckpointError, DataError, RecipeError, ShapeError
from hiercnn.hierarchy import Hierarchy, builtin, from_nested
from hiercnn.inference import Auto, Calibration, Climbing, calibrate, describe_answers, fit_temperature, rules
from hiercnn.inference import _calibrate as module
from hiercnn.inference._calibrate import GRID, breaking_points, choose_threshold, most_errors, risk_bound

SHAPES = builtin("cifar10")


def images(count: int, seed: int = 0, tree: Hierarchy = SHAPES, sharpness: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, C] and classes drawn from their softmax, as a calibrated network has it; then logits times `sharpness`."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, tree.num_classes, dtype=torch.float64, generator=rng)
    return sharpness * logits, torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]


def labels_with_inner(tree: Hierarchy, labels: torch.Tensor) -> torch.Tensor:
    """Every second label coarsened to its parent."""
    parents = torch.tensor([tree.label(tree.names[tree.parents[node]]) for node in tree.leaf_nodes])
    return torch.where(torch.arange(len(labels)) % 2 == 0, labels, parents[labels])


# ---- temperature


@pytest.mark.parametrize("sharpness", [0.5, 1, 3])
@pytest.mark.parametrize("inner", [False, True])
def test_the_temperature_of_a_known_network_is_found(sharpness, inner):
    logits, labels = images(4000, sharpness=sharpness)
    labels = labels_with_inner(SHAPES, labels) if inner else labels
    found = fit_temperature(logits, labels, SHAPES)
    assert found.value == pytest.approx(sharpness, rel=0.06)
    assert (found.images, found.note) == (4000, "")
    assert found.nll_after <= found.nll_before


@pytest.mark.parametrize("inner", [False, True])
def test_the_temperature_minimises_what_it_says(inner):
    logits, labels = images(50, sharpness=2)
    labels = labels_with_inner(SHAPES, labels) if inner else labels

    def objective(t: float) -> float:
        q = oracles.marginals(SHAPES, logits / t)
        return -np.log(q[np.arange(50), SHAPES.label_nodes[labels]]).sum() + math.log(t) ** 2 / (2 * math.log(2) ** 2)

    found = fit_temperature(logits, labels, SHAPES)
    assert objective(found.value) <= min(map(objective, np.geomspace(0.1, 20, 500))) + 1e-6
    assert 50 * found.nll_before == pytest.approx(objective(1.0))


def test_where_the_likelihood_has_no_optimum_the_prior_bounds_the_temperature():
    logits, labels = images(1000)
    right = logits + 100 * torch.nn.functional.one_hot(labels, 10)
    cases = {"separable": (right, labels), "one class": (torch.randn(9, 1), torch.zeros(9, dtype=torch.int64))}
    cases["separable, but hardly"] = (torch.tensor([[1e-3, 0.0]]).expand(1000, 2), torch.zeros(1000, dtype=torch.int64))
    for name, (scores, those) in cases.items():
        found = fit_temperature(scores, those)
        assert 0.001 <= found.value <= 1.001, name
        assert "nothing but the prior holds the temperature" in found.note, name
    always_wrong = fit_temperature(right, (labels + 1) % 10)
    assert 1 < always_wrong.value < 1000


def test_a_few_images_move_the_temperature_little():
    logits = torch.tensor([[2.0, 0, 0]]).expand(5, 3)
    assert 0.5 < fit_temperature(logits, torch.zeros(5, dtype=torch.int64)).value < 1


def test_half_types_and_blocks(monkeypatch):
    logits, labels = images(300)
    whole = fit_temperature(logits.half(), labels_with_inner(SHAPES, labels), SHAPES).value
    monkeypatch.setattr("hiercnn.inference._temperature.BLOCK", 70)
    assert fit_temperature(logits.half().double(), labels_with_inner(SHAPES, labels), SHAPES).value == pytest.approx(whole, rel=1e-3)


# ---- the threshold


@given(cases(), st.integers(0, 99))
def test_an_answer_is_wrong_exactly_up_to_the_breaking_point(case, seed):
    tree, logits = case
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, tree.num_nodes, len(logits)))
    points = breaking_points(tree, logits, labels)
    for theta in (0.0, 0.2, 0.5, 0.9, 1.0):
        answers = Climbing(tree, threshold=theta)(logits).nodes.tolist()
        wrong = [not oracles.is_right(tree, answer, label) for answer, label in zip(answers, labels.tolist(), strict=True)]
        assert (points >= theta).tolist() == wrong


@pytest.mark.parametrize("images", [1, 20, 58, 59, 200, 3000])
@pytest.mark.parametrize(("target", "confidence"), [(0.95, 0.95), (0.9, 0.99), (0.5, 0.5)])
def test_most_errors_is_the_exact_binomial_test_and_its_bound(images, target, confidence):
    found = most_errors(images, target, confidence)
    wanted = [k for k in range(images + 1) if binom.cdf(k, images, 1 - target) <= 1 - confidence]
    assert found == (max(wanted) if wanted else -1)
    for errors in {0, images // 3, images - 1}:
        bound = risk_bound(errors, images, confidence)
        assert binom.cdf(errors, images, bound) == pytest.approx(1 - confidence, abs=1e-6)
        assert (errors <= found) == (bound <= 1 - target)
    assert risk_bound(images, images, confidence) == 1


def test_the_threshold_is_the_last_before_the_first_failure():
    assert GRID[0] == 0
    assert GRID[-1] == 1
    assert (np.diff(GRID) > 0).all()
    points = np.concatenate([np.full(80, -1.0), np.linspace(0.3, 0.7, 20)])  # 20 of 100 images can be wrong
    allowed = most_errors(100, 0.9, 0.9)
    assert 0 < allowed < 20
    found = choose_threshold(points, 0.9, 0.9)
    assert (points >= found).sum() == allowed
    below = GRID[np.searchsorted(GRID, found) - 1]
    assert (points >= below).sum() == allowed + 1


def test_without_errors_every_answer_is_a_class():
    logits, labels = images(400)
    found = calibrate(SHAPES, logits + 50 * torch.nn.functional.one_hot(labels, 10), labels)
    assert (found.threshold, found.errors, found.answers.classes, found.answers.right) == (0, 0, 1, 1)
    assert 0 < found.bound < 0.05
    assert "every answer is a class" in found.describe()


def test_confident_mistakes_leave_the_root():
    logits, labels = images(400)
    found = calibrate(SHAPES, 1e4 * torch.nn.functional.one_hot((labels + 1) % 10, 10).double(), labels, temperature_share=0)
    assert found.threshold is None
    assert (found.errors, found.bound, found.answers.depths[0], found.answers.information) == (0, 0, 1, 0)
    assert "every answer is the root, which is always right and says nothing" in found.note
    rule = Auto(SHAPES, calibration=found)
    assert not rule(logits).nodes.any()
    assert rule.reason(logits[0]) == f"every answer is {SHAPES.titles[0]}: no threshold is known with which 95 % are right"


@pytest.mark.parametrize("count", [1, 2, 58])
def test_too_few_images_say_so(count):
    logits, labels = images(count)
    found = calibrate(SHAPES, logits, labels, temperature_share=0)
    assert found.threshold is None
    assert f"{count} images are too few to show it, even without an error; it takes 59" in found.describe()
    assert "no images were left to fit the temperature on" in found.describe()


def test_59_images_without_an_error_are_just_enough():
    logits, labels = images(59)
    right = logits + 50 * torch.nn.functional.one_hot(labels, 10)
    assert calibrate(SHAPES, right, labels, temperature_share=0).threshold == 0


# ---- the promise


def share_of_broken_promises(target: float, confidence: float, draws: int = 200) -> float:
    """In how many draws of 300 calibration images over 1 − target of the answers to the whole population are wrong."""
    logits, labels = images(5000, sharpness=2.5)
    broken = 0
    for seed in range(draws):
        some = torch.from_numpy(np.random.default_rng(seed).integers(0, len(labels), 300))
        found = calibrate(SHAPES, logits[some], labels[some], target=target, confidence=confidence, seed=seed)
        points = breaking_points(SHAPES, logits, labels, found.temperature.value)
        broken += found.threshold is not None and (points >= found.threshold).mean() > 1 - target
    return broken / draws


@pytest.mark.long
def test_the_promise_is_kept_as_often_as_it_says():
    assert 0 < share_of_broken_promises(0.9, 0.9) <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 200)


@pytest.mark.long
def test_the_share_seen_would_not_keep_it(monkeypatch):
    monkeypatch.setattr(module, "most_errors", lambda images, target, confidence: int((1 - target) * images))
    assert share_of_broken_promises(0.9, 0.9) > 0.1 + 6 * math.sqrt(0.1 * 0.9 / 200)


# ---- calibrate and auto


def test_auto_answers_as_its_calibration_says_and_survives_json():
    logits, labels = images(3000, sharpness=2)
    found = calibrate(SHAPES, logits, labels, target=0.9)
    stored = json.loads(json.dumps(found.to_dict()))
    assert Calibration.from_dict(stored) == found
    rule = rules["auto"](SHAPES, calibration=stored)
    assert 0 < rule.threshold < 1
    fresh, truth = images(20_000, seed=1, sharpness=2)
    answers = describe_answers(SHAPES, rule(fresh), truth)
    assert answers.right >= 0.9
    assert answers.right == pytest.approx(answers.probability, abs=0.01)  # the temperature is right
    assert answers.depths == pytest.approx(found.answers.depths, abs=0.03)
    assert found.plain.classes == 1
    assert found.plain.right < found.answers.right
    assert found.answers.images == 2250
    assert found.errors == round((1 - found.answers.right) * 2250)
    wanted = Climbing(SHAPES, threshold=found.threshold, temperature=found.temperature.value)(fresh)
    assert torch.equal(rule(fresh).nodes, wanted.nodes)


def test_the_description_says_what_is_promised_and_what_it_costs():
    logits, labels = images(800, sharpness=2)
    said = calibrate(SHAPES, logits, labels, target=0.975, confidence=0.9).describe()
    assert "with 90 % confidence at least 97.5 % of the answers to images like these are right" in said
    assert re.search(r"Of 600 calibration images \d+\.\d% were answered right \(expected \d", said)
    assert re.search(r"Answers by depth: 0: \d+\.\d%, ", said)


def test_the_temperature_has_not_seen_the_images_of_the_threshold():
    logits, labels = images(400)
    found = calibrate(SHAPES, logits, labels, temperature_share=0.5, seed=3)
    order = np.random.default_rng(3).permutation(400)
    assert found.temperature == fit_temperature(logits[order[:200]], labels[order[:200]], SHAPES)
    assert found.answers.images == 200


def test_a_calibration_of_another_hierarchy_is_refused():
    logits, labels = images(200)
    found = calibrate(SHAPES, logits, labels)
    with pytest.raises(CheckpointError, match="the calibration is of another hierarchy, or of classes in another order"):
        Auto(SHAPES.with_classes(SHAPES.classes[::-1]), calibration=found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": "high"}, "threshold: Input should be a valid number"),
        ({"treshold": 1}, "treshold: Extra inputs are not permitted"),
        ({"temperature": {"value": 1.0}}, "temperature.images: Field required"),
        ({"bound": float("nan")}, "bound: Input should be a finite number"),
    ],
)
def test_other_dictionaries_are_refused(change, message):
    logits, labels = images(100)
    with pytest.raises(CheckpointError, match=message):
        Calibration.from_dict(calibrate(SHAPES, logits, labels).to_dict() | change)


# ---- labels that are inner nodes


def test_answers_below_a_coarse_label_count_as_wrong_and_only_children_as_right():
    sure = 20 * torch.eye(4, dtype=torch.float64)  # car, wolf, cat, dog
    labels = torch.tensor([TREE.label(name) for name in ("car", "wild", "pet", "wolf")])
    answers = describe_answers(TREE, Climbing(TREE)(sure), labels)
    assert (answers.right, answers.below) == (0.5, 0.25)  # wolf is the only wild one; cat is below pet; dog is no wolf
    assert answers.depths == [0, 0.25, 0, 0.5, 0.25]
    points = breaking_points(TREE, sure, labels)
    assert (points[:2] == -1).all()
    assert (points[2:] > 0.99).all()


def test_coarse_labels_keep_the_promise_for_the_classes_behind_them():
    logits, labels = images(3000)
    fine = calibrate(SHAPES, logits, labels, target=0.8)
    coarse = calibrate(SHAPES, logits, labels_with_inner(SHAPES, labels), target=0.8)
    assert coarse.threshold > fine.threshold
    fresh, truth = images(20_000, seed=1)
    assert describe_answers(SHAPES, Auto(SHAPES, calibration=coarse)(fresh), truth).right >= 0.8


@given(cases(), st.integers(0, 99))
def test_answers_are_counted_as_loops_do(case, seed):
    tree, logits = case
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, tree.num_nodes, len(logits)))
    decision = Climbing(tree, threshold=0.5)(logits)
    found, nodes = describe_answers(tree, decision, labels), decision.nodes.tolist()
    right = [oracles.is_right(tree, node, label) for node, label in zip(nodes, labels.tolist(), strict=True)]
    below = [int(tree.label_nodes[label]) in tree.ancestors(node) for node, label in zip(nodes, labels.tolist(), strict=True)]
    assert found.right == pytest.approx(np.mean(right))
    assert found.below == pytest.approx(np.mean(np.array(below) & ~np.array(right)))
    assert found.depths == pytest.approx([np.mean([tree.depths[v] == d for v in nodes]) for d in range(tree.height + 1)])
    assert found.classes == pytest.approx(np.mean([tree.is_leaf(v) for v in nodes]))
    information = [1 - math.log(len(tree.leaves(v))) / math.log(max(tree.num_classes, 2)) for v in nodes]
    assert found.information == pytest.approx(np.mean(information))
    assert found.probability == pytest.approx(float(decision.probability.mean()))


def test_a_tree_of_one_class_is_calibrated():
    tree = from_nested({"a": ["only"]})
    found = calibrate(tree, torch.randn(100, 1), torch.zeros(100, dtype=torch.int64))
    assert (found.threshold, found.answers.information, found.temperature.value) == (0, 1, pytest.approx(1))


# ---- what is refused

LOGITS, LABELS = torch.zeros(8, 10), torch.zeros(8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("logits", "labels", "options", "error", "message"),
    [
        (LOGITS[:0], LABELS[:0], {}, DataError, "calibration needs images; the split is empty"),
        (LOGITS, LABELS[:3], {}, ShapeError, "target: wanted [8], one label a row, got [3]"),
        (LOGITS[:, :9], LABELS, {}, ShapeError, "logits: wanted [B, 10], one number a class, got [8, 9]"),
        (LOGITS, LABELS.int(), {}, ShapeError, "target: wanted int64, got int32"),
        (LOGITS, LABELS + 99, {}, DataError, "labels: wanted 0 to 15, got 99; leave such images out"),
        (LOGITS, LABELS - 1, {}, DataError, "labels: wanted 0 to 15, got -1; leave such images out"),
        (LOGITS * float("nan"), LABELS, {}, DataError, "logits: some are NaN or infinite"),
        (LOGITS * float("nan"), LABELS, {"temperature_share": 0}, DataError, "no probabilities follow from row 0"),
        (LOGITS, LABELS, {"target": 1}, RecipeError, "target: wanted a share over 0 and below 1, got 1"),
        (LOGITS, LABELS, {"confidence": 0.0}, RecipeError, "confidence: wanted a share over 0 and below 1, got 0.0"),
        (LOGITS, LABELS, {"temperature_share": 1}, RecipeError, "temperature_share: wanted a share from 0 to below 1, got 1"),
    ],
)
def test_bad_calibration_splits(logits, labels, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        calibrate(SHAPES, logits, labels, **options)


def test_labels_of_a_head_without_its_tree():
    with pytest.raises(DataError, match="labels: wanted 0 to 9, got 12"):
        fit_temperature(LOGITS, LABELS + 12)
