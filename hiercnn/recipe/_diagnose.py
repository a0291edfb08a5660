"""Faults in the data of a run, from its predictions for images that it was not trained on."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hiercnn.data import Data, ImageSet, Source
from hiercnn.diagnose import Evidence, Finding, OtherSplit, detectors
from hiercnn.errors import CheckpointError, DataError, HierarchyError, RecipeError
from hiercnn.files import atomic_file
from hiercnn.models import PENULTIMATE
from hiercnn.recipe._fit import Run
from hiercnn.recipe._folds import Tell, look_at, out_of_fold
from hiercnn.recipe._run_data import data_of_run

SIDES = ("train", "val", "test")
NEIGHBOURS = "near_duplicates"  # the detector that looks at two splits
COLUMNS = ("rank", "score", "split", "index", "image", "path", "label", "predicted", "other_split", "other_image", "other_path", "group")
COLUMNS += ("sentence",)


class Diagnosis(NamedTuple):
    """What `diagnose_run` found.

    Attributes:
        findings: {detector: what it suspects, worst first}.
        rows: {detector: the same as rows of `COLUMNS`}, as they stand in its CSV.
        facts: On what: split, folds, weights, images, accuracy, notes.
        folder: Where DETECTOR.csv and facts.json lie.
    """

    findings: dict[str, list[Finding]]
    rows: dict[str, list[list[object]]]
    facts: dict[str, object]
    folder: Path


def diagnose_run(
    run: Run,
    names: Sequence[str] | None = None,
    *,
    side: str | None = None,
    folds: int | None = None,
    weights: str = "last",
    out: Path | None = None,
    device: str = "auto",
    tell: Tell = print,
) -> Diagnosis:
    """Judge images that a run was not trained on, or with `folds` all training images, each by a network that has not seen it.

    Args:
        run: A finished run.
        names: Detectors; default: all that its tree allows.
        side: `test` (default, if there is one) or `val`; `train` with folds alone.
        folds: Train the recipe so many times, each time without a part of train, in `folds/` of the run folder.
        weights: `last`, `best`, `average` or `step-…`, of the run's own network; those of folds are `last`.
        out: Folder for the results; default: `diagnose/` in the run folder.
        tell: Called with a line about each fold.

    Raises:
        CheckpointError: No finished run, no such weights, data that have changed. RecipeError: unknown detectors, a side that the network
        was trained on, data that were objects. DataError: no such split, classes too small for folds. HierarchyError: a detector that was
        asked for, and a tree without groups.
    """
    if not run.exists():
        raise CheckpointError(f"no run in {run.path}")
    if not run.finished:
        raise CheckpointError(f"{run.path} has done {len(run.metrics)} of {run.recipe.epochs} epochs; finish it: hiercnn train … --resume")
    asked = list(detectors) if names is None else list(dict.fromkeys(names))
    for name in asked:
        detectors[name]  # RecipeError if there is none
    _check_side(side, folds, weights)
    data, source = data_of_run(run, "use hiercnn.diagnose.Evidence and the detectors on what your network makes of them")
    side = "train" if folds else side or ("test" if data.test is not None else "val")
    folder = _made(out or run.path / "diagnose" / (f"train-{folds}-folds" if folds else side))  # before the work
    evidence, indices, left_out = _evidence(run, data, side, folds, weights, device, tell, neighbours=NEIGHBOURS in asked)
    findings, notes = _detected(evidence, asked, required=names is not None)
    if left_out:
        notes.append(f"{left_out} images labelled with a group are not judged")
    paths = _paths(source)
    rows = {
        name: [_row(evidence, rank, each, side, indices, paths) for rank, each in enumerate(found, 1)] for name, found in findings.items()
    }
    accuracy = float((evidence.predicted == evidence.labels).mean())
    facts = {"run": run.digest, "split": side, "folds": folds, "weights": weights, "images": len(evidence), "accuracy": accuracy}
    facts["notes"] = notes
    _write(folder, rows, facts)
    return Diagnosis(findings, rows, facts, folder)


def _check_side(side: str | None, folds: int | None, weights: str) -> None:
    if side is not None and side not in SIDES:
        raise RecipeError(f"side: wanted {', '.join(SIDES)}, got '{side}'")
    if side == "train" and not folds:
        raise RecipeError("the network has learnt the labels of train, wrong ones too; judge train out of fold: folds=5 (--folds 5)")
    if folds and side not in (None, "train"):
        raise RecipeError(f"folds are of train, and {side} was not trained on anyway; leave one of the two out")
    if folds and weights != "last":
        raise RecipeError(f"folds are judged with the weights that each network ends with, not with '{weights}'; leave one of the two out")


def _evidence(
    run: Run, data: Data, side: str, folds: int | None, weights: str, device: str, tell: Tell, *, neighbours: bool
) -> tuple[Evidence, np.ndarray, int]:
    """What is known of the images that are labelled with a class, their positions in the split, and how many others there are."""
    split: ImageSet | None = getattr(data, side)
    if split is None:
        raise DataError(f"the data of {run.path} have no {side} images")
    classed = np.flatnonzero(split.labels < data.hierarchy.num_classes)
    images = split.subset(classed)
    model = run.load_model(weights) if not folds or neighbours else None
    own = look_at(run.recipe, model, images, data.channels, device) if model is not None else None
    seen = out_of_fold(run.recipe, data, run.path / "folds" / str(folds), folds, device=device, tell=tell)[1] if folds else own
    features = others = None
    if neighbours:
        name = "train" if side != "train" else "test" if data.test is not None else "val"
        features = own.features[PENULTIMATE].numpy()
        others = _other_split(run, data, name, model, device)
    probabilities = seen.logits.softmax(1).numpy()
    evidence = Evidence(data.hierarchy, images.labels, probabilities, images.ids, features, others)
    return evidence, classed, len(split) - len(classed)


def _other_split(run: Run, data: Data, name: str, model, device: str) -> OtherSplit:
    split = getattr(data, name)
    images = split.subset(np.flatnonzero(split.labels < data.hierarchy.num_classes))
    features = look_at(run.recipe, model, images, data.channels, device).features[PENULTIMATE].numpy()
    return OtherSplit(name, features, images.labels, images.ids)


def _detected(evidence: Evidence, names: Sequence[str], *, required: bool) -> tuple[dict[str, list[Finding]], list[str]]:
    """Findings by detector, and what cannot be told; a detector that the tree has no groups for is an error if it was asked for."""
    found, notes = {}, evidence.notes()
    for name in names:
        try:
            found[name] = detectors[name](evidence)
        except HierarchyError as error:
            if required:
                raise HierarchyError(f"{name}: {error}") from None
            notes.append(f"{name} is left out: {error}")
    return found, notes


def _paths(source: Source) -> dict[str, str]:
    """File of each image by its id, where images are files."""
    splits = [split for split in source.present().values() if split.paths is not None]
    return {image: str(path) for split in splits for image, path in zip(split.ids, split.paths, strict=True)}


def _row(evidence: Evidence, rank: int, finding: Finding, side: str, indices: np.ndarray, paths: dict[str, str]) -> list[object]:
    one = [side, int(indices[finding.image]), evidence.ids[finding.image]] if finding.image is not None else ["", "", ""]
    other = [evidence.others.name, evidence.others.ids[finding.other]] if finding.other is not None else ["", ""]
    classes = [*finding.classes, "", ""][:2]
    place = [*one, paths.get(one[2], ""), *classes, *other, paths.get(other[1], "")]
    return [rank, round(finding.score, 6), *place, finding.group or "", finding.sentence]


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {folder}: {error.strerror}; choose another with --out") from None
    return folder


def _write(folder: Path, rows: dict[str, list[list[object]]], facts: dict[str, object]) -> None:
    for name, lines in rows.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
        with atomic_file(folder / f"{name}.csv") as scratch:
            scratch.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape")  # names of files are bytes
    with atomic_file(folder / "facts.json") as scratch:
        scratch.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
