"""Statistics of classes and of their groups where the answer is known: collapsed classes, unequal groups, coarse directions first."""

import numpy as np
import pytest
import torch

from hiercnn.clustering import ClassStatistics

CLASSES, FEATURES, IMAGES = 100, 256, 20
TRUE = np.arange(CLASSES) // 5


def simplex(rng: np.random.Generator) -> np.ndarray:
    """Class means [100, 256] that are a simplex equiangular tight frame of norm 1, in a random orientation."""
    basis = np.linalg.qr(rng.normal(size=(FEATURES, CLASSES)))[0]
    return np.sqrt(CLASSES / (CLASSES - 1)) * (np.eye(CLASSES) - 1 / CLASSES) @ basis.T


def statistics(means: np.ndarray, noise: float, rng: np.random.Generator) -> ClassStatistics:
    labels = np.repeat(np.arange(CLASSES), IMAGES)
    features = means[labels] + noise * rng.normal(size=(len(labels), FEATURES))
    found = ClassStatistics(CLASSES, FEATURES)
    for batch in np.array_split(rng.permutation(len(labels)), 7):
        found.update(torch.from_numpy(features[batch]), torch.from_numpy(labels[batch]))
    return found


def nc1(found: ClassStatistics) -> float:
    """tr(Σ_W Σ_B⁺) / K (Papyan, Han and Donoho 2020)."""
    values, vectors = torch.linalg.eigh(found.between_scatter)
    values, vectors = values[1 - len(found.counts) :], vectors[:, 1 - len(found.counts) :]
    return float(((vectors.T @ found.within_scatter @ vectors).diagonal() / values).sum() / len(found.counts))


def centred(found: ClassStatistics) -> torch.Tensor:
    return found.means - found.mean


def cosines(found: ClassStatistics) -> torch.Tensor:
    rows = torch.nn.functional.normalize(centred(found), dim=1)
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    return (rows @ rows.T)[first, second]


def test_collapsed_classes_are_collapsed_in_any_equal_groups():
    rng = np.random.default_rng(0)
    leaves = statistics(simplex(rng), 1e-3, rng)
    assert nc1(leaves) < 1e-3
    for groups in (TRUE, rng.permutation(TRUE)):
        found = leaves.coarser(groups)
        assert nc1(found) < 1e-3
        # in the limit K (m − 1) / (K − m) = 4.2105: the classes of a group stay apart
        assert float(found.within_scatter.trace() / found.between_scatter.trace()) == pytest.approx(4.2123, abs=0.01)
        assert float((cosines(found) + 1 / 19).abs().mean()) < 1e-3


def test_unequal_groups():
    rng = np.random.default_rng(0)
    leaves = statistics(simplex(rng), 1e-3, rng)
    found = leaves.coarser(np.append(np.repeat(np.arange(10), 2), 10 + np.repeat(np.arange(4), 20)))
    norms = centred(found).norm(dim=1)
    assert float(norms.std() / norms.mean()) == pytest.approx(0.4207, abs=5e-4)
    assert float(norms.std(correction=0) / norms.mean()) == pytest.approx(0.4054, abs=5e-4)
    total = leaves.within_scatter + leaves.between_scatter
    assert float((total - found.within_scatter - found.between_scatter).abs().max()) < 1e-12
    unweighted = centred(found).T @ centred(found) / len(found.counts)
    assert float((total - found.within_scatter - unweighted).norm()) > 1e-3


def test_coarse_directions_first():
    """Early in training: groups apart, classes hardly."""
    rng = np.random.default_rng(0)
    directions, offsets = rng.normal(size=(20, FEATURES)), rng.normal(size=(CLASSES, FEATURES))
    leaves = statistics(directions[TRUE] + 0.15 * offsets, 0.25, rng)
    true, random = (nc1(leaves.coarser(groups)) for groups in (TRUE, rng.permutation(TRUE)))
    assert 10 * true < nc1(leaves) < random
    assert 10 * true < random
