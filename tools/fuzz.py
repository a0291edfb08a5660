"""Feed damaged files to everything that reads files: nothing but our named errors may come out.

    python tools/fuzz.py --cases 10000

For each format a good file is damaged at random (bytes flipped, cut, doubled, swapped with parts of itself, numbers and keywords of the
format put in), and read. Counted are cases that were read and cases that were refused with a named error; anything else is a failure: the
file is kept in --keep, its traceback printed, and the exit code is 1. What was found so far is a test each.
"""

import argparse
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import yaml
from PIL import Image

import hiercnn
from hiercnn.data import open_image
from hiercnn.errors import HierCNNError
from hiercnn.hierarchy import builtin, read_hierarchy, save_hierarchy, to_nested
from hiercnn.recipe import Run, load_recipe, to_yaml
from hiercnn.train._checkpoint import load_training_state

WORDS = ["null", "-1", "0", "1e309", "NaN", "true", "[]", "{}", '""', "!!python/object:os.system", "../../x", ",", "\n", "\0", "9" * 30]
PIECES = [*map(str.encode, WORDS), b"\xff\xfe"]
RECIPE = {
    "name": "fuzz",
    "epochs": 1,
    "hierarchy": {"builtin": "synthetic", "cuts": [3, 9]},
    "data": {"name": "synthetic", "render_train": 4, "render_test": 2, "render_size": 16, "val": 1, "batch_size": 36},
    "model": {"backbone": "resnet_small", "heads": [{"stage": "early", "cut": 3, "weight": 0.5}]},
    "train": {"device": "cpu", "precision": "float32"},
    "logging": {"display": "quiet"},
}


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A file with one to four faults."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, size = draw.randrange(len(data) + 1), draw.randint(1, max(1, len(data) // 8))
        fault = draw.randrange(6)
        if fault == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif fault == 1:
            del data[at : at + size]
        elif fault == 2:
            data[at:at] = data[at : at + size]
        elif fault == 3:
            data[at : at + draw.randint(0, 6)] = draw.choice(PIECES)
        elif fault == 4:
            other = draw.randrange(len(data) + 1)
            data[at : at + size] = data[other : other + size]
        else:
            del data[at:]
    return bytes(data)


class Format:
    """A good file, its name, and what reads it."""

    def __init__(self, file: Path, read: Callable[[Path], object]):
        self.file, self.read, self.content = file, read, file.read_bytes()


def formats(folder: Path) -> dict[str, Format]:
    """Good files of every format, made in a folder."""
    tree = builtin("synthetic")
    save_hierarchy(tree, folder / "tree.json")
    (folder / "tree.yaml").write_text(yaml.safe_dump(to_nested(tree)), encoding="utf-8")
    edges = [f"{tree.names[parent]},{name}" for name, parent in zip(tree.names, tree.parents, strict=True) if parent >= 0]
    (folder / "edges.csv").write_text("\n".join(["parent,child", *edges]) + "\n", encoding="utf-8")
    above = [[tree.names[node] for node in tree.ancestors(leaf)[1:-1]] for leaf in tree.leaf_nodes]
    rows = [",".join([*nodes, name]) for nodes, name in zip(above, tree.classes, strict=True)]
    (folder / "levels.csv").write_text("\n".join(["group,kind,class", *rows]) + "\n", encoding="utf-8")
    trees = ("tree.json", "tree.yaml", "edges.csv", "levels.csv")
    (folder / "recipe.yaml").write_text(to_yaml(load_recipe(RECIPE)), encoding="utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    images = {f"image.{suffix}": Image.fromarray(pixels) for suffix in ("png", "jpg", "gif", "bmp", "webp", "tiff")}
    for name, image in images.items():
        image.save(folder / name)
    run = hiercnn.fit(RECIPE, run_dir=folder / "run")
    state, weights = run.checkpoints / "state.pt", run.checkpoints / "last.safetensors"
    found = {name: Format(folder / name, read_hierarchy) for name in trees}
    found["recipe.yaml"] = Format(folder / "recipe.yaml", lambda file: load_recipe(file, check=False))
    found |= {name: Format(folder / name, lambda file: open_image(file).load()) for name in images}
    found["last.safetensors"] = Format(weights, lambda file: Run(folder / "run").load_model())
    found["state.pt"] = Format(state, lambda file: load_training_state(file, tree))
    found |= {name: Format(folder / "run" / name, lambda file: seen(folder / "run")) for name in ("metrics.jsonl", "hierarchy.json")}
    found["recipe of a run"] = Format(folder / "run" / "recipe.yaml", lambda file: Run(folder / "run").recipe)
    return found


def seen(folder: Path) -> None:
    """What everybody reads of a run."""
    run = Run(folder)
    _ = run.finished, run.failed, run.metrics, run.end, run.start, run.channels, run.hierarchy, run.cuts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="formats; default: all")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for files that broke something")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    failures = 0
    with TemporaryDirectory() as scratch:
        for name, each in formats(Path(scratch)).items():
            if options.only and name not in options.only:
                continue
            each.read(each.file)  # good as it is
            draw, read, refused, kinds, began = random.Random(f"{options.seed} {name}"), 0, 0, {}, time.monotonic()
            for _ in range(options.cases):
                content = damaged(each.content, draw)
                each.file.write_bytes(content)
                try:
                    each.read(each.file)
                    read += 1
                except HierCNNError:
                    refused += 1
                except Exception as error:
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    kind = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
                    if kind not in kinds:
                        options.keep.mkdir(parents=True, exist_ok=True)
                        (options.keep / f"{len(kinds)}-{name.replace(' ', '-')}").write_bytes(content)
                        traceback.print_exc(limit=-6)
                    kinds[kind] = kinds.get(kind, 0) + 1
            each.file.write_bytes(each.content)
            failures += sum(kinds.values())
            seconds = time.monotonic() - began
            counts = f"{options.cases} cases, {read} read, {refused} refused, {sum(kinds.values())} failures"
            print(f"{name}: {counts} {kinds or ''} ({seconds:.0f} s)", flush=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
