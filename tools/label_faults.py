"""How well do the detectors find faults? Injects some, predicts out of fold (folds that are there are reused), and counts what is found.

    python tools/label_faults.py cifar100/flat data.image_size=16 data.augment.crop=2 epochs=15 --seeds 2 --out runs/faults --csv faults.csv

Three experiments a seed: `labels` relabels 2 % of the images of each class nearby and 2 % far off, judged by the mislabel detector and by
the scores of cleanlab, on the same probabilities; `classes` splits some classes in two, widens some by half of a sibling's images and
merges some with one far away; `moves` hangs classes elsewhere in the tree, on the predictions of `labels`. With `--runs` the test images
of finished runs, whose networks have learnt right labels, are judged after their labels were made wrong, and with classes hung elsewhere;
`copies` replaces some by changed copies of training images, `objects` lets some show an image of another top-level group as well.
A row tells the faults, the precision among as many findings as there are faults (equal to recall there), and the average precision.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from hiercnn.data import Data, ImageSet
from hiercnn.diagnose import Evidence, Finding, OtherSplit, detectors, inject
from hiercnn.dynamics import Look
from hiercnn.errors import DataError, HierCNNError
from hiercnn.hierarchy import Hierarchy
from hiercnn.models import PENULTIMATE
from hiercnn.recipe import Recipe, Run, build_data, build_hierarchy, build_source, load_recipe, look_at, out_of_fold
from hiercnn.train import device_name, git_commit, pick_device

SHARE = 0.02  # of each class, near and far; of the images, for each layout of two objects
COPIED = 0.005  # of the images, for each change, with the label of the original and with another
CLEANLAB = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
OURS = {
    "mislabel": {},
    "mislabel, nearness 0": {"nearness": 0.0},
    "mislabel, nearness 1": {"nearness": 1.0},
    "mislabel, margin": {"score": "margin"},
}
NEIGHBOURS = {"near_duplicates": {}, "near_duplicates, quantile 0.9": {"quantile": 0.9}}
COLUMNS = (
    "setting",
    "experiment",
    "seed",
    "detector",
    "fault",
    "faults",
    "precision",
    "average precision",
    "images",
    "accuracy",
    "machine",
    "commit",
)


See = Callable[[ImageSet], Look]  # what a network makes of images


class Row(NamedTuple):
    """What one detector finds of one kind of fault."""

    detector: str
    fault: str
    found: inject.Found


def wrong_labels(labels: np.ndarray, tree: Hierarchy, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels of which some are wrong, and the positions of those that are near and far."""
    near = inject.relabel(labels, tree, SHARE, "near", seed)
    untouched = np.setdiff1d(np.arange(len(labels)), near.images)
    far = inject.relabel(near.labels, tree, SHARE, "far", seed, among=untouched)
    return far.labels, {"near": near.images, "far": far.images}


def with_faulty_classes(data: Data, seed: int, count: int) -> tuple[Data, dict[str, list[tuple[str, ...]]]]:
    """Data of which some classes are split, some widened and some merged, every class in one fault at most; and which these are."""
    labels, tree = data.train.labels, data.hierarchy
    free = [tree.classes[label] for label in np.random.default_rng([seed, 11]).permutation(tree.num_classes)]
    faults: dict[str, list[tuple[str, ...]]] = {"split": [], "widened": [], "merged": []}
    makers = {"split": None, "widened": (inject.near_classes, inject.widen), "merged": (inject.far_classes, inject.merge)}
    for kind, maker in makers.items():
        while len(faults[kind]) < count:
            name = free.pop(0)
            if maker is None:
                changed = inject.split(labels, tree, name, seed=seed)
            else:
                partners, make = maker
                partner = next((other for other in free if other in partners(tree, name)), None)
                if partner is None:
                    continue  # all its siblings have a fault already
                free.remove(partner)
                changed = make(labels, tree, name, partner)
            labels, tree = changed.labels, changed.tree
            faults[kind].append(changed.classes)
    return replace(data, hierarchy=tree, train=replace(data.train, labels=labels)), faults


def moved(labels: np.ndarray, tree: Hierarchy, seed: int, count: int) -> tuple[Hierarchy, list[str]]:
    """A tree in which some classes hang elsewhere, and which these are."""
    names = [tree.classes[label] for label in np.random.default_rng([seed, 13]).permutation(tree.num_classes)[:count]]
    for name in names:
        tree = inject.move(labels, tree, name, seed).tree
    return tree, names


def with_copies(split: ImageSet, other: ImageSet, seed: int) -> tuple[ImageSet, dict[str, list[tuple[int, int]]]]:
    """Images of which some are copies of another split's, and (copy, original) by change, and by whose label the copies have."""
    faults: dict[str, list[tuple[int, int]]] = {}
    free = np.arange(len(split))
    for relabelled, label in ((False, "label of the original"), (True, "another label")):
        for change in inject.CHANGES:
            made = inject.copies(split, other, COPIED, change, seed, relabelled=relabelled, among=free)
            split, free = made.split, np.setdiff1d(free, made.images)
            pairs = list(zip(made.images.tolist(), made.sources.tolist(), strict=True))
            faults[change] = [*faults.get(change, []), *pairs]
            faults[label] = [*faults.get(label, []), *pairs]
    return split, faults


def with_objects(split: ImageSet, tree: Hierarchy, seed: int) -> tuple[ImageSet, dict[str, list[int]]]:
    """Images of which some show two objects, and which by layout."""
    faults: dict[str, list[int]] = {}
    free = np.arange(len(split))
    for layout in inject.LAYOUTS:
        made = inject.compose(split, tree, SHARE, layout, seed, among=free)
        split, free = made.split, np.setdiff1d(free, made.images)
        faults[layout] = made.images.tolist()
    return split, faults


def judged(recipe: Recipe, data: Data, folder: Path, folds: int) -> Evidence:
    positions, seen = out_of_fold(recipe, data, folder, folds, tell=partial(print, flush=True))
    return Evidence(data.hierarchy, data.train.labels[positions], seen.logits.softmax(1).numpy())


def of_labels(evidence: Evidence, faults: dict[str, np.ndarray]) -> Iterator[Row]:
    """Each way to rank images, for all wrong labels, and for one kind with the other kind's images left out."""
    for name, ranking in rankings(evidence):
        yield from of_kinds(name, "near and far", ranking, {kind: images.tolist() for kind, images in faults.items()})


def of_kinds(detector: str, whole: str, ranking: Sequence[Hashable], faults: dict[str, list]) -> Iterator[Row]:
    """A row for all faults, and one for each kind with the other faults left out."""
    every = set().union(*faults.values())
    yield Row(detector, whole, inject.found(ranking, list(every)))
    for kind, some in faults.items():
        others = every.difference(some)
        yield Row(detector, kind, inject.found([each for each in ranking if each not in others], some))


def rankings(evidence: Evidence) -> Iterator[tuple[str, list[int]]]:
    """Images, most suspicious first, by our scores and by cleanlab's."""
    from cleanlab.rank import get_label_quality_scores

    for name, options in OURS.items():
        yield name, [finding.image for finding in detectors["mislabel"](evidence, **options)]
    for method in CLEANLAB:
        for adjusted in (False, True) if method != "confidence_weighted_entropy" else (False,):
            quality = get_label_quality_scores(evidence.labels, evidence.probabilities, method=method, adjust_pred_probs=adjusted)
            name = f"cleanlab {method}{', adjusted' if adjusted else ''}"
            yield name, np.argsort(quality, kind="stable").tolist()


def of_classes(evidence: Evidence, faults: dict[str, list[tuple[str, ...]]]) -> Iterator[Row]:
    pairs = {"duplicate_classes": ("split", frozenset), "subset_class": ("widened", tuple), "homonym_class": ("merged", tuple)}
    for detector, (kind, key) in pairs.items():
        yield counted(detector, kind, detectors[detector](evidence), [key(names) for names in faults[kind]], key)


def of_moves(evidence: Evidence, seed: int, count: int) -> Row:
    tree, names = moved(evidence.labels, evidence.tree, seed, count)
    findings = detectors["misplaced_class"](replace(evidence, tree=tree))
    return counted("misplaced_class", "moved", findings, [(name,) for name in names], tuple)


def of_copies(see: See, split: ImageSet, other: ImageSet, tree: Hierarchy, seed: int) -> tuple[Evidence, list[Row]]:
    """Copies with their originals among the pairs that the detector suspects; copies that the data bring along count as false alarms."""
    changed, faults = with_copies(split, other, seed)
    seen, of_other = see(changed), see(other)
    others = OtherSplit("train", of_other.features[PENULTIMATE].numpy(), other.labels, other.ids)
    features = seen.features[PENULTIMATE].numpy()
    evidence = Evidence(tree, changed.labels, seen.logits.softmax(1).numpy(), changed.ids, features, others)
    rows: list[Row] = []
    for name, options in NEIGHBOURS.items():
        ranking = [(finding.image, finding.other) for finding in detectors["near_duplicates"](evidence, **options)]
        rows += of_kinds(name, "copied", ranking, faults)
    return evidence, rows


def of_objects(see: See, split: ImageSet, tree: Hierarchy, seed: int) -> tuple[Evidence, list[Row]]:
    changed, faults = with_objects(split, tree, seed)
    evidence = Evidence(tree, changed.labels, see(changed).logits.softmax(1).numpy())
    ranking = [finding.image for finding in detectors["multi_object"](evidence)]
    return evidence, list(of_kinds("multi_object", "two objects", ranking, faults))


def counted(
    detector: str, kind: str, findings: Sequence[Finding], faults: Sequence[Hashable], key: Callable[[tuple[str, ...]], Hashable]
) -> Row:
    return Row(detector, kind, inject.found([key(finding.classes) for finding in findings], faults))


def of_recipe(arguments: argparse.Namespace) -> Iterator[list[object]]:
    """Rows of a recipe's training images, judged out of fold."""
    for seed in arguments.seeds:
        recipe = load_recipe(arguments.recipe, [*arguments.overrides, f"seed={seed}"])
        data = build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))
        setting, folder = f"{each(data.train.labels, data.hierarchy)} a class, out of fold", arguments.out / f"seed{seed}"
        for experiment in arguments.experiments:
            if experiment == "classes":
                changed, faults = with_faulty_classes(data, seed, arguments.count)
                evidence = judged(recipe, changed, folder / "classes", arguments.folds)
                rows = list(of_classes(evidence, faults))
            else:
                labels, wrong = wrong_labels(data.train.labels, data.hierarchy, seed)
                changed = replace(data, train=replace(data.train, labels=labels))
                evidence = judged(recipe, changed, folder / "labels", arguments.folds)
                rows = [of_moves(evidence, seed, arguments.count)] if experiment == "moves" else list(of_labels(evidence, wrong))
            yield from lines(setting, experiment, seed, evidence, rows)


def of_run(path: Path, count: int) -> Iterator[list[object]]:
    """Rows of a run's test images: its network learnt right labels, and these are made wrong, or copies, or pictures of two things."""
    run = Run(path)
    data, tree, seed = build_data(run.recipe, build_source(run.recipe), run.hierarchy), run.hierarchy, run.recipe.seed
    if data.test is None:
        raise DataError(f"the data of {path} have no test images")
    train, test = (split.subset(np.flatnonzero(split.labels < tree.num_classes)) for split in (data.train, data.test))
    see, setting = partial(look_at, run.recipe, run.model, channels=data.channels), f"{each(data.train.labels, tree)} a class, held out"
    labels, wrong = wrong_labels(test.labels, tree, seed)
    evidence = Evidence(tree, labels, see(test).logits.softmax(1).numpy())
    yield from lines(setting, "labels", seed, evidence, of_labels(evidence, wrong))
    yield from lines(setting, "moves", seed, evidence, [of_moves(evidence, seed, count)])
    yield from lines(setting, "copies", seed, *of_copies(see, test, train, tree, seed))
    yield from lines(setting, "objects", seed, *of_objects(see, test, tree, seed))


def lines(setting: str, experiment: str, seed: int, evidence: Evidence, rows: Iterable[Row]) -> Iterator[list[object]]:
    accuracy = round(float((evidence.predicted == evidence.labels).mean()), 4)
    place = [device_name(pick_device("auto")), git_commit()]
    for row in rows:
        numbers = [row.found.faults, round(row.found.precision, 4), round(row.found.average_precision, 4)]
        yield [setting, experiment, seed, row.detector, row.fault, *numbers, len(evidence), accuracy, *place]


def each(labels: np.ndarray, tree: Hierarchy) -> int:
    """Images of a class, on the mean."""
    return round(len(labels) / tree.num_classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="recipe file or shipped name; key=value overrides follow")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of the folds; none: finished runs alone")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--count", type=int, default=6, help="classes of each fault")
    parser.add_argument("--experiments", nargs="+", choices=("labels", "classes", "moves"), default=["labels", "classes", "moves"])
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder of the folds")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="finished runs whose test images are judged as well")
    parser.add_argument("--csv", type=Path, help="file to append rows to")
    arguments = parser.parse_args()
    if arguments.csv is not None and not arguments.csv.parent.is_dir():
        parser.error(f"--csv: there is no folder {arguments.csv.parent}")  # before an hour of training
    try:
        rows = [*of_recipe(arguments), *(row for run in arguments.runs for row in of_run(run, arguments.count))]
    except HierCNNError as error:
        print(f"label_faults: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    shown = Table(*COLUMNS[:10])
    for row in rows:
        shown.add_row(*map(str, row[:10]))
    Console(width=None if sys.stdout.isatty() else 180).print(shown)
    if arguments.csv is not None:
        new = not arguments.csv.exists()
        with open(arguments.csv, "a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS] * new + rows)


if __name__ == "__main__":
    main()
