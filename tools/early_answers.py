"""What early answers are worth and what they cost: every head of a run against the whole network, on the test images.

    python tools/early_answers.py runs/cifar100-every-stage --csv early.csv --plot figures

For each head: accuracy at its cut and at every coarser one, floating-point operations and time ÷ those of the whole network. Then, for
each promise --loss, the network that only sure images leave (`hiercnn predict --early-loss`): share that leaves, accuracy, mean operations
and time. Times are of test images in batches of 1 and of 64, in turns with the whole network (ratio of medians), on a single thread unless
--threads says otherwise. Several runs of one recipe stand one below the other; the figure is of the first.
"""

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from hiercnn.data import make_loader
from hiercnn.errors import HierCNNError
from hiercnn.hierarchy import Cut
from hiercnn.inference import calibrate_exit
from hiercnn.models import EarlyExit, Truncated
from hiercnn.pictures import DARK, OKABE_ITO, PANEL, finish, panels, save_pictures
from hiercnn.recipe import Early, Run, build_data, build_source, data_settings, early_heads, input_size, run_scores
from hiercnn.train import device_name

NEVER = 2.0  # a probability that no head reaches
BATCHES = {1: 64, 64: 256}  # sizes, and how many images are timed
TIMED = max(BATCHES.values())
COLUMNS = ("run", "answers from", "cut", "early", "accuracy", "cost", "time, batch 1", "time, batch 64")


def accuracy(probabilities: Tensor, fine: Cut, coarse: Cut, labels: Tensor) -> float:
    """Share of images whose most probable group of a cut is right, from probabilities of the groups of a finer one."""
    above = torch.zeros(len(fine), dtype=torch.int64)
    above[torch.tensor(fine.groups)] = torch.tensor(coarse.groups)
    sums = probabilities.new_zeros(len(labels), len(coarse)).index_add_(1, above, probabilities)
    wanted = torch.tensor(coarse.label_groups)[labels]
    return float((sums.argmax(1) == wanted)[wanted >= 0].double().mean())


@torch.inference_mode()
def time_ratios(networks: dict[str, nn.Module], whole: nn.Module, batches: Sequence[Tensor], rounds: int) -> dict[str, float]:
    """Median time of each network for some batches ÷ that of the whole one, all measured in turns."""
    seconds = {name: [] for name in [*networks, ""]}
    for _ in range(rounds + 1):
        for name, network in [*networks.items(), ("", whole)]:
            began = time.perf_counter()
            for images in batches:
                network(images)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: float(np.median(each[1:])) for name, each in seconds.items()}  # the first warms up
    return {name: medians[name] / medians[""] for name in networks}


def test_images(run: Run) -> Tensor:
    """Test images [B, channels, side, side] from all over the split, as the network takes them."""
    images = build_data(run.recipe, build_source(run.recipe), run.hierarchy).test
    chosen = images.subset(np.linspace(0, len(images) - 1, TIMED).astype(int))
    loader = make_loader(chosen, data_settings(run.recipe, run.channels), train=False, channels=run.channels)
    return torch.cat([batch.images for batch in loader.epoch()])


def rows(run: Run, losses: Sequence[float], rounds: int) -> list[list[object]]:
    model, name = run.load_model(), run.recipe.name
    leaf, labels, heads = run_scores(run, model, "test")
    val = run_scores(run, model)
    cuts, leaves = [cut for cut in run.cuts if cut.name != "leaf"], run.hierarchy.leaf_cut()
    early = early_heads(run, model)
    gates = {
        (each.head, loss): calibrate_exit(val[2][each.head], val[0], val[1], each.cut, loss=loss).threshold or NEVER
        for each in early
        for loss in losses
    }
    networks = {each.head: Truncated(model, each.head) for each in early}
    networks |= {gated(*gate): EarlyExit(model, gate[0], at, input_size=input_size(run)) for gate, at in gates.items()}
    images = test_images(run)
    times = [time_ratios(networks, model.backbone, images[:count].split(batch), rounds) for batch, count in BATCHES.items()]
    found = []
    for each in early:
        for cut in [cut for cut in [*cuts, leaves] if len(cut) <= len(each.cut)]:
            right = accuracy(heads[each.head].softmax(1), each.cut, cut, labels)
            found.append([name, each.head, cut.name, 1.0, right, each.cost, *(ratio[each.head] for ratio in times)])
        for loss in losses:
            network, threshold = gated(each.head, loss), gates[each.head, loss]
            values = left_early(each, threshold, leaf, labels, heads[each.head])
            found.append([name, network, each.cut.name, *values, *(ratio[network] for ratio in times)])
    for cut in [*cuts, leaves]:
        found.append([name, "whole network", cut.name, 0.0, accuracy(leaf.softmax(1), leaves, cut, labels), 1.0, 1.0, 1.0])
    return found


def gated(head: str, loss: float) -> str:
    return f"{head}, loss {loss:g}"


def left_early(early: Early, threshold: float, leaf: Tensor, labels: Tensor, logits: Tensor) -> tuple[float, float, float]:
    """Share of the test images that leave, accuracy, and mean cost."""
    head = logits.softmax(1)
    left = head.amax(1) >= threshold
    sums = torch.zeros_like(head).index_add_(1, torch.tensor(early.cut.groups), leaf.softmax(1))
    right = accuracy(torch.where(left[:, None], head, sums), early.cut, early.cut, labels)
    share = float(left.double().mean())
    return share, right, early.cost + (1 - share) * (1 - early.cost)


def figure(table: Sequence[Sequence[object]], title: str):
    """Accuracy against cost: a line a cut through heads and the whole network, and the gated networks as crosses."""
    drawn = panels(["operations ÷ whole network", "time of an image ÷ whole network (batch 1)"], columns=2)
    cuts = list(dict.fromkeys(row[2] for row in table if row[1] == "whole network"))
    colours = dict(zip(cuts, [*OKABE_ITO[: len(cuts) - 1], DARK], strict=True))
    for column, at in ((1, 5), (2, 6)):
        for cut, colour in colours.items():
            points = sorted((row[at], 100 * row[4], row[1]) for row in table if row[2] == cut and ", loss" not in row[1])
            x, y, text = zip(*points, strict=True)
            look = {"mode": "lines+markers", "line": {"color": colour, "width": 2}, "marker": {"size": 8}}
            drawn.add_scatter(x=x, y=y, text=text, name=cut, legendgroup=cut, showlegend=column == 1, **look, row=1, col=column)
            crosses = [(row[at], 100 * row[4], row[1]) for row in table if row[2] == cut and ", loss" in row[1]]
            if crosses:
                x, y, text = zip(*crosses, strict=True)
                mark = {"mode": "markers", "marker": {"symbol": "x", "size": 8, "color": colour}}
                drawn.add_scatter(x=x, y=y, text=text, showlegend=False, legendgroup=cut, **mark, row=1, col=column)
    drawn.update_yaxes(title_text="right, in %")
    note = "Points: heads, and the whole network at 1. Crosses: only images of which the head is sure leave early."
    return finish(drawn, title, [note], cuts, PANEL)


def cells(row: Sequence[object]) -> list[str]:
    shares = ["" if value is None else f"{value:.2f}" for value in row[5:]]
    return [*map(str, row[:3]), f"{100 * row[3]:.0f} %", f"{100 * row[4]:.1f} %", *shares]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of networks with heads")
    parser.add_argument("--loss", type=float, nargs="*", default=[0.005, 0.01, 0.02, 0.05], help="promises of the gated networks")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="file to write the table to")
    parser.add_argument("--plot", type=Path, help="folder for the figure, as HTML, SVG and PNG")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        table = [row for folder in options.runs for row in rows(Run(folder), options.loss, options.rounds)]
        if options.plot is not None:
            drawn = {}
            for name in dict.fromkeys(row[0] for row in table):
                of_name = [row for row in table if row[0] == name]
                first = of_name[: 1 + next(place for place, row in enumerate(of_name) if row[1:3] == ["whole network", "leaf"])]
                drawn[f"early-{name}"] = figure(first, f"Early answers of {name}")
            save_pictures(drawn, options.plot)
    except HierCNNError as error:
        print(f"early_answers: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    shown = Table(*COLUMNS, caption=f"{device_name(torch.device('cpu'))}, {options.threads} threads, torch {torch.__version__}")
    for row in table:
        shown.add_row(*cells(row))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
    if options.csv is not None:
        with open(options.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
