"""What was learnt when and where, from the weights that a run has kept, or from what was measured while it was trained."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hiercnn.data import ImageSet, make_loader
from hiercnn.dynamics import (
    Moment,
    Story,
    classifier_rows,
    look,
    measure,
    read_moment,
    read_moments,
    told,
    write_moment,
    write_tables,
)
from hiercnn.errors import CheckpointError, DataError
from hiercnn.recipe._build import dynamics_cuts, dynamics_layers
from hiercnn.recipe._fit import Run
from hiercnn.recipe._load import data_settings
from hiercnn.recipe._run_data import data_of_run
from hiercnn.train import load_weights, pick_device


class Dynamics(NamedTuple):
    """What `dynamics_of_run` found.

    Attributes:
        story: Every number in order of time; figures and claims are made of it.
        folder: Where dynamics.csv, times.csv and means.npz lie.
        live: Whether these are numbers that were measured while the run was trained, as it kept no weights.
    """

    story: Story
    folder: Path
    live: bool


def dynamics_of_run(
    run: Run,
    *,
    images: int = 2000,
    random: int | None = None,
    probes: bool = True,
    device: str = "auto",
    tell: Callable[[int, int], None] | None = None,
) -> Dynamics:
    """Measure every kept moment of a run; moments that were measured before with the same options are read back.

    A run that kept no weights and was measured while it was trained is told from that.

    Args:
        run: A run with `checkpoints.keep: log`, or one with `dynamics:`, whose layers and cuts are taken in any case.
        images: How many of train, and of test (val if there is none), are looked at; the same for every moment and for twins of one seed.
        random: Random partitions of the same group sizes beside each cut; default: those of the recipe's `dynamics:`, or 20.
        probes: Whether to fit linear probes, which takes most of the time.
        tell: Called with the moments done and their number.

    Raises:
        CheckpointError: No run, fewer than two moments, data that have changed since it began, a folder that cannot be written.
        RecipeError: Data that were objects, no cut. DataError: too few images, and what `measure` raises.
    """
    steps = kept_steps(run)
    cuts, folder = dynamics_cuts(run.recipe, run.hierarchy), run.path / "dynamics"
    live = [] if len(steps) > 1 else read_moments(folder / "live")
    if len(steps) < 2 and len(live) < 2:
        measured = f", and {len(live)} was measured while it was trained" if live else ""
        raise CheckpointError(
            f"{run.path} has kept weights of {len(steps)} moments{measured}; two are needed."
            " Train it with checkpoints.keep=log, or with dynamics={}"
        )
    if random is None:
        random = 20 if run.recipe.dynamics is None else run.recipe.dynamics.random
    moments = live or _measured(run, steps, folder, {"images": images, "random": random, "probes": probes}, device, tell)
    split = "val" if live or "test" not in run.start["sizes"] else "test"
    story = told(moments, run.hierarchy, cuts, run.start["steps_per_epoch"], split)
    _make(folder)
    write_tables(story, folder)
    return Dynamics(story, folder, bool(live))


def kept_steps(run: Run) -> list[int]:
    """Updates done at the moments whose weights a run has kept. Raises CheckpointError if there is no run."""
    if not run.exists():
        raise CheckpointError(f"no run in {run.path}")
    numbers = (file.stem.removeprefix("step-") for file in run.checkpoints.glob("step-*.safetensors"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def _measured(
    run: Run, steps: list[int], folder: Path, options: dict[str, object], device: str, tell: Callable[[int, int], None] | None
) -> list[Moment]:
    train, test = images_to_look_at(run, options["images"])
    tree, cuts = run.hierarchy, dynamics_cuts(run.recipe, run.hierarchy)
    model = run.load_model(f"step-{steps[0]:08d}").to(place := pick_device(device))
    layers = dynamics_layers(run.recipe, model.backbone)
    settings = data_settings(run.recipe, run.channels)
    loaders = [make_loader(part, settings, train=False, channels=run.channels, device=place) for part in (train, test)]
    moments = []
    for done, step in enumerate(steps):
        if tell is not None:
            tell(done, len(steps))
        weights = run.checkpoints / f"step-{step:08d}.safetensors"
        moment = _kept(folder, step, options | {"probes": True}, weights) or _kept(folder, step, options, weights)
        if moment is None:
            load_weights(weights, model, tree)
            looks = [look(model, loader, layers).cpu() for loader in loaders]
            weight = classifier_rows(model, tree.num_classes)
            rows = measure(
                *looks, tree, cuts, weight=None if weight is None else weight.cpu(), random=options["random"], probes=options["probes"]
            )
            moment = Moment(step, rows, looks[0].class_means(tree.num_classes))
            _make(_folder(folder, options))
            write_moment(_folder(folder, options) / f"{weights.stem}.npz", moment, options)
        moments.append(moment)
    if tell is not None:
        tell(len(steps), len(steps))
    return moments


def _folder(folder: Path, options: dict[str, object]) -> Path:
    """Where moments that were measured with these options lie; others stay beside them."""
    return folder / f"images-{options['images']}-random-{options['random']}{'-probes' if options['probes'] else ''}"


def _kept(folder: Path, step: int, options: dict[str, object], weights: Path) -> Moment | None:
    """A moment that was measured before, from weights that are still these."""
    file = _folder(folder, options) / f"{weights.stem}.npz"
    if not file.exists() or file.stat().st_mtime < weights.stat().st_mtime:
        return None
    moment = read_moment(file, options)
    return moment if moment is not None and moment.step == step else None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {folder}: {error.strerror}; mend permissions, or copy the run") from None


def images_to_look_at(run: Run, count: int) -> list[ImageSet]:
    """Images with a class of train, and of test or else val: a fixed choice by the run's seed, every class among those of train."""
    data, _ = data_of_run(run, "use hiercnn.dynamics.look and measure on your own loaders")
    chosen, classes = [], run.hierarchy.num_classes
    for split in (data.train, data.test if data.test is not None else data.val):
        rng = np.random.default_rng([run.recipe.seed, 6])
        leaves = rng.permutation(np.flatnonzero(split.labels < classes))
        first = np.unique(split.labels[leaves], return_index=True)[1]  # one of every class
        rest = np.setdiff1d(np.arange(len(leaves)), first, assume_unique=True)
        chosen.append(split.subset(np.sort(leaves[np.concatenate([first, rest])[: max(count, len(first))]])))
    if len(np.unique(chosen[0].labels)) < classes:
        raise DataError(f"train has labelled images of {len(np.unique(chosen[0].labels))} of {classes} classes; every one is needed")
    return chosen
