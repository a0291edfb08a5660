"""Neural collapse against float64 loops, and the states whose answers are known."""

import numpy as np
import pytest
import torch
from clustering.test_collapse_fixtures import TRUE, simplex, statistics

from hiercnn.clustering import ClassStatistics
from hiercnn.dynamics import collapse, etf_floors, group_rows, nc4, nearest_mean
from hiercnn.errors import DataError, ShapeError


def gathered(features: np.ndarray, labels: np.ndarray) -> ClassStatistics:
    return ClassStatistics(labels.max() + 1, features.shape[1]).update(torch.from_numpy(features), torch.from_numpy(labels))


def collapse_loop(features: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    count = labels.max() + 1
    means = np.stack([features[labels == c].mean(0) for c in range(count)])
    mean = features.mean(0)
    within = sum(np.outer(h - means[c], h - means[c]) for h, c in zip(features, labels, strict=True)) / len(features)
    between = sum((labels == c).mean() * np.outer(means[c] - mean, means[c] - mean) for c in range(count))
    norms = [np.linalg.norm(m - mean) for m in means]
    cosines = [(means[a] - mean) @ (means[b] - mean) / norms[a] / norms[b] for a in range(count) for b in range(a + 1, count)]
    rows = [np.linalg.norm(row) for row in weight]
    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / count,
        "trace_ratio": np.trace(within) / np.trace(between),
        "equinorm": np.std(norms, ddof=1) / np.mean(norms),
        "equiangular": np.std(cosines),
        "max_angle": np.mean([abs(c + 1 / (count - 1)) for c in cosines]),
        "nc3": ((weight / np.linalg.norm(weight) - (means - mean) / np.linalg.norm(means - mean)) ** 2).sum(),
        "w_equinorm": np.std(rows, ddof=1) / np.mean(rows),
    }


@pytest.mark.parametrize(("count", "features"), [(300, 12), (24, 40)], ids=["many images", "fewer images than features"])
def test_collapse_is_the_loop(count, features):
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(6), rng.integers(0, 6, count - 6)])
    values = rng.normal(size=(count, features)) + 2 * rng.normal(size=(6, features))[labels]
    weight = rng.normal(size=(6, features))
    found = collapse(gathered(values, labels), torch.tensor(weight))
    assert found._asdict() == pytest.approx(collapse_loop(values, labels, weight), rel=1e-6)


@pytest.mark.parametrize("groups", [TRUE, np.random.default_rng(5).permutation(TRUE)], ids=["true", "random"])
def test_collapsed_leaves_are_at_the_floors_of_any_groups(groups):
    rng = np.random.default_rng(0)
    leaves = statistics(simplex(rng), 1e-3, rng)
    assert collapse(leaves).nc1 < 1e-3
    found, floors = collapse(leaves.coarser(groups)), etf_floors(100, 5)
    assert found.nc1 < 1e-3
    assert found.trace_ratio == pytest.approx(4.2123, abs=0.01)
    assert floors["trace_ratio"] == pytest.approx(4.2105, abs=1e-4)
    assert found.max_angle < 1e-3
    assert found.equinorm < 1e-3


def test_unequal_groups_are_not_of_equal_norm():
    rng = np.random.default_rng(0)
    groups = np.append(np.repeat(np.arange(10), 2), 10 + np.repeat(np.arange(4), 20))
    assert collapse(statistics(simplex(rng), 1e-3, rng).coarser(groups)).equinorm == pytest.approx(0.4207, abs=1e-3)


def test_early_groups_collapse_before_classes_and_random_groups():
    rng = np.random.default_rng(0)
    means = np.linalg.qr(rng.normal(size=(256, 20)))[0].T[TRUE] + 0.1 * rng.normal(size=(100, 256)) / 16
    leaves = statistics(means, 0.02, rng)
    true, random = (collapse(leaves.coarser(groups)).nc1 for groups in (TRUE, rng.permutation(TRUE)))
    assert true * 10 < collapse(leaves).nc1
    assert true * 10 < random


def test_a_classifier_that_is_the_class_means_is_dual_to_them():
    rng = np.random.default_rng(0)
    leaves = statistics(simplex(rng), 1e-3, rng)
    centred = leaves.means - leaves.mean
    assert collapse(leaves, 3 * centred).nc3 < 1e-12
    assert collapse(leaves, -centred).nc3 == pytest.approx(4)
    groups = leaves.coarser(TRUE)
    assert collapse(groups, group_rows(centred, TRUE)).nc3 < 1e-12


def test_rows_of_groups_are_means():
    rows = group_rows(torch.tensor([[1.0, 2], [3, 4], [5, 6]]), np.array([1, 0, 1]))
    assert rows.tolist() == [[3, 4], [3, 4]]


def test_nearest_means():
    means = torch.tensor([[0.0, 0], [4, 0], [0, 4]])
    features = torch.tensor([[1.0, 0.5], [3, 1], [1, 3], [1.9, 0]])
    assert nearest_mean(features, means).tolist() == [0, 1, 2, 0]
    assert nc4(torch.tensor([0, 1, 0, 1]), features, means) == 0.5


def test_what_has_no_collapse():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(8, 3)), np.array([0, 0, 1, 1, 3, 3, 3, 1])
    with pytest.raises(DataError, match="no features of class 2"):
        collapse(gathered(features, labels))
    with pytest.raises(DataError, match="between two classes or more"):
        collapse(gathered(features, np.zeros(8, dtype=np.int64)))
    with pytest.raises(ShapeError, match=r"weight: wanted \[2, 3\], a row a class, got \[2, 4\]"):
        collapse(gathered(features, labels % 2), torch.zeros(2, 4))
    with pytest.raises(DataError, match="100 classes do not make two or more groups of 7"):
        etf_floors(100, 7)
