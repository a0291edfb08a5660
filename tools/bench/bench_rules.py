"""What decision rules and their calibration cost, a million images of 1,000 classes by default, in WordNet's ImageNet tree.

    python tools/bench/bench_rules.py --threads 1 --out tools/bench/rules.csv

Logits are drawn block by block, a superclass and a class above the rest, and every rule answers each block before the next is drawn, so
that all see the same drift of a busy machine; only the rules are timed, by the clock and in CPU seconds, which others on the machine
lengthen less. `argmax alone` is torch's argmax and softmax, the least there is; `dense` is climbing with a table of classes × nodes,
whose answers must be those of `climbing`. Memory is what one call on 20,000 images (76 MiB of logits) needs above what was there before:
on CUDA the device's, else this process's, on Linux.
"""

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_ops import append, positive
from torch import Tensor

from hiercnn.errors import HierCNNError
from hiercnn.hierarchy import Hierarchy, builtin
from hiercnn.inference import Climbing, Decision, calibrate, rules
from hiercnn.train import device_name, git_commit, pick_device

GROUPS = 20
BLOCK = 20_000
Way = Callable[[Tensor, dict[str, Tensor]], Decision]


class Cost(NamedTuple):
    """What so many images took, and MiB for one block."""

    images: int
    seconds: float
    cpu_seconds: float
    memory_mib: float


class Images:
    """Logits [B, C], heads' logits {name: [B, K]} and classes, drawn block by block on the device."""

    def __init__(self, tree: Hierarchy, device: torch.device):
        self.device, self.draws = device, torch.Generator(device).manual_seed(0)
        self.groups = torch.tensor(tree.cut(groups=GROUPS).groups, device=device)

    def draw(self, count: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        classes = torch.randint(len(self.groups), (count,), generator=self.draws, device=self.device)
        logits = torch.randn(count, len(self.groups), generator=self.draws, device=self.device)
        logits += 3 * (self.groups == self.groups[classes][:, None])
        logits[torch.arange(count, device=self.device), classes] += 4
        head = torch.randn(count, GROUPS, generator=self.draws, device=self.device)
        return logits, {"head": head}, classes


def ways_of(tree: Hierarchy, images: Images) -> dict[str, Way]:
    logits, _, classes = images.draw(2000)
    options = {"auto": {"calibration": calibrate(tree, logits, classes)}, "hie": {"cut": GROUPS}}
    made = {name: rules[name](tree, **options.get(name, {})).to(images.device) for name in sorted(rules)}
    made["crm path"] = rules["crm"](tree, distance="path").to(images.device)
    return {"argmax alone": argmax_alone, **made, "dense": dense(tree, images.device)}


def argmax_alone(logits: Tensor, heads: dict[str, Tensor]) -> Decision:
    best, nodes = logits.softmax(1).max(1)
    return Decision(nodes, best)


def dense(tree: Hierarchy, device: torch.device) -> Way:
    """Climbing with a table of classes × nodes."""
    nodes = torch.arange(tree.num_nodes)
    ranks, starts, stops = (torch.tensor(table) for table in (tree.leaf_rank, tree.starts, tree.stops))
    below = ((ranks[:, None] >= starts[nodes]) & (ranks[:, None] < stops[nodes])).float().to(device)  # [C, N]
    depths, threshold = torch.tensor(tree.depths, device=device), Climbing(tree).threshold

    def way(logits: Tensor, heads: dict[str, Tensor]) -> Decision:
        q = logits.softmax(1) @ below
        ok = (q >= threshold) & (below[logits.argmax(1)] > 0)
        ok[:, 0] = True
        answers = (ok * (depths + 1)).argmax(1)
        return Decision(answers, q.gather(1, answers[:, None])[:, 0])

    return way


def measure(tree: Hierarchy, images: Images, count: int, dense_images: int) -> dict[str, Cost]:
    """What each way costs."""
    ways = ways_of(tree, images)
    logits, heads, _ = images.draw(BLOCK)
    memory = {name: peak_of(lambda way=way: way(logits, heads), images.device) for name, way in ways.items()}
    torch.zeros(30 * 2**20, dtype=torch.uint8)  # freed, so that glibc keeps blocks of some MiB from here on, as in any long process
    done, total = dict.fromkeys(ways, 0), {name: np.zeros(2) for name in ways}
    for first in range(0, count, BLOCK):
        logits, heads, _ = images.draw(min(BLOCK, count - first))
        answers = {}
        for name, way in ways.items():
            if name != "dense" or first < dense_images:
                answers[name], seconds = timed(lambda way=way, batch=(logits, heads): way(*batch), device=images.device)
                done[name], total[name] = done[name] + len(logits), total[name] + seconds
        if "dense" in answers and (answers["dense"].nodes != answers["climbing"].nodes).float().mean() > 1e-4:  # q within 1e-6 of θ
            raise HierCNNError("dense and climbing give other answers")
    return {name: Cost(done[name], *total[name], memory[name]) for name in ways}


def timed(call: Callable[[], Any], device: torch.device) -> tuple[Any, np.ndarray]:
    """What a call returns, and its seconds by the clock and of CPU time [2]."""
    began = np.array([time.perf_counter(), time.process_time()])
    made = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return made, np.array([time.perf_counter(), time.process_time()]) - began


def peak_of(call: Callable[[], object], device: torch.device) -> float:
    """MiB that a second call needs above what was there before."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back first
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = status("VmRSS")
    call()
    return (status("VmHWM") - before) / 2**20


def status(key: str) -> int:
    """A number of bytes that Linux keeps about this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def calibration(tree: Hierarchy, images: Images, count: int) -> Cost:
    logits, _, classes = images.draw(count)
    _, seconds = timed(lambda: calibrate(tree, logits, classes), images.device)
    return Cost(count, *seconds, peak_of(lambda: calibrate(tree, logits, classes), images.device))


def rows_of(tree: Hierarchy, found: dict[str, Cost], device: torch.device) -> list[dict[str, object]]:
    return [
        {
            "what": what,
            "images": cost.images,
            "classes": tree.num_classes,
            "nodes": tree.num_nodes,
            "seconds": float(f"{cost.seconds:.4g}"),
            "cpu_seconds": float(f"{cost.cpu_seconds:.4g}"),
            "memory_mib": round(cost.memory_mib),
            "dtype": "float32",
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "commit": git_commit(),
        }
        for what, cost in found.items()
    ]


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive, default=1_000_000)
    parser.add_argument("--dense-images", type=positive, default=100_000, help="images for `dense`")
    parser.add_argument("--calibration-images", type=positive, default=50_000)
    parser.add_argument("--hierarchy", default="imagenet1k")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=positive, help="threads of torch on a CPU; default: torch's")
    parser.add_argument("--out", type=Path, help="CSV file to append the rows to")
    return parser.parse_args(argv)


def main() -> None:
    arguments = arguments_of()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    tree, device = builtin(arguments.hierarchy), pick_device(arguments.device)
    images = Images(tree, device)
    found = measure(tree, images, arguments.images, arguments.dense_images)
    found["calibrate"] = calibration(tree, images, arguments.calibration_images)
    rows = rows_of(tree, found, device)
    for made in rows:
        print("  ".join(f"{key} {value}" for key, value in made.items()))
    if arguments.out:
        append(arguments.out, rows)


if __name__ == "__main__":
    try:
        main()
    except HierCNNError as error:
        sys.exit(f"bench_rules.py: {error}")
