"""What heads cost, and what the loop costs: ratios measured side by side in one run.

    python tools/bench/bench_step.py --out tools/bench/step.csv

Row `branches / flat`: time of one training step of a backbone with two hypernym heads over one without, peak memory beside it.
Rows `hxe / flat` and so on: the same for a loss over cross-entropy, with ImageNet's 1,000 classes and their WordNet tree.
Row `loop / bare`: images per second of a real run's training epochs over the same step on a batch already in memory, measured between
the epochs. Both sides alternate, so a busy machine slows both; the ratio is the median over rounds, with its quartiles.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bench_ops import append

from hiercnn import fit
from hiercnn.hierarchy import Hierarchy, builtin
from hiercnn.losses import HXE, ConditionalNLL, CrossEntropy, LevelNLL, MarginNLL, SoftLabels, TreeLoss
from hiercnn.models import HeadSpec, build_model
from hiercnn.train import (
    FlatTask,
    HierarchicalTask,
    OptimSettings,
    QuietDisplay,
    device_name,
    git_commit,
    make_optimizer,
    pick_device,
    pick_precision,
)

BARE_STEPS = 10  # between two epochs of the loop


class Step:
    """One training step of a model with a loss, with or without heads; `arguments` name the backbone and the device."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        loss: TreeLoss,
        tree: Hierarchy,
        heads: Sequence[HeadSpec] = (),
        *,
        classifier: str = "linear",
        precision: str = "auto",
        compiled: bool = False,
    ):
        self.device = pick_device(arguments.device)
        self.amp = pick_precision(precision, self.device) == "bfloat16"
        self.classes = tree.num_classes
        self.model = build_model(arguments.backbone, tree, heads, classifier=classifier).to(self.device, memory_format=torch.channels_last)
        self.network = torch.compile(self.model) if compiled else self.model
        task = HierarchicalTask(loss, heads=self.model.specs) if heads else FlatTask(loss)
        self.model.train()
        self.task = task.to(self.device)
        self.optimizer = make_optimizer(self.model, OptimSettings(lr=0.01))  # the recipes' default

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp):
            output = self.network(images)
        self.task(output, labels, 0)[0].backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def timed(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        self(images, labels)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began

    def speed(self, images: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
        """Images a second, over so many steps; one before them wins the caches back."""
        self(images, labels)
        return steps * len(images) / sum(self.timed(images, labels) for _ in range(steps))


def of_heads(arguments: argparse.Namespace, *, heads: bool) -> Step:
    tree = builtin("synthetic")
    specs = [HeadSpec("early", tree.cut(groups=3), weight=0.3), HeadSpec("middle", tree.cut(groups=9), weight=0.3)] if heads else []
    return Step(arguments, CrossEntropy(tree), tree, specs)


def of_losses(arguments: argparse.Namespace) -> dict[str, Step]:
    """Steps by loss, the flat one first."""
    tree = builtin("imagenet1k")
    losses = {
        "cross_entropy": CrossEntropy(tree),
        "level_nll": LevelNLL(tree, levels=[{"cut": {"depth": depth}} for depth in (3, 6, 9)]),
        "hxe": HXE(tree),
        "soft_labels": SoftLabels(tree),
        "conditional_nll": ConditionalNLL(tree),
        "margin_nll": MarginNLL(tree),
    }
    classifiers = {"conditional_nll": "conditional", "margin_nll": "margin"}
    return {name: Step(arguments, loss, tree, classifier=classifiers.get(name, "linear")) for name, loss in losses.items()}


def batch(arguments: argparse.Namespace, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=step.device).to(memory_format=torch.channels_last)
    return F.normalize(images), torch.randint(0, step.classes, (arguments.batch,), device=step.device)


def over_first(arguments: argparse.Namespace, steps: dict[str, Step]) -> dict[str, np.ndarray]:
    """Ratios of step times to those of the first, one a round."""
    first, *others = steps
    images, labels = batch(arguments, steps[first])
    for step in (*steps.values(),) * 3:
        step(images, labels)
    seconds = {name: np.empty(arguments.rounds) for name in steps}
    for number in range(arguments.rounds):
        for name, step in steps.items():
            seconds[name][number] = step.timed(images, labels)
    return {name: seconds[name] / seconds[first] for name in others}


class Between(QuietDisplay):
    """Measures the images a second of rivals after each epoch of a run."""

    def __init__(self, rivals: Mapping[str, Callable[[], float]]):
        self.rivals = rivals
        self.speeds: dict[str, list[float]] = {name: [] for name in rivals}

    def epoch(self, row):
        for name, speed in self.rivals.items():
            self.speeds[name].append(speed())


def loop_over(recipe: Mapping[str, object], rivals: Mapping[str, Callable[[], float]]) -> dict[str, np.ndarray]:
    """Ratios of a run's images a second to those of rivals before and after, one an epoch after the first, which warms up."""
    between = Between(rivals)
    with tempfile.TemporaryDirectory() as folder:
        epochs = fit(recipe, run_dir=Path(folder) / "run", display=between).metrics
    seconds = np.diff([0.0] + [epoch["seconds"]["train"] for epoch in epochs])
    images = np.diff([0] + [epoch["images"] for epoch in epochs])
    around = {name: (np.array(speeds[1:]) + speeds[:-1]) / 2 for name, speeds in between.speeds.items()}
    return {name: (images / seconds)[1:] / speeds for name, speeds in around.items()}


def loop_over_bare(arguments: argparse.Namespace) -> np.ndarray:
    """Ratio of images per second, one an epoch."""
    recipe = {
        "epochs": max(3, arguments.rounds // BARE_STEPS),
        "hierarchy": {"builtin": "synthetic"},
        "data": {
            "name": "synthetic",
            "render_size": arguments.size,
            "render_train": 41,
            "render_test": 1,
            "val": 1,
            "batch_size": arguments.batch,
            "augment": {"crop": 4, "flip": True},
        },
        "model": {
            "backbone": arguments.backbone,
            "heads": [{"stage": "early", "cut": 3, "weight": 0.3}, {"stage": "middle", "cut": 9, "weight": 0.3}],
        },
        "optim": {"lr": 0.01},
        "train": {"device": arguments.device},
        "eval": {"train_subset": arguments.batch, "test": False, "predictions": False},
    }
    bare = of_heads(arguments, heads=True)
    images = batch(arguments, bare)
    return loop_over(recipe, {"bare": lambda: bare.speed(*images, BARE_STEPS)})["bare"]


def peak_memory(arguments: argparse.Namespace) -> float:
    """Peak memory of flat or branches in MiB, in a process of its own: the device's on CUDA, else the process's."""
    step = of_heads(arguments, heads=arguments.peak == "branches")
    images, labels = batch(arguments, step)
    for _ in range(3):
        step(images, labels)
    if step.device.type == "cuda":
        return torch.cuda.max_memory_allocated(step.device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def row(arguments: argparse.Namespace, what: str, ratios: np.ndarray, note: str = "") -> dict[str, object]:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    device = pick_device(arguments.device)
    return {
        "what": what,
        "median": round(middle, 3),
        "q25": round(low, 3),
        "q75": round(high, 3),
        "rounds": len(ratios),
        "backbone": arguments.backbone,
        "size": arguments.size,
        "batch": arguments.batch,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "note": note,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=64, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="CSV file to append the rows to")
    parser.add_argument("--peak", choices=("flat", "branches"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_memory(arguments))
        return
    peaks = {}
    for kind in ("flat", "branches"):
        command = [sys.executable, __file__, *sys.argv[1:], "--peak", kind]
        peaks[kind] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    memory = f"peak memory {peaks['flat']:.0f} MiB flat, {peaks['branches']:.0f} MiB branches"
    ratios = over_first(arguments, {"flat": of_heads(arguments, heads=False), "branches": of_heads(arguments, heads=True)})
    rows = [row(arguments, "branches / flat step time", ratios["branches"], memory)]
    rows += [
        row(arguments, f"{name} / flat step time", ratios, "1,000 classes")
        for name, ratios in over_first(arguments, of_losses(arguments)).items()
    ]
    rows.append(row(arguments, "loop / bare images per second", loop_over_bare(arguments)))
    for made in rows:
        print("  ".join(f"{key} {value}" for key, value in made.items()))
    if arguments.out:
        append(arguments.out, rows)


if __name__ == "__main__":
    main()
