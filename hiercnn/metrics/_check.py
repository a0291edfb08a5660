"""What every metric asks of a batch. Values are looked at on a CPU only: on CUDA a look would wait for the device."""

import torch
from torch import Tensor

from hiercnn.errors import DataError, ShapeError


def check_scores(scores: Tensor, num_classes: int, labels: Tensor, num_labels: int, device: torch.device) -> None:
    """Raise ShapeError unless scores are floats [B, C] and labels int64 [B] below `num_labels`, both on the metric's device."""
    _check_tensor("scores", scores)
    if scores.ndim != 2 or scores.shape[1] != num_classes:
        raise ShapeError(f"scores: wanted [B, {num_classes}], one number a class, got {list(scores.shape)}")
    if not scores.is_floating_point():
        raise ShapeError(f"scores: wanted floating-point numbers, got {_name(scores)}; probabilities or logits, no counts or classes")
    check_device("scores", scores, device)
    check_labels("labels", labels, len(scores), num_labels, device)


def check_labels(name: str, labels: Tensor, rows: int, limit: int, device: torch.device) -> None:
    """Raise ShapeError unless `labels` are int64 [rows], 0 to limit − 1, on the metric's device."""
    _check_tensor(name, labels)
    if labels.shape != (rows,):
        raise ShapeError(f"{name}: wanted [{rows}], one a sample, got {list(labels.shape)}")
    if labels.dtype != torch.int64:
        raise ShapeError(f"{name}: wanted int64, got {_name(labels)}")
    check_device(name, labels, device)
    check_range(name, labels, 0, limit)


def check_range(name: str, values: Tensor, least: int, limit: int) -> None:
    """Raise ShapeError if one of the values, on a CPU, is not in least .. limit − 1."""
    if values.device.type == "cpu" and values.numel():
        low, high = (int(value) for value in values.aminmax())
        if low < least or high >= limit:
            raise ShapeError(f"{name}: wanted numbers from {least} to {limit - 1}, got {low if low < least else high}; see Hierarchy.label")


def check_device(name: str, values: Tensor, device: torch.device) -> None:
    if values.device != device:
        raise ShapeError(f"{name} are on {values.device}, the metric on {device}; give it device='{values.device}' or move the tensor")


def check_whole(scores: Tensor) -> None:
    """What a function, which returns numbers and not a state, asks beyond that: samples, and no NaN. Raises DataError."""
    check_some(scores)
    check_numbers(scores)


def check_some(values: Tensor) -> None:
    """Raise DataError if there is no sample."""
    if not len(values):
        raise DataError("there are no samples to measure; what came has 0 rows")


def check_numbers(scores: Tensor) -> None:
    """Raise DataError if there is a NaN in [B, …]; waits for the device."""
    spoilt = scores.isnan().any(1).sum().item()
    if spoilt:
        raise DataError(f"{spoilt} of {len(scores)} samples have scores that are no numbers (NaN); mend the model or leave them out")


def _check_tensor(name: str, values: object) -> None:
    if not isinstance(values, Tensor):
        raise ShapeError(f"{name}: wanted a tensor, got {type(values).__name__}; torch.as_tensor makes one")


def _name(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")
