"""`class_sums` against a loop over rows."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.cases import both_kernels
from ops.interpreted import Interpreted
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.ops import class_sums

SIZES = {
    "one row": (1, 3, 2),
    "no rows": (0, 3, 2),
    "no features": (4, 0, 3),
    "no classes": (0, 2, 0),
    "one class": (5, 2, 1),
    "odd": (67, 65, 5),
}
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def loop(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    sums = np.zeros((classes, values.shape[1]))
    for row, label in zip(values.double().numpy(), labels.tolist(), strict=True):
        sums[label] += row
    return torch.from_numpy(sums)


def drawn(rows: int, features: int, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    labels = torch.randint(max(classes, 1), (rows,), generator=generator)
    return (100 * torch.randn(rows, features, generator=generator, dtype=torch.float64)).to(dtype), labels


@both_kernels
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_it_is_the_loop(size, dtype, kernels):
    values, labels = drawn(*size, dtype)
    before = values.clone()
    with kernels():
        found = class_sums(values, labels, size[2])
    torch.testing.assert_close(found, loop(values, labels, size[2]), rtol=1e-13, atol=1e-11)
    assert torch.equal(values, before)


@both_kernels
@given(st.integers(0, 40), st.integers(1, 70), st.integers(1, 6), st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_size_and_layout(kernels, rows, features, classes, transposed):
    values, labels = drawn(rows, features, classes)
    values = values.t().contiguous().t() if transposed else torch.stack([values, values], 2)[..., 1]
    with kernels():
        found = class_sums(values, labels, classes)
    torch.testing.assert_close(found, loop(values, labels, classes), rtol=1e-13, atol=1e-11)


def test_small_terms_beside_large_ones_are_not_lost():
    values = torch.tensor([[1e8], [1.0], [-1e8]], dtype=torch.float32)
    assert class_sums(values, torch.zeros(3, dtype=torch.int64), 1).item() == 1.0


def test_torch_accepts_it():
    values, labels = drawn(7, 3, 4)
    outcome = torch.library.opcheck(torch.ops.hiercnn.class_sums.default, (values, labels, 4))
    assert set(outcome.values()) == {"SUCCESS"}


def test_it_compiles_into_one_graph():
    values, labels = drawn(7, 3, 4)
    compiled = torch.compile(lambda x: class_sums(x, labels, 4), fullgraph=True, options={"force_disable_caches": True})
    assert torch.equal(compiled(values), class_sums(values, labels, 4))


def test_triton_s_sums_are_the_same_on_every_call():
    values, labels = drawn(500, 3, 2)
    with Interpreted():
        assert torch.equal(class_sums(values, labels, 2), class_sums(values, labels, 2))


@pytest.mark.parametrize(
    ("values", "labels", "classes", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), 1, "values: wanted [B, feature], one number a feature, got [3]"),
        (torch.zeros(3, 2).long(), torch.zeros(3, dtype=torch.int64), 1, "values: wanted float32, float64, float16 or bfloat16, got int64"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), 1, "target: wanted [3], one label a row, got [2]"),
        (torch.zeros(3, 2), torch.zeros(3), 1, "target: wanted int64, got float32"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), -1, "num_classes: wanted 0 or more, got -1"),
    ],
)
def test_bad_input(values, labels, classes, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        class_sums(values, labels, classes)
