"""Paired differences, convergence and overfitting of finished runs (the comparison protocol's definitions)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from hiercnn.train import RunFolder

WINDOW = 3  # val accuracies whose median is taken when convergence is read

Curve = Sequence[Mapping[str, Any]]


def final_accuracy(run: RunFolder) -> dict[str, float]:
    """Accuracy per level of a finished run: on test if it was read, else on val."""
    return final(run)["accuracy"]


def final(run: RunFolder) -> dict[str, Any]:
    """The last metrics of a finished run: of test if it was read, else of val."""
    return run.end.get("test", run.end["val"])


def curve(run: RunFolder) -> list[dict[str, Any]]:
    """One row an evaluated epoch: epoch, images, training seconds so far, accuracy and NLL on val and on the fixed train subset."""
    return [
        {
            "epoch": event["epoch"],
            "images": event["images"],
            "seconds": event["seconds"]["train"],
            "val": event["val"]["accuracy"],
            "val_nll": event["val"]["nll"],
            "train_accuracy": event["train_subset"]["accuracy"]["leaf"],
            "train_nll": event["train_subset"]["nll"],
        }
        for event in run.metrics
    ]


def smoothed_val(rows: Curve) -> list[tuple[int, float]]:
    """(epoch, median of the last three val leaf accuracies) of every evaluated epoch from the third on."""
    points = [(row["epoch"], row["val"]["leaf"]) for row in rows]
    return [(points[i][0], median(value for _, value in points[i - WINDOW + 1 : i + 1])) for i in range(WINDOW - 1, len(points))]


def epochs_to_target(rows: Curve, target: float) -> int | None:
    """First epoch whose median of three val accuracies reaches `target`; None if none does."""
    return next((epoch for epoch, value in smoothed_val(rows) if value >= target), None)


def area_under_curve(rows: Curve) -> float:
    """Mean height of the val leaf accuracy over the epochs from the first evaluation to the last (trapezoids)."""
    epochs, values = [row["epoch"] for row in rows], [row["val"]["leaf"] for row in rows]
    return float(np.trapezoid(values, epochs) / (epochs[-1] - epochs[0])) if len(rows) > 1 else values[0]


def train_val_gap(rows: Curve) -> float:
    """Leaf accuracy on the fixed, unaugmented train subset minus val, at the last epoch."""
    return rows[-1]["train_accuracy"] - rows[-1]["val"]["leaf"]


def gaps_at_equal_nll(ours: Curve, baseline: Curve) -> tuple[float, float] | None:
    """Val NLL minus train NLL of two runs in nats, each where its train NLL first falls to the lowest value that both reach.

    Both NLLs are those of the leaf, in eval mode, between evaluations along a line. None where the curves have no train NLL in common.
    """
    level = max(min(row["train_nll"] for row in rows) for rows in (ours, baseline))
    gaps = [_val_nll_at(rows, level) for rows in (ours, baseline)]
    return None if None in gaps else (gaps[0] - level, gaps[1] - level)


def _val_nll_at(rows: Curve, level: float) -> float | None:
    if rows[0]["train_nll"] == level:
        return rows[0]["val_nll"]
    for before, after in pairwise(rows):
        if before["train_nll"] > level >= after["train_nll"]:
            share = (before["train_nll"] - level) / (before["train_nll"] - after["train_nll"])
            return before["val_nll"] + share * (after["val_nll"] - before["val_nll"])
    return None


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
