"""The predictions that a run has kept, evaluation by evaluation, as the views of the report need them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hiercnn.clustering import logit_similarity
from hiercnn.errors import CheckpointError
from hiercnn.files import read_arrays
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.ops import path_table
from hiercnn.recipe import Run

GUESSES = 5  # classes kept of each image
FAR = 255  # place of a label that is not among them
CORRELATED = 10_000  # images, evenly spaced, over which logits of classes are correlated
ROWS = 4096  # images whose scores are looked at together
UNREADABLE = (CheckpointError, ValueError, LookupError, TypeError)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network made of the images of one split at one time; images without a class are left out.

    Attributes:
        split, epoch: `val` or `test`, and after how many epochs.
        labels, predicted: Classes [n], int64.
        place: Place of the label among the first guesses [n], 0 for a right answer, 255 if it is none of them.
        confidence: Probability of the predicted class [n].
        ids: What the data set calls each image, where that is known.
        paths: Probability of each node on the path to the label, and to the prediction, [n, depth] each, NaN behind its end; of the
            last evaluation alone.
        similarity: Correlation of the logits of every two classes [C, C]; of the last evaluation alone.
    """

    split: str
    epoch: int
    labels: np.ndarray
    predicted: np.ndarray
    place: np.ndarray
    confidence: np.ndarray
    ids: list[str] | None = None
    paths: tuple[np.ndarray, np.ndarray] | None = None
    similarity: np.ndarray | None = None


class Kept(NamedTuple):
    """Evaluations in order of time, val before test, and a sentence for each file that could not be read."""

    evaluations: list[Evaluation]
    problems: list[str]


def kept_evaluations(run: Run, tree: Hierarchy, fold: Cut | None = None) -> Kept:
    """Read every evaluation that a run has kept.

    Args:
        tree: What is shown: the run's tree, or that above `fold`.
        fold: Classes are counted as groups of this cut.
    """
    last = max((event["epoch"] for event in run.metrics), default=0)
    files = [(int(file.stem.rpartition("-")[2]), file) for file in sorted(run.predictions.glob("val-epoch-*.npz"))]
    files += [(last, run.predictions / f"{split}.npz") for split in ("val", "test")]
    found, problems = [], []
    for epoch, file in files:
        if file.exists():
            try:
                found.append(_read(file, epoch, run.hierarchy, tree, fold))
            except UNREADABLE as error:
                problems.append(f"{file.name} cannot be read ({type(error).__name__}); it is left out")
    return Kept(_named(found), problems)


def _read(file: Path, epoch: int, classes: Hierarchy, tree: Hierarchy, fold: Cut | None) -> Evaluation:
    columns = {name: values for name, values in read_arrays(file).items() if not name.startswith("sums/")}
    if len({len(values) for values in columns.values()}) > 1:
        raise ValueError("columns of different lengths")
    order = np.argsort(columns["indices"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    known = columns["labels"] < classes.num_classes
    columns = {name: values[known] for name, values in columns.items()}
    groups = np.arange(classes.num_classes) if fold is None else np.asarray(fold.groups)
    split, labels = file.stem.partition("-")[0], columns["labels"]
    if not len(labels) or labels.min() < 0:
        raise ValueError("no image with a class, or labels that are none")
    more = {}
    if "logits" in columns:
        if columns["logits"].shape[1:] != (classes.num_classes,) or not np.isfinite(columns["logits"]).all():
            raise ValueError("logits that are not finite, or of other classes")
        guesses, confidence, more = _whole(columns["logits"], labels, groups, tree)
        more["ids"] = columns["ids"].tolist()
    else:
        guesses, confidence = columns["top_classes"].astype(np.int64), columns["top_probabilities"][:, 0].astype(np.float32)
    if guesses.size and not 0 <= guesses.min() <= guesses.max() < classes.num_classes:
        raise ValueError("classes that the tree does not have")
    hits = groups[guesses] == groups[labels][:, None]
    place = np.where(hits.any(1), hits.argmax(1), FAR).astype(np.uint8)
    return Evaluation(split, epoch, groups[labels], groups[guesses[:, 0]], place, confidence, **more)


def _whole(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, tree: Hierarchy) -> tuple[np.ndarray, np.ndarray, dict]:
    """First guesses [n, k], probability of the first [n], paths and similarity, from all logits [n, C]."""
    nodes = path_table(tree.parents, tree.depths, tree.leaf_nodes).numpy()[:, 1:]  # [K, depth]; the root is always right
    parts = []
    for start in range(0, len(logits), ROWS):
        scores = torch.from_numpy(logits[start : start + ROWS]).float()
        guesses = scores.sort(dim=1, descending=True, stable=True).indices[:, :GUESSES].numpy()
        leaves = torch.zeros(len(scores), tree.num_classes).index_add_(1, torch.tensor(groups), scores.softmax(1))
        below = torch.cat([torch.zeros(len(scores), 1), leaves[:, torch.tensor(tree.leaf_order)].cumsum(1)], 1).numpy()  # [B, K + 1]
        actual, first = groups[labels[start : start + ROWS]], groups[guesses[:, 0]]
        confidence = leaves.numpy()[np.arange(len(first)), first]
        parts.append((guesses, confidence, _along(below, nodes[actual], tree), _along(below, nodes[first], tree)))
    guesses, confidence, actual, first = (np.concatenate(each) for each in zip(*parts, strict=True))
    similarity = None
    if tree.num_classes == logits.shape[1] and len(logits) > 1:
        similarity = logit_similarity(logits[:: -(-len(logits) // CORRELATED)])
    return guesses, confidence, {"paths": (actual, first), "similarity": similarity}


def _along(below: np.ndarray, nodes: np.ndarray, tree: Hierarchy) -> np.ndarray:
    """Probabilities of nodes [B, depth], NaN for −1, from cumulative sums over the leaf ranks [B, C + 1]."""
    rows = np.arange(len(nodes))[:, None]
    values = below[rows, tree.stops[nodes]] - below[rows, tree.starts[nodes]]
    return np.where(nodes < 0, np.nan, values.clip(0, 1)).astype(np.float32)


def _named(found: list[Evaluation]) -> list[Evaluation]:
    """Evaluations of the same images get the names that the last one of them brings."""
    names = {one.split: one for one in found if one.ids is not None}

    def named(one: Evaluation) -> Evaluation:
        last = names.get(one.split)
        same = last is not None and np.array_equal(last.labels, one.labels)
        return replace(one, ids=last.ids) if same and one.ids is None else one

    return [named(one) for one in found]
