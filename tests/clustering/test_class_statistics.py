"""ClassStatistics against numpy over all features at once."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hiercnn.clustering import ClassStatistics
from hiercnn.errors import DataError, ShapeError


@st.composite
def cases(draw):
    """Features [N, F] far from 0, labels [N], and how they are cut into batches."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    rows, features, classes = draw(st.integers(1, 40)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    values = torch.from_numpy(rng.normal(1e3, 1, (rows, features)))
    edges = sorted(draw(st.lists(st.integers(0, rows), max_size=4)))
    return values, torch.from_numpy(rng.integers(0, classes, rows)), classes, [0, *edges, rows]


def gathered(values, labels, classes, edges=None, **options) -> ClassStatistics:
    found = ClassStatistics(classes, values.shape[1], **options)
    edges = [0, len(values)] if edges is None else edges
    for start, stop in pairwise(edges):
        found.update(values[start:stop], labels[start:stop])
    return found


def assert_is(found: ClassStatistics, values, labels, classes) -> None:
    values, labels = values.double().numpy(), labels.numpy()
    means = np.stack([values[labels == c].mean(0) if (labels == c).any() else np.zeros(values.shape[1]) for c in range(classes)])
    residual, spread = values - means[labels], means[labels] - values.mean(0)
    scatter = [rows.T @ rows / len(rows) for rows in (residual, spread)]
    if found.diagonal:
        scatter = [np.diagonal(one) for one in scatter]
    assert found.counts.tolist() == np.bincount(labels, minlength=classes).tolist()
    for mine, wanted in zip(
        (found.means, found.mean, found.within_scatter, found.between_scatter), (means, values.mean(0), *scatter), strict=True
    ):
        np.testing.assert_allclose(mine.numpy(), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("diagonal", [False, True])
@given(case=cases())
def test_batches_give_what_all_features_give(diagonal, case):
    values, labels, classes, edges = case
    assert_is(gathered(values, labels, classes, edges, diagonal=diagonal), values, labels, classes)


@pytest.mark.parametrize("diagonal", [False, True])
@given(case=cases())
def test_parts_can_be_merged(diagonal, case):
    values, labels, classes, edges = case
    parts = [gathered(values[a:b], labels[a:b], classes, diagonal=diagonal) for a, b in pairwise(edges)]
    found = ClassStatistics(classes, values.shape[1], diagonal=diagonal)
    for part in reversed(parts):
        found.merge(part)
    assert_is(found, values, labels, classes)


@pytest.mark.parametrize("diagonal", [False, True])
@given(case=cases(), seed=st.integers(0, 99))
def test_groups_are_in_closed_form(diagonal, case, seed):
    values, labels, classes, edges = case
    groups = np.random.default_rng(seed).integers(0, 3, classes)
    found = gathered(values, labels, classes, edges, diagonal=diagonal).coarser(groups)
    assert_is(found, values, torch.from_numpy(groups)[labels], groups.max() + 1)


@given(case=cases())
def test_within_and_between_are_all_there_is(case):
    values, labels, classes, edges = case
    found = gathered(values, labels, classes, edges)
    centred = values - values.mean(0)
    torch.testing.assert_close(found.within_scatter + found.between_scatter, centred.T @ centred / len(values), rtol=1e-9, atol=1e-10)


def test_ten_million_features_far_from_zero():
    """N = 10⁷ of mean 10⁴ and variance 1, in batches of 100,000; sums of squares lose half its digits."""
    generator, found = torch.Generator().manual_seed(0), ClassStatistics(2, 1)
    batch = torch.randn(100_000, 1, generator=generator, dtype=torch.float64)
    batch = (batch - batch.mean()) / batch.std(correction=0) + 1e4
    labels = torch.arange(100_000) % 2
    single = gathered(batch, labels, 2)
    for _ in range(100):
        found.update(batch, labels)
    assert found.total == 10_000_000
    assert found.mean.item() == pytest.approx(1e4, rel=1e-13)
    assert (found.within_scatter + found.between_scatter).item() == pytest.approx(1, rel=1e-10)
    assert found.within_scatter.item() == pytest.approx(single.within_scatter.item(), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_features_are_summed_in_float64(dtype):
    values = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.arange(200) % 3
    assert_is(gathered(values, labels, 3, [0, 7, 200]), values.double(), labels, 3)


def test_what_is_saved_is_loaded(tmp_path):
    values, labels = torch.randn(20, 3), torch.arange(20) % 4
    for diagonal in (False, True):
        found = gathered(values, labels, 5, diagonal=diagonal)
        found.save(tmp_path / "statistics.npz")
        again = ClassStatistics.load(tmp_path / "statistics.npz")
        assert again.diagonal == diagonal
        assert all(torch.equal(getattr(again, name), getattr(found, name)) for name in ("counts", "means", "within"))
        again.update(values, labels)


# --- Bad input ------------------------------------------------------------------------------------------------------------------------


def test_features_that_are_not_finite_are_refused_and_named():
    found = gathered(torch.ones(2, 2), torch.tensor([0, 1]), 3)
    values = torch.ones(5, 2)
    values[1, 0], values[2, 1], values[4, 1] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(DataError, match=re.escape("features: not finite in 3 of 5 rows; rows by class: '1: 1', '2: 2'")):
        found.update(values, torch.tensor([0, 1, 2, 0, 2]))
    assert found.counts.tolist() == [1, 1, 0]
    assert found.means.isfinite().all()


@pytest.mark.parametrize(
    ("features", "labels", "error", "message"),
    [
        (torch.ones(2, 3), torch.tensor([0, 1]), ShapeError, "features: wanted [B, 2], got [2, 3]"),
        (torch.ones(2), torch.tensor([0, 1]), ShapeError, "features: wanted [B, 2], got [2]"),
        (torch.ones(2, 2), torch.tensor([0.0, 1.0]), ShapeError, "labels: wanted [B], int64, got [2], float32"),
        (torch.ones(2, 2), torch.tensor([0]), ShapeError, "target: wanted [2], one label a row, got [1]"),
        (torch.ones(2, 2), torch.tensor([0, 3]), DataError, "labels: wanted classes 0 to 2, got '3'"),
        (torch.ones(2, 2), torch.tensor([-1, 0]), DataError, "labels: wanted classes 0 to 2, got '-1'"),
    ],
)
def test_bad_batches(features, labels, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ClassStatistics(3, 2).update(features, labels)


def test_others_cannot_be_merged():
    message = "statistics of 3 classes × 2 features (full scatter) and of 3 classes × 2 features (diagonal scatter) cannot be merged"
    with pytest.raises(ShapeError, match=re.escape(message)):
        ClassStatistics(3, 2).merge(ClassStatistics(3, 2, diagonal=True))


@pytest.mark.parametrize("groups", [[0, 1], [0, 1, -1], [[0, 1, 2]]])
def test_bad_groups(groups):
    with pytest.raises(ShapeError, match="groups: wanted one number of 0 or more for each of 3 classes"):
        ClassStatistics(3, 2).coarser(np.array(groups))


def test_no_classes_and_no_features():
    with pytest.raises(ShapeError, match="statistics need a class and a feature at least, got 0 and 2"):
        ClassStatistics(0, 2)


@pytest.mark.parametrize("content", [b"", b"nonsense", "empty"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "statistics.npz"
    if content == "empty":
        np.savez(path, other=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"statistics.npz does not hold class statistics"):
        ClassStatistics.load(path)


def test_damaged_and_unwritable_files(tmp_path):
    statistics = ClassStatistics(2, 3)
    statistics.save(tmp_path / "s.npz")
    whole = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[:100])
    (tmp_path / "flipped.npz").write_bytes(whole[:90] + bytes([whole[90] ^ 255]) + whole[91:])
    np.savez(tmp_path / "kinds.npz", counts=np.full(2, 1.5), means=np.zeros((2, 3)), within=np.zeros((3, 3)))
    for name in ("short", "flipped", "kinds"):
        with pytest.raises(DataError, match="does not hold class statistics"):
            ClassStatistics.load(tmp_path / f"{name}.npz")
    with pytest.raises(DataError, match="cannot write"):
        statistics.save(tmp_path / "nowhere" / "s.npz")


def test_groups_are_whole_numbers():
    with pytest.raises(ShapeError, match="groups: wanted one number"):
        ClassStatistics(3, 2).coarser([0.5, 1.7, 0])
