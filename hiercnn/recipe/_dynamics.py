"""What was learnt when and where, from the weights that a run has kept."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hiercnn.clustering import cluster, vector_distances
from hiercnn.data import ImageSet, make_loader
from hiercnn.dynamics import LEAF, LOGITS, TREE, Row, Story, first_reaching, look, measure
from hiercnn.errors import CheckpointError, DataError, RecipeError
from hiercnn.files import atomic_file
from hiercnn.recipe._build import PYTHON, build_data, build_source
from hiercnn.recipe._fit import Run
from hiercnn.recipe._load import data_settings
from hiercnn.train import load_weights, pick_device

TAUS = (0.5, 0.8, 0.9)
COLUMNS = ("epoch", "step", *Row._fields)


class Moment(NamedTuple):
    """Weights that a run has kept: their name, the epochs begun or done, and the updates done."""

    weights: str
    epoch: int
    step: int


class Dynamics(NamedTuple):
    """What `dynamics_of_run` found.

    Attributes:
        rows: (epoch, step, row) in order of time.
        means: {layer: class means [T, K, F]} at the same moments.
        moments: These.
        folder: Where dynamics.csv, times.csv and means.npz lie.
        story: What figures are drawn from.
    """

    rows: list[tuple[int, int, Row]]
    means: dict[str, np.ndarray]
    moments: list[Moment]
    folder: Path
    story: Story


def dynamics_of_run(
    run: Run,
    *,
    images: int = 2000,
    random: int = 20,
    probes: bool = True,
    device: str = "auto",
    tell: Callable[[int, int], None] | None = None,
) -> Dynamics:
    """Measure every kept moment of a run; moments that were measured before with the same options are read back.

    Args:
        run: A run with `checkpoints.keep: log`.
        images: How many of train, and of test (val if there is none), are looked at; the same for every moment and for twins of one seed.
        random: Random partitions of the same group sizes beside each cut.
        probes: Whether to fit linear probes, which takes most of the time.
        tell: Called with the moments done and their number.

    Raises:
        CheckpointError: No run, or fewer than two kept moments. RecipeError: data that were objects. DataError: too few images, and what
        `measure` raises.
    """
    moments = kept_moments(run)
    folder = run.path / "dynamics"
    folder.mkdir(exist_ok=True)
    options = {"images": images, "random": random, "probes": probes}
    train, test = _images(run, images)
    cuts = [cut for cut in run.cuts if cut.name != LEAF]
    model = run.load_model(moments[0].weights).to(place := pick_device(device))
    weight = getattr(model.backbone.get_classifier(), "weight", None)
    weight = weight if weight is not None and tuple(weight.shape[:1]) == (run.hierarchy.num_classes,) and weight.ndim == 2 else None
    found = []
    for done, moment in enumerate(moments):
        if tell is not None:
            tell(done, len(moments))
        file = folder / f"{moment.weights}.npz"
        if not _same(file, options):
            load_weights(run.checkpoints / f"{moment.weights}.safetensors", model, run.hierarchy)
            settings = data_settings(run.recipe, run.channels)
            options_of_loader = {"train": False, "channels": run.channels, "device": place}
            looks = [look(model, make_loader(part, settings, **options_of_loader)).cpu() for part in (train, test)]
            rows = measure(*looks, run.hierarchy, cuts, weight=None if weight is None else weight.cpu(), random=random, probes=probes)
            _write_moment(file, rows, looks[0].class_means(run.hierarchy.num_classes), options)
        found.append(_read_moment(file))
    if tell is not None:
        tell(len(moments), len(moments))
    return _assembled(run, folder, moments, found)


def kept_moments(run: Run) -> list[Moment]:
    """The weights kept through training, in order of time. Raises CheckpointError if there are fewer than two."""
    if not run.exists():
        raise CheckpointError(f"no run in {run.path}")
    steps = sorted(int(file.stem.removeprefix("step-")) for file in run.checkpoints.glob("step-*.safetensors"))
    if len(steps) < 2:
        raise CheckpointError(f"{run.path} has kept weights of {len(steps)} moments; train it with checkpoints.keep=log")
    return [Moment(f"step-{step:08d}", -(-step // _updates_per_epoch(run)), step) for step in steps]


def _updates_per_epoch(run: Run) -> int:
    return run.start["steps_per_epoch"]


def _images(run: Run, count: int) -> list[ImageSet]:
    """Images with a class of train, and of test or else val: a fixed choice by the run's seed, every class among those of train."""
    recipe = run.recipe
    if recipe.data.name == PYTHON:
        raise RecipeError(f"the images of {run.path} were objects; use hiercnn.dynamics.look and measure on your own loaders")
    data = build_data(recipe, build_source(recipe), run.hierarchy)
    chosen, classes = [], run.hierarchy.num_classes
    for split in (data.train, data.test if data.test is not None else data.val):
        rng = np.random.default_rng([recipe.seed, 6])
        leaves = rng.permutation(np.flatnonzero(split.labels < classes))
        first = np.unique(split.labels[leaves], return_index=True)[1]  # one of every class
        rest = np.setdiff1d(np.arange(len(leaves)), first, assume_unique=True)
        chosen.append(split.subset(np.sort(leaves[np.concatenate([first, rest])[: max(count, len(first))]])))
    if len(np.unique(chosen[0].labels)) < classes:
        raise DataError(f"train has labelled images of {len(np.unique(chosen[0].labels))} of {classes} classes; every one is needed")
    return chosen


# ---- files ----------------------------------------------------------------------------------------------------------


def _write_moment(file: Path, rows: Sequence[Row], means: dict[str, np.ndarray], options: dict[str, object]) -> None:
    arrays = {f"means/{layer}": values for layer, values in means.items()}
    with atomic_file(file) as scratch, open(scratch, "wb") as out:
        np.savez_compressed(out, rows=json.dumps(rows), options=json.dumps(options), **arrays)


def _same(file: Path, options: dict[str, object]) -> bool:
    """Whether a moment was measured with these options."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return json.loads(str(arrays["options"])) == options
    except (OSError, ValueError, KeyError, EOFError):
        return False


def _read_moment(file: Path) -> tuple[list[Row], dict[str, np.ndarray]]:
    with np.load(file, allow_pickle=False) as arrays:
        rows = [Row(*row) for row in json.loads(str(arrays["rows"]))]
        return rows, {key.removeprefix("means/"): arrays[key] for key in arrays.files if key.startswith("means/")}


def _assembled(run: Run, folder: Path, moments: list[Moment], found: list[tuple[list[Row], dict[str, np.ndarray]]]) -> Dynamics:
    means = {layer: np.stack([each[layer] for _, each in found]) for layer in found[-1][1]}
    rows = [(moment.epoch, moment.step, row) for moment, (these, _) in zip(moments, found, strict=True) for row in these]
    rows += _against_last(moments, means, run.hierarchy.classes) + _relative(moments, rows)
    rows.sort(key=lambda row: row[1])  # stable: by time
    _write_csv(folder / "dynamics.csv", COLUMNS, ([epoch, step, *row] for epoch, step, row in rows))
    _write_csv(folder / "times.csv", ("layer", "cut", "statistic", "time", "step", "epoch"), _times(moments, rows))
    with atomic_file(folder / "means.npz") as scratch, open(scratch, "wb") as out:
        np.savez_compressed(out, steps=[moment.step for moment in moments], **means)
    cuts = [cut for cut in run.cuts if cut.name != LEAF]
    story = Story(rows, means, [moment.step for moment in moments], _updates_per_epoch(run), run.hierarchy, cuts)
    return Dynamics(rows, means, moments, folder, story)


def _against_last(moments: list[Moment], means: dict[str, np.ndarray], classes: Sequence[str]) -> list[tuple[int, int, Row]]:
    """r_final: correlation of each moment's dendrogram with the last one's."""
    rows = []
    for layer, path in means.items():
        heights = [cluster(vector_distances(torch.from_numpy(each), "cosine", list(classes)), "average").cophenetic() for each in path]
        for moment, each in zip(moments, heights, strict=True):
            rows.append((moment.epoch, moment.step, Row(layer, TREE, "r_final", float(np.corrcoef(each, heights[-1])[0, 1]))))
    return rows


def _relative(moments: list[Moment], rows: list[tuple[int, int, Row]]) -> list[tuple[int, int, Row]]:
    """Greedy accuracy ÷ that of the last moment, and the same of each random partition's mean."""
    greedy = [(epoch, step, row) for epoch, step, row in rows if (row.layer, row.statistic) == (LOGITS, "greedy")]
    last = {row.cut: row for _, step, row in greedy if step == moments[-1].step}
    return [
        (epoch, step, Row(LOGITS, row.cut, "relative", row.value / last[row.cut].value, row.random_mean / last[row.cut].random_mean))
        for epoch, step, row in greedy
    ]


def _times(moments: list[Moment], rows: list[tuple[int, int, Row]]) -> Iterator[list[object]]:
    """When curves have come so far: t_τ of accuracy and of what of it is above chance, t90 of what layers separate."""
    curves: dict[tuple[str, str, str], list[float]] = {}
    for _, _, row in rows:
        curves.setdefault((row.layer, row.cut, row.statistic), []).append(row.value)
    for key, values in curves.items():
        of_accuracy, of_layers = key[2] in ("greedy", "corrected"), key[2] in ("trace_ratio", "block_strength", "probe")
        for share in TAUS if of_accuracy else (0.9,) if of_layers else ():
            at = first_reaching(np.array(values), share, from_start=of_layers)
            moment = None if at is None else moments[at]
            yield [*key, f"t{round(100 * share)}", None if moment is None else moment.step, None if moment is None else moment.epoch]


def _write_csv(path: Path, columns: Sequence[str], rows) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if isinstance(cell, float) and np.isnan(cell) else cell for cell in row] for row in rows)
    with atomic_file(path) as scratch:
        scratch.write_text(text.getvalue(), encoding="utf-8")
