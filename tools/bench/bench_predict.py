"""What answers cost beside timm alone: photos a second through `Predictor`, and the time of a batch through a network without its heads.

    python tools/bench/bench_predict.py runs/finetune-branches-efficientnet-lite0 data/grocery/test --out tools/bench/predict.csv

`predictor` reads the files of a folder, scores them and gives label, level, path and reason of each; `timm` is a DataLoader over the same
files with timm's own transforms, and argmax of the same network as timm builds it, in the same precision and memory layout. `network` is
the run's with its heads stripped, on random batches of 1 and of 64 in float32, beside timm's. The two take turns; a ratio is the median
over the turns of theirs ÷ ours (1: as fast as timm alone), with its quartiles.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from bench_ops import append, positive
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hiercnn.errors import HierCNNError
from hiercnn.inference import Predictor
from hiercnn.recipe import Run, input_size, predictor_of_run
from hiercnn.train import device_name, git_commit, pick_device

BATCHES = (1, 64)
BATCH = 64
SAMPLE = 0.2  # seconds; short calls are repeated until a sample takes as long


class Pair(NamedTuple):
    """Two ways to do the same; `images` of each call."""

    what: str
    images: int
    ours: Callable[[], object]
    timms: Callable[[], object]


class Photos(Dataset):
    """(timm's transform of a photo, 0)."""

    def __init__(self, files: list[str], size: tuple[int, int, int], run: Run):
        self.files = files
        interpolation = run.recipe.data.interpolation or "bilinear"
        images = {"mean": run.start["mean"], "std": run.start["std"], "interpolation": interpolation, "crop_pct": 1.0}
        self.transform = timm.data.create_transform(size, is_training=False, **images)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB")), 0


@torch.inference_mode()
def with_timm(network: nn.Module, photos: Photos, predictor: Predictor, workers: int) -> list[int]:
    """The most probable class of every photo."""
    found, layout = [], torch.channels_last if predictor.channels_last else torch.contiguous_format
    for images, _ in DataLoader(photos, batch_size=BATCH, num_workers=workers):
        with predictor.autocast():
            found += network(images.to(predictor.device, memory_format=layout)).argmax(1).tolist()
    return found


@torch.inference_mode()
def scores(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    found = network(images)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return found


def pairs(run: Run, folder: Path, workers: int, device: torch.device) -> list[Pair]:
    size, recipe = input_size(run), run.recipe
    stripped = run.load_model().strip_heads().to(device).eval()
    own = {"num_classes": run.hierarchy.num_classes, "in_chans": run.channels, **recipe.model.options}
    network = timm.create_model(recipe.model.backbone, **own).to(device).eval()
    network.load_state_dict(stripped.state_dict())
    predictor = predictor_of_run(run, batch_size=BATCH, workers=workers, device=str(device))
    files = predictor.inputs(folder).ids
    same = copy.deepcopy(network).to(memory_format=torch.channels_last if predictor.channels_last else torch.contiguous_format)
    theirs = partial(with_timm, same, Photos(files, size, run), predictor, workers)
    found = [Pair("predictor", len(files), partial(predictor, files), theirs)]
    for batch in BATCHES:
        images = torch.randn(batch, *size, device=device)
        found.append(Pair(f"network, batch {batch}", batch, partial(scores, stripped, images), partial(scores, network, images)))
    return found


def measure(pair: Pair, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of a call, ours and timm's, in turns; which comes first changes from turn to turn."""
    for _ in range(3):
        pair.ours(), pair.timms()
    calls = max(1, round(SAMPLE / seconds(pair.timms, 1)))
    ours, timms = [], []
    for turn in range(rounds):
        for call, into in ((pair.ours, ours), (pair.timms, timms))[:: 1 if turn % 2 else -1]:
            into.append(seconds(call, calls))
    return ours, timms


def seconds(call: Callable[[], object], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


def row_of(pair: Pair, rounds: int, run: Run, arguments: argparse.Namespace, device: torch.device) -> dict[str, object]:
    ours, timms = (np.array(times) for times in measure(pair, rounds if pair.what != "predictor" else arguments.passes))
    low, middle, high = np.quantile(timms / ours, [0.25, 0.5, 0.75])
    return {
        "what": pair.what,
        "backbone": run.recipe.model.backbone,
        "side": input_size(run)[-1],
        "images": pair.images,
        "images_per_s": f"{pair.images / np.median(ours):.4g}",
        "timm_images_per_s": f"{pair.images / np.median(timms):.4g}",
        "ratio": f"{middle:.4g}",
        "ratio_q25": f"{low:.4g}",
        "ratio_q75": f"{high:.4g}",
        "rounds": len(ours),
        "workers": arguments.workers if pair.what == "predictor" else "",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": git_commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of a timm backbone")
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--workers", type=int, default=0, help="processes that read photos, of both")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=positive, default=40, help="turns of the networks")
    parser.add_argument("--passes", type=positive, default=6, help="turns over all photos")
    parser.add_argument("--out", type=Path, help="CSV file that rows are appended to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        device, run = pick_device(arguments.device), Run(arguments.run)
        rows = [row_of(pair, arguments.rounds, run, arguments, device) for pair in pairs(run, arguments.photos, arguments.workers, device)]
    except HierCNNError as error:
        sys.exit(f"bench_predict.py: {error}")
    shown = Table(*list(rows[0])[:10])
    for row in rows:
        shown.add_row(*map(str, list(row.values())[:10]))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
    if arguments.out is not None:
        append(arguments.out, rows)


if __name__ == "__main__":
    main()
