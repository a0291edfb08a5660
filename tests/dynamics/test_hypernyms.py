"""Accuracy of hypernyms against plain loops, and what chance gives."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hiercnn.dynamics import confusion_matrix, first_reaching, hypernym_scores, sum_rule_hits
from hiercnn.errors import DataError, ShapeError

GROUPS = np.array([0, 0, 1, 1, 1, 2])


def images(seed: int, count: int = 200, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Actual classes, unevenly many, and predicted ones."""
    rng = np.random.default_rng(seed)
    actual = rng.integers(0, classes, count) // rng.integers(1, 3, count)
    return actual, np.where(rng.random(count) < 0.4, actual, rng.integers(0, classes, count))


def counted(actual: np.ndarray, predicted: np.ndarray, classes: int = 6) -> np.ndarray:
    return confusion_matrix(torch.tensor(predicted), torch.tensor(actual), classes)


def scores_loop(actual, predicted, groups) -> tuple[float, ...]:
    right, residual, null, wrong = 0, 0, 0.0, 0
    sizes = {g: sum(other == g for other in groups) for g in groups}
    for a, p in zip(actual, predicted, strict=True):
        right += groups[a] == groups[p]
        if a != p:
            wrong += 1
            residual += groups[a] == groups[p]
            null += (sizes[groups[a]] - 1) / (len(groups) - 1)
    q = max(sum(groups[a] == g for a in actual) for g in sizes) / len(actual)
    greedy = right / len(actual)
    return greedy, (greedy - q) / (1 - q), residual / wrong, null / wrong, (residual / wrong) / (null / wrong)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_the_loop(seed):
    actual, predicted = images(seed)
    assert counted(actual, predicted)[2, 4] == ((actual == 2) & (predicted == 4)).sum()
    assert hypernym_scores(counted(actual, predicted), GROUPS) == pytest.approx(scores_loop(actual, predicted, GROUPS))


@given(seed=st.integers(0, 1000), groups=st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_groups_are_never_harder_than_classes(seed, groups):
    confusion = counted(*images(seed))
    groups = np.unique(groups, return_inverse=True)[1]
    assert hypernym_scores(confusion, groups).greedy >= np.trace(confusion) / confusion.sum() - 1e-12


def test_errors_drawn_evenly_have_no_lift():
    confusion = np.full((6, 6), 7) + np.diag([50, 10, 0, 3, 4, 5])
    assert hypernym_scores(confusion, GROUPS).lift == pytest.approx(1)


def test_errors_inside_groups_alone():
    confusion = (GROUPS[:, None] == GROUPS) * 10
    scores = hypernym_scores(confusion, GROUPS)
    assert (scores.greedy, scores.corrected, scores.residual) == (1, 1, 1)
    assert scores.lift > 2


def test_guessing_the_largest_group_is_worth_nothing():
    confusion = np.zeros((6, 6), dtype=int)
    confusion[:, 3] = [1, 1, 9, 9, 9, 1]
    assert hypernym_scores(confusion, GROUPS).corrected == pytest.approx(0)


def test_no_errors_leave_no_residual():
    scores = hypernym_scores(np.eye(6, dtype=int), GROUPS)
    assert scores.greedy == 1
    assert np.isnan([scores.residual, scores.null, scores.lift]).all()


def test_bad_confusions():
    with pytest.raises(ShapeError, match=r"confusion: wanted \[6, 6\], a row and a column a class, got \[5, 6\]"):
        hypernym_scores(np.ones((5, 6)), GROUPS)
    with pytest.raises(DataError, match="without images has no accuracy"):
        hypernym_scores(np.zeros((6, 6)), GROUPS)


def test_sum_rule_is_the_loop_and_may_differ_from_the_most_likely_class():
    logits = torch.tensor([[1.0, 0.9, 1.1, -9, -9, -9], [3.0, 0, 0, 0, 0, 0]]).repeat(3, 1)
    labels, groups = torch.tensor([0, 0, 2, 2, 5, 1]), torch.tensor(GROUPS)
    hits = 0
    for row, label in zip(logits.double(), labels, strict=True):
        sums = [row.softmax(0)[torch.tensor(g == GROUPS)].sum().item() for g in range(3)]
        hits += int(np.argmax(sums) == GROUPS[label])
    assert sum_rule_hits(logits, labels, groups) == hits
    assert sum_rule_hits(logits[:1], labels[:1], groups) == 1  # the most likely class is of another group


@pytest.mark.parametrize(
    ("values", "share", "from_start", "wanted"),
    [
        ([0.1, 0.4, 0.5, 0.8, 1.0], 0.5, False, 2),
        ([0.1, 0.4, 0.5, 0.8, 1.0], 0.9, False, 4),
        ([0.1, 0.9, 0.5, 1.0], 0.8, False, 1),
        ([8.0, 5.0, 2.0, 1.5, 1.0], 0.9, True, 3),
        ([8.0, 5.0, 1.5, 1.5, 1.0], 0.9, True, 2),
        ([3.0, 3.0], 0.9, True, None),
        ([0.2, np.nan], 0.9, False, None),
        ([], 0.5, False, None),
        ([0.7], 0.9, False, 0),
    ],
)
def test_first_reaching(values, share, from_start, wanted):
    assert first_reaching(np.array(values), share, from_start=from_start) == wanted
