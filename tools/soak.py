"""Train many short epochs in one process, and see whether memory, open files, threads or the log grow.

    python tools/soak.py --epochs 1000

`hiercnn train` learns rendered shapes, one batch an epoch, evaluates and saves after each; meanwhile its process is looked at once an
epoch, from outside. Compared are the medians of the 50 epochs from epoch 100 on and of the last 50. RSS may grow by 16 MiB, open files and
threads not at all, a line of metrics.jsonl by 64 bytes (longer numbers); anything more gives exit code 1. --csv adds a row to a file,
--trace writes what was seen in every epoch.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from hiercnn.recipe import load_recipe, to_yaml
from hiercnn.train._environment import describe_environment

MIB = 2**20
BOUNDS = {"rss": 16 * MIB, "files": 0, "threads": 0, "line": 64}
WARM, WINDOW = 100, 50  # epochs
RECIPE = {
    "name": "soak",
    "hierarchy": {"builtin": "synthetic", "cuts": [3, 9]},
    "data": {"name": "synthetic", "render_train": 2, "render_test": 1, "render_size": 16, "val": 1, "batch_size": 36},
    "model": {"backbone": "resnet_small", "heads": [{"stage": "early", "cut": 3, "weight": 0.5}]},
    "train": {"device": "cpu", "precision": "float32"},
}


class Look(NamedTuple):
    """A process after an epoch: bytes of RSS, and the most so far; open files, threads, bytes of metrics.jsonl and of its last line."""

    epoch: int
    rss: int
    peak: int
    files: int
    threads: int
    log: int
    line: int


def look(process: int, log: bytes) -> Look:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    rss, peak = (int(status[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    files = sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
    return Look(log.count(b'"event": "epoch"'), rss, peak, files, int(status["Threads"]), len(log), len(log.splitlines()[-1]))


def watched(recipe: Path, folder: Path, epochs: int, tell_every: int = 100) -> list[Look]:
    """Train, and look once an epoch."""
    command = [sys.executable, "-m", "hiercnn", "train", str(recipe), "--run-dir", str(folder), f"epochs={epochs}"]
    looks: list[Look] = []
    with open(folder.with_suffix(".log"), "wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        metrics, size = folder / "metrics.jsonl", 0
        while process.poll() is None:
            time.sleep(0.01)
            if not metrics.exists() or metrics.stat().st_size == size:
                continue
            log = metrics.read_bytes()
            size = len(log)
            if log.endswith(b"\n") and b'"event": "epoch"' in log and b'"event": "end"' not in log:
                looks.append(look(process.pid, log))
                if looks[-1].epoch % tell_every == 0:
                    print(f"epoch {looks[-1].epoch}: {looks[-1].rss / MIB:.1f} MiB", flush=True)
    if process.returncode:
        sys.exit(f"soak.py: the training failed: {folder.with_suffix('.log').read_text()[-2000:]}")
    return looks


def growth(looks: list[Look]) -> dict[str, float]:
    """How much more there is in the end than after the first epochs."""
    early = [one for one in looks if WARM <= one.epoch < WARM + WINDOW]
    return {name: _median(looks[-WINDOW:], name) - _median(early, name) for name in BOUNDS}


def _median(looks: list[Look], name: str) -> float:
    return statistics.median(getattr(one, name) for one in looks)


def row(looks: list[Look], grown: dict[str, float], seconds: float, said: int) -> dict[str, object]:
    environment, last = describe_environment(torch.device("cpu"), "float32", 0), looks[-1]
    return {
        "epochs": last.epoch,
        "seconds": round(seconds),
        "RSS, MiB": round(last.rss / MIB, 1),
        "peak RSS, MiB": round(last.peak / MIB, 1),
        "RSS growth, MiB": round(grown["rss"] / MIB, 2),
        "open files": last.files,
        "growth of open files": grown["files"],
        "threads": last.threads,
        "growth of threads": grown["threads"],
        "bytes of metrics.jsonl an epoch": round((last.log - looks[0].log) / max(last.epoch - looks[0].epoch, 1)),
        "bytes of output an epoch": round(said / last.epoch),
        "machine": environment["device"],
        "commit": environment["git"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--csv", type=Path, help="file to add the row to")
    parser.add_argument("--trace", type=Path, help="file for what was seen in every epoch")
    options = parser.parse_args()
    if options.epochs < WARM + 2 * WINDOW:
        parser.error(f"--epochs: {WARM + 2 * WINDOW} at least")
    with tempfile.TemporaryDirectory() as scratch:
        recipe, folder = Path(scratch) / "soak.yaml", Path(scratch) / "run"
        recipe.write_text(to_yaml(load_recipe(RECIPE | {"epochs": options.epochs})), encoding="utf-8")
        began = time.monotonic()
        looks = watched(recipe, folder, options.epochs)
        found = row(looks, growth(looks), time.monotonic() - began, folder.with_suffix(".log").stat().st_size)
    if options.trace:
        _write(options.trace, [one._asdict() for one in looks])
    if options.csv:
        _write(options.csv, [found], more=True)
    print("\n".join(f"{name}: {value}" for name, value in found.items()))
    beyond = [name for name, value in growth(looks).items() if value > BOUNDS[name]]
    print(f"grows beyond its bound: {', '.join(beyond)}" if beyond else "nothing grows beyond its bound")
    sys.exit(bool(beyond))


def _write(path: Path, rows: list[dict], more: bool = False) -> None:
    begun = more and path.exists()
    with open(path, "a" if more else "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if not begun:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
