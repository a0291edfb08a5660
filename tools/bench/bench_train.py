"""What training costs beyond the step itself, and what a step costs in other ways: ratios measured side by side in one run.

    python tools/bench/bench_train.py --out tools/bench/train.csv
    python tools/bench/bench_train.py --only files --timm-train ~/pytorch-image-models/train.py

Rows `loop / bare`: images a second of a real run's epochs over the same step on a batch already in memory. `files`: JPEG files of
500 × 375 px (made for the occasion, or `--photos`) read by two workers; `memory`: images held in memory; `small`: the same at CIFAR's size.
Row `loop / timm`: over timm's train.py with the same model, files, workers, augmentation and precision, in a process of its own after each
of our epochs; its first steps are left out, our first batch of an epoch, which waits for the workers, is not.
Rows `branches`: a step with heads on an early, a middle and a late stage over one without. Rows `compiled` and `bfloat16`: a step over
eager, and over float32.
"""

import argparse
import io
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from bench_ops import append, positive
from bench_step import Step, batch, loop_over, over_first, row

from hiercnn.errors import HierCNNError
from hiercnn.hierarchy import Hierarchy, builtin
from hiercnn.losses import CrossEntropy
from hiercnn.models import HeadSpec
from hiercnn.train import pick_device, pick_precision

WORKERS = 2
PHOTO = (500, 375)  # about what ImageNet's photos measure
PHOTOS = 64  # different ones
CLASSES = 8
BARE_STEPS = 6  # between two epochs of the loop
TIMM_WARM = 4  # steps of timm's that are left out: workers start, memory is allocated


@dataclass(frozen=True)
class Setting:
    """A model with its images, and how often it is measured: what bench_step calls its arguments."""

    backbone: str
    size: int
    batch: int
    precision: str
    steps: int  # of an epoch
    rounds: int
    device: str


def settings(arguments: argparse.Namespace) -> dict[str, Setting]:
    """The models of loop, compiled and bfloat16 rows."""

    def setting(backbone: str, size: int, batch: int, precision: str, steps: int) -> Setting:
        return Setting(backbone, size, batch, precision, arguments.steps or steps, arguments.rounds, arguments.device)

    return {
        "files": setting("resnet18", 64, 64, "auto", 24),
        "memory": setting("tf_efficientnet_lite0", 96, 32, "float32", 12),  # a CPU is slow at bfloat16 gradients of depthwise convolutions
        "small": setting("resnet_small", 32, 128, "auto", 16),
    }


def plain_step(setting: Setting, **options) -> Step:
    tree = builtin("synthetic")
    return Step(setting, CrossEntropy(tree), tree, **{"precision": setting.precision, **options})


# ---- the loop


def loop_rows(name: str, setting: Setting, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    bare = plain_step(setting)
    images = batch(setting, bare)
    rivals: dict[str, Callable[[], float]] = {"bare": lambda: bare.speed(*images, BARE_STEPS)}
    with tempfile.TemporaryDirectory() as folder:
        if name != "files":
            data, note = in_memory(setting), f"{name}: images in memory"
        else:
            photos = arguments.photos or make_photos(Path(folder), setting)
            data, note = from_files(photos), f"files: JPEG, {WORKERS} workers"
            if arguments.timm_train:
                rivals["timm"] = lambda: timm_speed(arguments.timm_train, photos, setting)
        note += f", {pick_precision(setting.precision, pick_device(setting.device))}"
        for rival, ratios in loop_over(recipe(setting, data), rivals).items():
            yield row(
                setting, f"loop / {rival} images per second", ratios, note + (f"; timm {timm.__version__}" if rival == "timm" else "")
            )


def recipe(setting: Setting, data: dict[str, object]) -> dict[str, object]:
    return {
        "epochs": setting.rounds + 1,
        "data": {"batch_size": setting.batch, "image_size": setting.size, **data},
        "model": {"backbone": setting.backbone},
        "optim": {"lr": 0.01},
        "train": {"device": setting.device, "precision": setting.precision},
        "eval": {"train_subset": setting.batch, "test": False, "predictions": False},
    }


def in_memory(setting: Setting) -> dict[str, object]:
    each = 1 - (-setting.batch * setting.steps // builtin("synthetic").num_classes)
    sizes = {"render_size": setting.size, "render_train": each, "render_test": 1, "val": 1}
    return {"name": "synthetic", **sizes, "augment": {"crop": 4, "flip": True}}


def from_files(root: Path) -> dict[str, object]:
    augment = {"resized_crop": [0.08, 1.0], "flip": True}
    return {"name": "folder", "root": str(root), "storage": "files", "workers": WORKERS, "val": "given", "augment": augment}


def make_photos(root: Path, setting: Setting) -> Path:
    """An epoch of JPEG files in `train/<class>`, and a few in `val/<class>`: clouds of colour with grain, about 80 kB each."""
    photos = list(itertools.islice(draw_photos(), PHOTOS))
    for split, count in (("train", setting.steps * setting.batch), ("val", CLASSES)):
        for number in range(count):
            path = root / split / f"class_{number % CLASSES}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photos[number % PHOTOS])
    return root


def draw_photos() -> Iterator[bytes]:
    from PIL import Image

    rng = np.random.default_rng(0)
    while True:
        clouds = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(PHOTO, Image.Resampling.BICUBIC)
        grain = rng.normal(0, 8, (*PHOTO[::-1], 1))
        file = io.BytesIO()
        Image.fromarray((np.asarray(clouds) + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def timm_speed(script: Path, root: Path, setting: Setting) -> float:
    """Images a second of one epoch of timm's train.py, its first steps left out."""
    device = pick_device(setting.device)
    with tempfile.TemporaryDirectory() as out:
        options = {
            "model": setting.backbone,
            "img-size": setting.size,
            "batch-size": setting.batch,
            "num-classes": len(list((root / "train").iterdir())),
            "train-split": "train",
            "val-split": "val",
            "workers": WORKERS,
            "device": device.type,
            "epochs": 1,
            "warmup-epochs": 0,
            "lr": 0.01,
            "weight-decay": 5e-4,
            "color-jitter": 0,
            "train-interpolation": "bilinear",
            "log-interval": 1,
            "output": out,
        }
        command = [sys.executable, str(script), str(root), "--channels-last", *(f"--{key}={value}" for key, value in options.items())]
        if pick_precision(setting.precision, device) == "bfloat16":
            command += ["--amp", "--amp-dtype=bfloat16"]
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads, cwd=out)
    seconds = [float(found) for found in re.findall(r"Train: 0 \[.*?Time: ([\d.]+)s", ended.stdout + ended.stderr)]
    if ended.returncode or len(seconds) <= TIMM_WARM:
        raise HierCNNError(f"{script} gave {len(seconds)} steps, wanted more than {TIMM_WARM}:\n{ended.stderr[-2000:]}")
    return setting.batch / float(np.mean(seconds[TIMM_WARM:]))


# ---- steps


def branches_rows(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    tree = builtin("imagenet1k")
    for backbone in ("resnet50", "convnext_tiny", "efficientnet_b0"):
        setting = Setting(backbone, 96, 16, "float32", 1, arguments.rounds, arguments.device)
        steps = {name: branches_step(setting, tree, heads=name == "branches") for name in ("flat", "branches")}
        yield row(setting, "branches / flat step time", over_first(setting, steps)["branches"], "3 heads, 1,000 classes, float32")


def branches_step(setting: Setting, tree: Hierarchy, *, heads: bool) -> Step:
    places = zip(("early", "middle", "late"), (3, 6, 9), strict=True)
    specs = [HeadSpec(stage, tree.cut(depth=depth), weight=0.3) for stage, depth in places]
    return Step(setting, CrossEntropy(tree), tree, specs if heads else (), precision=setting.precision)


def compiled_row(setting: Setting) -> dict[str, object]:
    torch.compiler.reset()  # or the shapes of one model after those of another would be compiled for any
    steps = {"eager": plain_step(setting), "compiled": plain_step(setting, compiled=True)}
    compiling = steps["compiled"].timed(*batch(setting, steps["compiled"]))
    precision = pick_precision(setting.precision, pick_device(setting.device))
    note = f"{precision}; the first step, which compiles, takes {compiling:.0f} s"
    return row(setting, "compiled / eager step time", over_first(setting, steps)["compiled"], note)


def bfloat16_row(setting: Setting) -> dict[str, object]:
    steps = {precision: plain_step(setting, precision=precision) for precision in ("float32", "bfloat16")}
    return row(setting, "bfloat16 / float32 step time", over_first(setting, steps)["bfloat16"])


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    models = settings(arguments)
    for name in arguments.only:
        if name in models:
            yield from loop_rows(name, models[name], arguments)
        elif name == "branches":
            yield from branches_rows(arguments)
        else:
            yield from map({"compile": compiled_row, "bfloat16": bfloat16_row}[name], models.values())


def main() -> None:
    everything = ["files", "memory", "small", "bfloat16", "branches", "compile"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    parser.add_argument("--rounds", type=positive, default=5, help="ratios a row")
    parser.add_argument("--steps", type=positive, help="steps of an epoch; default: by setting")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch on a CPU; a core more for the workers helps")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--photos", type=Path, help="your own JPEG files: a folder of train/<class> and val/<class>")
    parser.add_argument("--timm-train", type=Path, help="train.py of a clone of pytorch-image-models, to compare files with")
    parser.add_argument("--out", type=Path, help="CSV file to append the rows to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"HIERCNN_CACHE": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
        for made in rows(arguments):
            print("  ".join(f"{key} {value}" for key, value in made.items()), flush=True)
            if arguments.out:
                append(arguments.out, [made])


if __name__ == "__main__":
    try:
        main()
    except HierCNNError as error:
        sys.exit(f"bench_train.py: {error}")
