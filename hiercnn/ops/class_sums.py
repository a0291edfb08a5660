"""Sum of the rows of each class: `class_sums`. It has no gradient; statistics are not trained through."""

import torch
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.ops._check import check_floats, check_target, known_rows


def class_sums(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Σ_{i: labels[i] = c} values[i] for every class c, the same on every call.

    Args:
        values: [B, F]; half types and float32 are summed in float64.
        labels: Class of each row [B], int64, 0 to `num_classes` − 1.
        num_classes: K.

    Returns:
        [K, F], float64; 0 for a class without rows.

    Raises:
        ShapeError: Sizes, types or devices that do not fit.
    """
    check_floats("values", values, ("feature", None))
    check_target(labels, values)
    if num_classes < 0:
        raise ShapeError(f"num_classes: wanted 0 or more, got {num_classes}")
    return torch.ops.hiercnn.class_sums(values, labels, num_classes)


@torch.library.custom_op("hiercnn::class_sums", mutates_args=(), device_types="cpu")
def _forward(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    sums = values.new_zeros(num_classes, values.shape[1], dtype=torch.float64)
    return sums.index_add_(0, known_rows(labels, num_classes), values.double())


@_forward.register_kernel("cuda")
def _(values, labels, num_classes):
    from hiercnn.ops._triton import class_sums as triton

    return triton.forward(values, labels, num_classes)


@_forward.register_fake
def _(values, labels, num_classes):
    return values.new_empty(num_classes, values.shape[1], dtype=torch.float64)
