"""`merge_clusters` against a loop over pairs, and what a round may not change."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.cases import both_kernels
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.ops import merge_clusters

METHODS = ("single", "complete", "average", "ward")
every_method = pytest.mark.parametrize("method", METHODS)
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def drawn(count: int, pairs: int, dead: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Some clusters are merged already, some are to be merged now; what they are called is random, the first of a pair has the smaller."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 5))
    table = np.square(points[:, None] - points[None]).sum(2)
    sizes, alive, partner = rng.integers(1, 9, count), np.ones(count, dtype=bool), np.full(count, -1)
    order = rng.permutation(count)
    gone, ends = order[:dead], np.sort(order[dead : dead + 2 * pairs].reshape(pairs, 2), axis=1)
    partner[ends[:, 0]] = ends[:, 1]
    alive[gone] = alive[ends[:, 1]] = False
    table[gone] = table[:, gone] = rng.normal()  # of no meaning
    heights = np.zeros(count)
    heights[ends[:, 0]] = table[ends[:, 0], ends[:, 1]]
    table, heights, sizes = (torch.tensor(x, dtype=dtype) for x in (table, heights, sizes))
    return [table, torch.tensor(partner), heights, sizes, torch.tensor(alive)]


def loop(table: Tensor, partner: Tensor, heights: Tensor, sizes: Tensor, alive: Tensor, method: str) -> np.ndarray:
    """The table afterwards, by merging one pair after another; NaN where it has no meaning, and on the diagonal."""
    table, sizes, there = table.double().numpy().copy(), sizes.double().numpy().copy(), set(range(len(table)))
    there -= {k for k in range(len(table)) if not alive[k] and k not in partner.tolist()}
    for one in range(len(table)):
        other = int(partner[one])
        if other < 0:
            continue
        for k in there - {one, other}:
            ak, bk, ab, a, b, c = table[one, k], table[other, k], float(heights[one]), sizes[one], sizes[other], sizes[k]
            table[one, k] = table[k, one] = {
                "single": min(ak, bk),
                "complete": max(ak, bk),
                "average": (a * ak + b * bk) / (a + b),
                "ward": ((a + c) * ak + (b + c) * bk - c * ab) / (a + b + c),
            }[method]
        sizes[one] += sizes[other]
        there.remove(other)
    gone = sorted(set(range(len(table))) - there)
    table[gone] = table[:, gone] = np.nan
    np.fill_diagonal(table, np.nan)
    return table


SIZES = {
    "two": (2, 1, 0),
    "no pair": (5, 0, 0),
    "one pair": (7, 1, 0),
    "all pairs": (12, 6, 0),
    "some gone": (33, 7, 9),
    "wide": (1100, 4, 1060),
}


@pytest.mark.long
@both_kernels
@every_type
@every_method
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_it_is_the_loop(size, method, dtype, kernels):
    given_ = drawn(*size, dtype=dtype)
    wanted, alive = loop(*given_, method), given_[4].numpy()
    kept = [x.clone() for x in given_[1:]]
    with kernels():
        nearest, distance = merge_clusters(*given_, method)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    found = given_[0].double().numpy()[np.ix_(alive, alive)]
    off = ~np.eye(len(found), dtype=bool)
    np.testing.assert_allclose(found[off], wanted[np.ix_(alive, alive)][off], rtol=tolerance)
    assert all(torch.equal(a, b) for a, b in zip(given_[1:], kept, strict=True))
    if alive.sum() > 1:
        own = np.where(alive[:, None] & alive[None] & ~np.eye(len(alive), dtype=bool), given_[0].double().numpy(), np.inf)[alive]
        np.testing.assert_array_equal(nearest.numpy()[alive], own.argmin(1))
        np.testing.assert_array_equal(distance.double().numpy()[alive], own.min(1))


@pytest.mark.long
@both_kernels
@every_method
@given(st.integers(2, 40), st.integers(0, 9999))
@settings(max_examples=15, deadline=None)
def test_the_table_stays_symmetric_to_the_last_bit(kernels, method, count, seed):
    table, *rest = drawn(count, count // 3, count // 5, seed, torch.float32)
    with kernels():
        merge_clusters(table, *rest, method)
    alive = rest[3]
    found = table[alive][:, alive].fill_diagonal_(0)
    assert torch.equal(found, found.T)


@both_kernels
def test_of_several_nearest_the_first_counts(kernels):
    table = 1.0 - torch.eye(6)
    none, alive = torch.full((6,), -1), torch.tensor([False, True, True, False, True, True])
    with kernels():
        nearest, distance = merge_clusters(table, none, torch.zeros(6), torch.ones(6), alive, "average")
    assert nearest[alive].tolist() == [2, 1, 1, 1]
    assert distance[alive].tolist() == [1.0] * 4


@both_kernels
def test_no_clusters(kernels):
    with kernels():
        nearest, distance = merge_clusters(
            torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.bool), "single"
        )
    assert nearest.shape == distance.shape == (0,)


def test_torch_accepts_it():
    outcome = torch.library.opcheck(torch.ops.hiercnn.merge_clusters.default, (*drawn(9, 2, 1), "average"))
    assert set(outcome.values()) == {"SUCCESS"}


@pytest.mark.long
def test_it_compiles_into_one_graph():
    one, other = drawn(9, 2, 1), drawn(9, 2, 1)
    compiled = torch.compile(lambda *x: merge_clusters(*x, "ward"), fullgraph=True, options={"force_disable_caches": True})
    for found, wanted in zip(compiled(*one), merge_clusters(*other, "ward"), strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(one[0], other[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(3, 4)}, "table: wanted [K, K], got [3, 4]"),
        ({0: torch.zeros(3, 3).half()}, "table: wanted float32 or float64, got float16"),
        ({0: torch.zeros(6, 3)[::2]}, "table: wanted contiguous rows"),
        ({1: torch.zeros(3)}, "partner: wanted int64 [3], got float32 [3]"),
        ({2: torch.zeros(3)}, "heights: wanted float64 [3], got float32 [3]"),
        ({3: torch.zeros(2).double()}, "sizes: wanted float64 [3], got float64 [2]"),
        ({4: torch.ones(3)}, "alive: wanted bool [3], got float32 [3]"),
        ({5: "median"}, "method: wanted one of single, complete, average, ward, got 'median'"),
    ],
)
def test_bad_input(change, message):
    good = [*drawn(3, 1, 0), "average"]
    with pytest.raises(ShapeError, match=re.escape(message)):
        merge_clusters(*(change.get(place, value) for place, value in enumerate(good)))
