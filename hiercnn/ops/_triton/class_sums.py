"""`class_sums` on CUDA: rows sorted by class, one program for each class and block of features, so no atomics and always the same sum."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, FEATURES = 32, 64


@triton.jit
def _sum_kernel(values, row_stride, column_stride, order, edges, sums, F, ROWS: tl.constexpr, FEATURES: tl.constexpr):
    label = tl.program_id(0)
    column = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    start, stop = tl.load(edges + label), tl.load(edges + label + 1)
    total = tl.zeros([FEATURES], tl.float64)
    for first in range(start, stop, ROWS):
        place = first + tl.arange(0, ROWS)
        row = tl.load(order + place, mask=place < stop, other=0)
        inside = (place < stop)[:, None] & (column < F)[None, :]
        found = tl.load(values + row[:, None] * row_stride + column[None, :] * column_stride, mask=inside, other=0.0)
        total += tl.sum(found.to(tl.float64), axis=0)
    tl.store(sums + label.to(tl.int64) * F + column, total, mask=column < F)


def forward(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    sums = values.new_zeros(num_classes, values.shape[1], dtype=torch.float64)
    if sums.numel() and len(values):
        order = labels.argsort(stable=True)
        edges = torch.searchsorted(labels[order], torch.arange(num_classes + 1, device=labels.device))
        grid = (num_classes, triton.cdiv(values.shape[1], FEATURES))
        _sum_kernel[grid](values, *values.stride(), order, edges, sums, values.shape[1], ROWS=ROWS, FEATURES=FEATURES)
    return sums
