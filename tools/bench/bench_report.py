"""What a report costs: time to make it, size, and how soon a browser shows it, from made run folders of so many classes.

    python tools/bench/bench_report.py 100 1000 --out tools/bench/report.csv

A made run has a tree of three levels, predictions of several evaluations whose errors follow the tree, class means of four layers and small
drawings. `first_paint_s` is the browser's first contentful paint, `views_s` when the linked views are drawn; medians over rounds, a fresh
browser each, both from the start of loading. Needs Chromium ($BROWSER_PATH, or one that the system has) and playwright.
"""

import argparse
import csv
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_ops import append, positive
from PIL import Image

from hiercnn.hierarchy import Hierarchy, from_edges
from hiercnn.metrics import level_accuracy, mistakes
from hiercnn.recipe import Run, load_recipe, to_yaml
from hiercnn.report import write_report
from hiercnn.train import device_name, git_commit

LAYERS = {"stage0": 32, "stage1": 64, "stage2": 128, "penultimate": 512}
PARTS = {10_000: (10, 20, 50), 1000: (10, 10, 10), 100: (4, 5, 5)}


def balanced_tree(parts: tuple[int, ...]) -> Hierarchy:
    """A tree whose nodes have so many children, level by level; classes in alphabetical order, as manifests have them."""
    above, edges = ["everything"], []
    for level, count in enumerate(parts):
        kind = "class" if level == len(parts) - 1 else f"group {'abc'[level]}"
        children = [f"{kind} {number:05d}" for number in range(count * len(above))]
        edges += [(above[number // count], child) for number, child in enumerate(children)]
        above = children
    return from_edges(edges).with_classes(sorted(above))


def made_run(
    folder: Path,
    tree: Hierarchy,
    *,
    name: str = "made-flat",
    seed: int = 0,
    epochs: int = 6,
    per_class: tuple[int, int] = (5, 10),
    cuts: list | None = None,
    images: bool = True,
    responses: bool = True,
    heads: list[dict] | None = None,
) -> Run:
    """Write a run folder as training leaves it, without training.

    Args:
        tree: Classes in alphabetical order.
        per_class: Images of each class in val and in test.
        cuts: As a recipe has them; default: depth 1 and 2.
        images: Whether the images are there too, in `folder`-images.
        responses: Whether class means are.
    """
    rng, run = np.random.default_rng(seed), Run(folder)
    recipe = load_recipe(_recipe(folder, name, seed, epochs, heads), check=False)
    found_cuts = tree.cuts([{"depth": 1}, {"depth": 2}] if cuts is None else cuts)
    environment = {"device": "made", "precision": "float32", "git": None, "versions": {"torch": torch.__version__}}
    run.create(to_yaml(recipe), environment, tree, found_cuts)
    counts = {"train": 1, "val": per_class[0], "test": per_class[1]}
    labels = {split: np.repeat(np.arange(tree.num_classes), count) for split, count in counts.items()}
    ids = {split: [f"{split}/{number:06d}.png" for number in range(len(of_split))] for split, of_split in labels.items()}
    if images:
        _draw(folder.with_name(folder.name + "-images"), tree, labels, ids)
    digests = {split: f"{split} {tree.digest} {len(of_split)}" for split, of_split in labels.items()}
    sizes = {split: len(of_split) for split, of_split in labels.items()}
    run.log({"event": "start", "epochs": epochs, "steps_per_epoch": 10, "sizes": sizes, "digests": digests, "channels": 3,
             "input_size": [3, 32, 32], "parameters": 1})  # fmt: skip
    closeness = _closeness(tree)
    for epoch in range(1, epochs + 1):
        skill = 0.6 + 0.4 * epoch / epochs
        logits = {split: _logits(rng, labels[split], closeness, skill) for split in ("val", "test")}
        scores = {split: _scores(logits[split], labels[split], tree, found_cuts) for split in logits}
        run.log({"event": "epoch", "epoch": epoch, "step": 10 * epoch, "images": 100 * epoch, "val": scores["val"],
                 "train_subset": scores["test"], "seconds": {"train": 1.0, "eval": 0.1}})  # fmt: skip
        if epoch < epochs:
            top = torch.tensor(logits["val"]).softmax(1).topk(min(5, tree.num_classes))
            _save(run, f"val-epoch-{epoch:04d}", labels["val"], top_classes=top.indices.int(), top_probabilities=top.values.half())
    for split in ("val", "test"):
        _save(run, split, labels[split], logits=logits[split].astype(np.float16), ids=np.array(ids[split]))
    run.log({"event": "end", "epochs": epochs, "images": 100 * epochs, "seconds": {"train": 1.0, "eval": 0.1}, "peak_memory_mib": None,
             **scores})  # fmt: skip
    if responses:
        _respond(run, tree, rng)
    return run


def _recipe(folder: Path, name: str, seed: int, epochs: int, heads: list[dict] | None) -> dict:
    data = {"name": "manifest", "file": f"{folder}-images/images.csv", "image_size": 32}
    heads = {"heads": heads} if heads else {}
    tree = {"file": str(folder / "hierarchy.json")}
    return {"name": name, "seed": seed, "epochs": epochs, "data": data, "hierarchy": tree, "model": {"backbone": "resnet18", **heads}}


def _closeness(tree: Hierarchy) -> np.ndarray:
    """How alike two classes are [C, C]: the lower their common ancestor, the more."""
    every = np.arange(tree.num_classes)
    return 2.2 * (1 - tree.distances(every[:, None], every))


def _logits(rng: np.random.Generator, labels: np.ndarray, closeness: np.ndarray, skill: float) -> np.ndarray:
    return (skill * closeness[labels] + rng.gumbel(size=(len(labels), len(closeness)), scale=0.45)).astype(np.float32)


def _scores(logits: np.ndarray, labels: np.ndarray, tree: Hierarchy, cuts: list) -> dict:
    scores, labels = torch.tensor(logits), torch.tensor(labels)
    return level_accuracy(scores, labels, tree, cuts) | mistakes(scores, labels, tree)


def _save(run: Run, name: str, labels: np.ndarray, **columns: object) -> None:
    np.savez_compressed(run.predictions / f"{name}.npz", labels=labels, indices=np.arange(len(labels)), **columns)


def _draw(folder: Path, tree: Hierarchy, labels: dict[str, np.ndarray], ids: dict[str, list[str]]) -> None:
    """A picture an image: the colour of its group, and stripes of its own."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 220, (tree.num_classes, 3))
    with open(folder_made(folder) / "images.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for split, of_split in labels.items():
            folder_made(folder / split)
            for name, label in zip(ids[split], of_split, strict=True):
                pixels = np.tile(colours[label].astype(np.uint8), (32, 32, 1))
                pixels[:: int(rng.integers(2, 9))] //= 2
                Image.fromarray(pixels).save(folder / name, compress_level=1)
                writer.writerow([name, tree.classes[label], split])


def folder_made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _respond(run: Run, tree: Hierarchy, rng: np.random.Generator) -> None:
    """Class means that share offsets in groups, more so in late layers, as `hiercnn dynamics` writes them."""
    cut = tree.cut(depth=1)
    (run.checkpoints / "last.safetensors").touch()
    offsets = {layer: rng.normal(size=(len(cut), width))[cut.groups] for layer, width in LAYERS.items()}
    means = {
        layer: (rng.normal(size=(tree.num_classes, width)) + number * offsets[layer] / 2)[None]
        for number, (layer, width) in enumerate(LAYERS.items())
    }
    folder_made(run.path / "dynamics")
    np.savez(run.path / "dynamics" / "means.npz", steps=np.array([10]), **means)


# ---- measuring


def browser() -> str | None:
    """Path of the Chromium or Chrome to use."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, names)), None)


def loaded(page: Path, program: str) -> tuple[float, float]:
    """Seconds to the first contentful paint and to the linked views, in a fresh browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        shown = started.new_page(viewport={"width": 1600, "height": 1000})
        shown.goto(page.resolve().as_uri())
        shown.wait_for_selector("html[data-ready]")
        times = shown.evaluate("['first-contentful-paint', 'views'].map((name) => performance.getEntriesByName(name)[0].startTime)")
        started.close()
    return times[0] / 1000, times[1] / 1000


def measured(classes: int, rounds: int, program: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        run = made_run(Path(scratch) / "run", balanced_tree(PARTS[classes]), epochs=20)
        began = time.perf_counter()
        report = write_report([run.path], Path(scratch) / "report.html")
        seconds = time.perf_counter() - began
        images = run.start["sizes"]["val"] + run.start["sizes"]["test"]
        paints = [loaded(report.path, program) for _ in range(rounds)]
    first, views = (statistics.median(column) for column in zip(*paints, strict=True))
    row = {"classes": classes, "images": images, "make_s": round(seconds, 1), "size_mb": round(report.size / 1e6, 1)}
    row |= {"first_paint_s": round(first, 2), "views_s": round(views, 2), "rounds": rounds}
    return row | {"device": device_name(torch.device("cpu")), "torch": torch.__version__.split("+")[0], "commit": git_commit()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", type=int, nargs="+", choices=sorted(PARTS), help="numbers of classes")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--out", type=Path, help="CSV file to append to")
    arguments = parser.parse_args()
    program = browser()
    if program is None:
        sys.exit("bench_report.py: no Chromium found; install one, or name it in BROWSER_PATH")
    for classes in arguments.classes:
        row = measured(classes, arguments.rounds, program)
        print("  ".join(f"{key} {value}" for key, value in row.items()))
        if arguments.out:
            append(arguments.out, [row])


if __name__ == "__main__":
    main()
