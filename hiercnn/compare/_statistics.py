"""Paired differences, convergence and gap of finished runs (the comparison protocol's definitions)."""

from collections.abc import Sequence
from statistics import median

import numpy as np

from hiercnn.train import RunFolder

WINDOW = 3  # val accuracies whose median is taken when convergence is read


def final_accuracy(run: RunFolder) -> dict[str, float]:
    """Accuracy per level of a finished run: on test if it was read, else on val."""
    end = run.end
    return end.get("test", end["val"])["accuracy"]


def smoothed_val(run: RunFolder) -> list[tuple[int, float]]:
    """(epoch, median of the last three val leaf accuracies) of every evaluated epoch from the third on."""
    points = [(event["epoch"], event["val"]["accuracy"]["leaf"]) for event in run.metrics]
    return [(points[i][0], median(value for _, value in points[i - WINDOW + 1 : i + 1])) for i in range(WINDOW - 1, len(points))]


def epochs_to_target(run: RunFolder, target: float) -> int | None:
    """First epoch whose median of three val accuracies reaches `target`; None if none does."""
    return next((epoch for epoch, value in smoothed_val(run) if value >= target), None)


def train_val_gap(run: RunFolder) -> float:
    """Leaf accuracy on the fixed, unaugmented train subset minus val, at the last epoch."""
    last = run.metrics[-1]
    return last["train_subset"]["accuracy"]["leaf"] - last["val"]["accuracy"]["leaf"]


def paired_difference(ours: Sequence[float], baseline: Sequence[float]) -> dict[str, object]:
    """Mean difference of pairs with its 95 % t interval (None for a single pair)."""
    difference = np.asarray(ours, dtype=float) - np.asarray(baseline, dtype=float)
    result = {"mean": float(difference.mean()), "pairs": len(difference), "interval": None}
    if len(difference) > 1:
        from scipy import stats

        half = float(stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference)))
        result["interval"] = [result["mean"] - half, result["mean"] + half]
    return result


def spread(values: Sequence[float]) -> dict[str, object]:
    """Mean and sample standard deviation (None for a single value)."""
    values = np.asarray(values, dtype=float)
    return {"mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else None}
