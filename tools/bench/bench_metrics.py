"""What the metrics cost for 10,000 samples, and hierarchical precision, recall and F against hiclass from PyPI.

    python tools/bench/bench_metrics.py --out tools/bench/metrics.csv

hiclass is timed on 10,000 samples × 4 levels of integers, which it reads faster than names: one number a call, micro. Ours gives all six,
from labels, its tables of the tree included. They take turns, and the ratio is the median over rounds. Before anything is timed the numbers
must be equal. The other rows are one `update` with all samples at ImageNet's tree and 1,000 classes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_ops import append

from hiercnn.errors import HierCNNError
from hiercnn.hierarchy import Hierarchy, builtin
from hiercnn.metrics import Calibration, FullPath, HierarchicalF, LevelAccuracy, Mistakes, OperatingCurve, RiskCoverage, hierarchical_f
from hiercnn.ops import path_table
from hiercnn.train import device_name, git_commit

SAMPLES, LEVELS, FANOUT = 10_000, 4, 5


def full_tree() -> Hierarchy:
    """Every inner node has as many children, every leaf the same depth: what hiclass's rows of names can say."""
    inner = sum(FANOUT**level for level in range(LEVELS))
    parents = [-1] + [(node - 1) // FANOUT for node in range(1, inner * FANOUT + 1)]
    return Hierarchy([f"n{node}" for node in range(len(parents))], parents)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def against_hiclass(rounds: int) -> list[dict[str, object]]:
    from hiclass import metrics as hiclass

    tree = full_tree()
    predicted, labels = torch.randint(tree.num_classes, (2, SAMPLES), generator=torch.Generator().manual_seed(0))
    nodes = path_table(tree.parents, tree.depths, tree.leaf_nodes).numpy()[:, 1:]  # [C, levels]
    said, true = nodes[predicted.numpy()], nodes[labels.numpy()]
    calls = {
        "hierarchical_f": lambda: hierarchical_f(predicted, labels, tree),
        "hiclass precision": lambda: hiclass.precision(true, said, "micro"),
        "hiclass f1": lambda: hiclass.f1(true, said, "micro"),
    }
    found, *wanted = (call() for call in calls.values())
    if not np.allclose([found["micro"]["precision"], found["micro"]["f"]], wanted, rtol=0, atol=1e-12):
        raise HierCNNError(f"hierarchical_f gives {found['micro']}, hiclass {wanted}")
    times = np.array([[seconds(call) for call in calls.values()] for _ in range(rounds)])
    ratios = np.median(times / times[:, :1], 0)
    return [
        {"what": f"{name}, {SAMPLES:,} × {LEVELS}", "median_ms": float(one) * 1000, "over_ours": float(ratio)}
        for name, one, ratio in zip(calls, np.median(times, 0), ratios, strict=True)
    ]


def updates(rounds: int) -> list[dict[str, object]]:
    tree, generator = builtin("imagenet1k"), torch.Generator().manual_seed(0)
    cuts = tree.cuts([{"depth": 2}, {"depth": 6}, {"depth": 8}, "leaf"])
    labels = torch.randint(tree.num_classes, (SAMPLES,), generator=generator)
    scores = 3 * torch.randn(SAMPLES, tree.num_classes, generator=generator)
    scores[torch.arange(SAMPLES), labels] += 8
    guess = scores.argmax(1)
    levels = torch.stack([torch.tensor(cut.groups)[guess] for cut in cuts], 1)
    metrics = {
        LevelAccuracy(tree.num_classes, cuts): scores,
        Mistakes(tree): scores,
        HierarchicalF(tree): guess,
        FullPath(cuts): levels,
        Calibration(tree, cuts): scores,
        OperatingCurve(tree): scores,
        RiskCoverage(tree): scores,
    }
    found = []
    for metric, columns in metrics.items():
        times = [seconds(lambda metric=metric, columns=columns: metric.update(columns, labels)) for _ in range(rounds)]
        found.append({"what": f"{type(metric).__name__}.update", "median_ms": statistics.median(times) * 1000, "over_ours": ""})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, help="CSV file to append the rows to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    conditions = {
        "rounds": arguments.rounds,
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": git_commit(),
    }
    rows = [
        {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()} | conditions
        for row in against_hiclass(arguments.rounds) + updates(arguments.rounds)
    ]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.out:
        append(arguments.out, rows)


if __name__ == "__main__":
    try:
        main()
    except HierCNNError as error:
        sys.exit(f"bench_metrics.py: {error}")
