"""Distances between classes against scipy's, and what is refused."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from hiercnn.clustering import _distances as module
from hiercnn.clustering import confusion_similarity, logit_similarity, similarity_distances, vector_distances
from hiercnn.errors import DataError, ShapeError


def unit(vectors: np.ndarray) -> np.ndarray:
    centred = vectors - vectors.mean(0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


WANTED = {
    "cosine": lambda x: pdist(x - x.mean(0), "cosine"),
    "correlation": lambda x: pdist(x, "correlation"),
    "euclidean": lambda x: pdist(x, "euclidean"),
    "unit": lambda x: pdist(unit(x), "euclidean"),
}


@pytest.mark.parametrize("metric", WANTED)
@given(st.integers(2, 30), st.integers(3, 9), st.integers(0, 999), st.booleans())
def test_they_are_scipys(metric, count, size, seed, as_tensor):
    vectors = np.random.default_rng(seed).normal(5, 1, (count, size))
    found = vector_distances(torch.from_numpy(vectors).float() if as_tensor else vectors, metric)
    wanted = WANTED[metric](np.float32(vectors).astype(np.float64) if as_tensor else vectors)
    np.testing.assert_allclose(found.condensed(), wanted, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.square().numpy(), squareform(wanted), rtol=1e-9, atol=1e-9)
    some = np.random.default_rng(seed).permutation(count)[:3]
    np.testing.assert_allclose(found.among(some), squareform(wanted)[np.ix_(some, some)], rtol=1e-9, atol=1e-9)
    assert len(found) == count


def test_blocks_of_rows_make_no_difference(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(23, 4))
    wanted = vector_distances(vectors).condensed()
    for block in (1, 24, 60):
        monkeypatch.setattr(module, "BLOCK", block)
        np.testing.assert_allclose(vector_distances(vectors).condensed(), wanted, rtol=1e-12)


def test_the_mean_of_all_is_taken_away():
    vectors = np.random.default_rng(0).normal(size=(9, 4))
    for metric in ("cosine", "euclidean", "unit"):
        np.testing.assert_allclose(
            vector_distances(vectors + 7, metric).condensed(), vector_distances(vectors, metric).condensed(), rtol=1e-9
        )


def test_the_same_vector_twice_has_distance_0():
    vectors = np.random.default_rng(0).normal(size=(5, 4))
    vectors[3] = vectors[1]
    for metric in WANTED:
        assert squareform(vector_distances(vectors, metric).condensed())[1, 3] == pytest.approx(0, abs=1e-7)


@given(st.integers(2, 12), st.integers(0, 999))
@settings(max_examples=30)
def test_similarities_become_distances(count, seed):
    table = np.random.default_rng(seed).uniform(-1, 1, (count, count))
    mean = np.clip((table + table.T) / 2, 0, 1)
    found = similarity_distances(table)
    np.testing.assert_allclose(found.condensed(), (1 - mean)[np.triu_indices(count, 1)], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found.square().numpy(), found.square().numpy().T)
    assert not found.euclidean


def test_logits_are_correlated_over_images():
    logits = np.random.default_rng(0).normal(size=(50, 6))
    np.testing.assert_allclose(logit_similarity(logits), np.corrcoef(logits.T), rtol=1e-9, atol=1e-12)
    logits[:, 2] = 3.0  # a class whose logit never changes is like no other
    assert (logit_similarity(logits)[2] == 0).all()


def test_confusion_is_the_mean_of_both_shares():
    counts = np.array([[8, 2, 0], [1, 3, 0], [0, 5, 5]])
    wanted = np.array([[0.8, (0.2 + 0.25) / 2, 0], [(0.2 + 0.25) / 2, 0.75, 0.25], [0, 0.25, 0.5]])
    np.testing.assert_allclose(confusion_similarity(counts), wanted)


# --- Bad input ------------------------------------------------------------------------------------------------------------------------

NAMES = ["cat", "dog", "car"]


def with_row(row) -> np.ndarray:
    return np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 0.0], row])


@pytest.mark.parametrize(
    ("vectors", "metric", "error", "message"),
    [
        (np.ones(3), "cosine", ShapeError, "vectors: wanted [K, F], one a class, got [3]"),
        (np.ones((1, 3)), "cosine", DataError, "clustering needs two classes at least, got 1"),
        (np.ones((0, 3)), "cosine", DataError, "clustering needs two classes at least, got 0"),
        (with_row([np.nan, 0, 0]), "euclidean", DataError, "classes with vectors that are not finite; leave these classes out"),
        (with_row([np.inf, 0, 0]), "cosine", DataError, "at their images: 'car'"),
        (with_row([3.0, 3.0, 3.0]), "correlation", DataError, "classes with vectors that are constant, to which no correlation distance"),
        (
            with_row([0.5, 1.5, 2.0]),
            "cosine",
            DataError,
            "classes with vectors that are the mean of all, to which no cosine distance exists",
        ),
        (with_row([0.5, 1.5, 2.0]), "unit", DataError, "use euclidean: 'car'"),
        (np.ones((3, 3)), "cosine", DataError, "no cosine distance exists; use euclidean: 'cat', 'dog', 'car'"),
        (np.ones((3, 3)), "manhattan", ShapeError, "metric: wanted one of cosine, correlation, euclidean, unit, got 'manhattan'"),
        (np.ones((2, 3)), "euclidean", ShapeError, "names: wanted 2, one a class, got 3"),
    ],
)
def test_bad_vectors(vectors, metric, error, message):
    with pytest.raises(error, match=re.escape(message)):
        vector_distances(vectors, metric, NAMES if len(vectors) > 1 and vectors.ndim == 2 else None)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (np.ones((2, 3)), ShapeError, "similarity: wanted [K, K], got [2, 3]"),
        (np.ones((1, 1)), DataError, "clustering needs two classes at least, got 1"),
        (np.array([[0, np.nan], [0, 0]]), DataError, "classes with similarities that are not finite: '0'"),
        (np.array([[0, 30], [0, 0]]), DataError, "similarities are 0 to 1, got 30; divide counts by the images of a class"),
    ],
)
def test_bad_similarities(table, error, message):
    with pytest.raises(error, match=re.escape(message)):
        similarity_distances(table)


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        (np.ones((2, 3)), ShapeError, "confusion: wanted counts [K, K], got [2, 3]"),
        (np.array([[1, -1], [0, 2]]), DataError, "confusion: counts below 0, or no numbers"),
        (np.array([[1, 1], [0, 0]]), DataError, "confusion: classes without images: '1'; leave them out"),
    ],
)
def test_bad_confusion(counts, error, message):
    with pytest.raises(error, match=re.escape(message)):
        confusion_similarity(counts)


@pytest.mark.parametrize("logits", [np.ones(3), np.ones((1, 3))])
def test_bad_logits(logits):
    with pytest.raises(ShapeError, match=r"logits: wanted \[N, K\] of two images or more"):
        logit_similarity(logits)


def test_the_square_is_symmetric_to_the_last_bit(monkeypatch):
    monkeypatch.setattr(module, "MIRRORED", 7)
    vectors = torch.randn(45, 13, generator=torch.Generator().manual_seed(0))
    for metric in ("cosine", "euclidean"):
        distances = vector_distances(vectors, metric)
        table = distances.square()
        assert torch.equal(table, table.T)
        np.testing.assert_allclose(squareform(table.numpy(), checks=False), distances.condensed(), rtol=1e-12, atol=1e-12)


def test_parameters_of_a_network_are_taken_as_they_are():
    rows = torch.nn.Linear(5, 7).weight
    assert len(vector_distances(rows).condensed()) == 21
    similarity_distances((rows @ rows.T).sigmoid().bfloat16())
    assert logit_similarity(rows).shape == (5, 5)


@pytest.mark.parametrize("scale", [1e-200, 1e155, 1e300])
def test_angles_do_not_depend_on_the_scale(scale):
    vectors = np.random.default_rng(0).normal(size=(6, 4))
    for metric in ("cosine", "correlation", "unit"):
        np.testing.assert_allclose(vector_distances(scale * vectors, metric).condensed(), vector_distances(vectors, metric).condensed())


def test_euclidean_distances_that_are_no_numbers():
    with pytest.raises(DataError, match="whose squares are over all numbers"):
        vector_distances(np.eye(3) * 1e200, "euclidean")


def test_constant_logits_correlate_with_nothing():
    logits = np.random.default_rng(0).normal(size=(7, 4))
    logits[:, :2] = 0.1, 0.7
    assert logit_similarity(logits)[0, 1] == 0
