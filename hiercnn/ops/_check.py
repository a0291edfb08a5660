"""Checks that cost no device sync: rank, size, dtype, device. Values are the caller's (a data set checks its labels once)."""

import torch
from torch import Tensor

from hiercnn.errors import ShapeError

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_floats(name: str, tensor: Tensor, shape: tuple[str, int | None]) -> None:
    """Raise ShapeError unless `tensor` is [B, size] of a floating type; `shape` is what the size stands for, and the size."""
    what, size = shape
    if tensor.ndim != 2 or (size is not None and tensor.shape[1] != size):
        raise ShapeError(f"{name}: wanted [B, {size if size is not None else what}], one number a {what}, got {list(tensor.shape)}")
    if tensor.dtype not in FLOATS:
        raise ShapeError(f"{name}: wanted float32, float64, float16 or bfloat16, got {str(tensor.dtype).removeprefix('torch.')}")


def check_target(target: Tensor, like: Tensor) -> None:
    """Raise ShapeError unless `target` is int64 [B] on the device of `like` [B, …]."""
    if target.shape != like.shape[:1]:
        raise ShapeError(f"target: wanted [{like.shape[0]}], one label a row, got {list(target.shape)}")
    if target.dtype != torch.int64:
        raise ShapeError(f"target: wanted int64, got {str(target.dtype).removeprefix('torch.')}")
    check_device("target", target, like)


def known_rows(target: Tensor, rows: int) -> Tensor:
    """The labels, on a CPU after a look at them: one below 0 would count from the end. Raises ShapeError if one is no row of a table.

    On CUDA a look would wait for the device, and in a compiled graph it would break it: there it is left out.
    """
    if target.device.type == "cpu" and not torch.compiler.is_compiling() and target.numel():
        labels = target.numpy()  # in a third of torch's time
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= rows:
            raise ShapeError(f"target: wanted labels 0 to {rows - 1}, got {low if low < 0 else high}; leave such images out")
    return target


def check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    """Raise ShapeError unless both tensors are on one device."""
    if tensor.device != like.device:
        raise ShapeError(f"{name} is on {tensor.device}, the scores on {like.device}; move the module or the tensor with .to()")


def accumulation_type(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32
