"""What was measured at single moments, on disk, and the story that they tell together."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hiercnn.clustering import cluster, vector_distances
from hiercnn.dynamics._figures import Story
from hiercnn.dynamics._hypernyms import first_reaching
from hiercnn.dynamics._measure import LOGITS, TREE, Row
from hiercnn.errors import CheckpointError
from hiercnn.files import atomic_file, read_arrays
from hiercnn.hierarchy import Cut, Hierarchy

TAUS = (0.5, 0.8, 0.9)
COLUMNS = ("epoch", "step", *Row._fields)


class Moment(NamedTuple):
    """What was measured after so many updates.

    Attributes:
        step: Updates done.
        rows: What was measured.
        means: {layer: class means [K, F]}.
    """

    step: int
    rows: list[Row]
    means: dict[str, np.ndarray]


def write_moment(file: Path, moment: Moment, options: Mapping[str, object] | None = None) -> None:
    """Write one moment, and the options that it was measured with, as npz."""
    arrays = {f"means/{layer}": values for layer, values in moment.means.items()}
    with atomic_file(file) as scratch, open(scratch, "wb") as out:
        np.savez_compressed(out, step=moment.step, rows=json.dumps(moment.rows), options=json.dumps(options), **arrays)


def read_moment(file: Path, options: Mapping[str, object] | None = None) -> Moment | None:
    """What `write_moment` wrote; None if there is nothing, or something half-written, or measured with other options."""
    try:
        arrays = read_arrays(file)
        if options is not None and json.loads(str(arrays["options"])) != options:
            return None
        rows = [Row(*row) for row in json.loads(str(arrays["rows"]))]
        means = {key.removeprefix("means/"): values for key, values in arrays.items() if key.startswith("means/")}
        return Moment(int(arrays["step"]), rows, means)
    except (CheckpointError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def told(moments: Sequence[Moment], tree: Hierarchy, cuts: Sequence[Cut], per_epoch: int, split: str = "test") -> Story:
    """The story of moments in order of time, with what only all of them tell: accuracy relative to the last, and its tree.

    Args:
        per_epoch: Updates of an epoch.
        split: What accuracy was measured on.
    """
    means = {layer: np.stack([moment.means[layer] for moment in moments]) for layer in moments[-1].means}
    steps = [moment.step for moment in moments]
    rows = [(moment.step, row) for moment in moments for row in moment.rows]
    rows += _against_last(steps, means, tree.classes) + _relative(rows, steps[-1])
    rows.sort(key=lambda row: row[0])  # stable: by time
    return Story([(-(-step // per_epoch), step, row) for step, row in rows], means, steps, per_epoch, tree, list(cuts), split)


def write_tables(story: Story, folder: Path) -> None:
    """Write dynamics.csv (every number), times.csv (t50, t80, t90) and means.npz (class means)."""
    _write_csv(folder / "dynamics.csv", COLUMNS, ([epoch, step, *row] for epoch, step, row in story.rows))
    _write_csv(folder / "times.csv", ("layer", "cut", "statistic", "time", "step", "epoch"), times(story))
    with atomic_file(folder / "means.npz") as scratch, open(scratch, "wb") as out:
        np.savez_compressed(out, steps=story.steps, **story.means)


def times(story: Story) -> Iterator[list[object]]:
    """When curves have come so far: t_τ of accuracy and of what of it is above chance, t90 of what layers separate.

    Yields:
        Layer, cut, statistic, name of the time, step and epoch; None for both where a curve does not come so far.
    """
    for key in dict.fromkeys(row[:3] for *_, row in story.rows):
        of_accuracy, of_layers = key[2] in ("greedy", "corrected"), key[2] in ("trace_ratio", "block_strength", "probe")
        for share in TAUS if of_accuracy else (0.9,) if of_layers else ():
            at = first_reaching(np.array(story.curve(*key)["value"]), share, from_start=of_layers)
            step = None if at is None else story.steps[at]
            yield [*key, f"t{round(100 * share)}", step, None if step is None else -(-step // story.per_epoch)]


def _against_last(steps: Sequence[int], means: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[tuple[int, Row]]:
    """r_final: correlation of each moment's dendrogram with the last one's."""
    rows = []
    for layer, path in means.items():
        heights = [cluster(vector_distances(torch.from_numpy(each), "cosine", list(classes)), "average").cophenetic() for each in path]
        for step, each in zip(steps, heights, strict=True):
            rows.append((step, Row(layer, TREE, "r_final", float(np.corrcoef(each, heights[-1])[0, 1]))))
    return rows


def _relative(rows: list[tuple[int, Row]], end: int) -> list[tuple[int, Row]]:
    """Greedy accuracy ÷ that of the last moment, and the same of each random partition's mean; NaN where that is 0."""
    greedy = [(step, row) for step, row in rows if (row.layer, row.statistic) == (LOGITS, "greedy")]
    last = {row.cut: row for step, row in greedy if step == end}
    return [
        (step, Row(LOGITS, row.cut, "relative", _ratio(row.value, last[row.cut].value), _ratio(row.random_mean, last[row.cut].random_mean)))
        for step, row in greedy
    ]


def _ratio(value: float, last: float) -> float:
    return value / last if last else float("nan")


def _write_csv(path: Path, columns: Sequence[str], rows) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if isinstance(cell, float) and np.isnan(cell) else cell for cell in row] for row in rows)
    with atomic_file(path) as scratch:
        scratch.write_text(text.getvalue(), encoding="utf-8")
