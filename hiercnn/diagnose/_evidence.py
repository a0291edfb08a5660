"""What detectors look at, and what they find."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from hiercnn.diagnose._groups import class_titles, parent_groups
from hiercnn.errors import DataError, ShapeError, shorten
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.ops import class_sums


class Finding(NamedTuple):
    """One suspicion.

    Attributes:
        score: The higher, the more suspicious; comparable inside one list only.
        sentence: Why, in one sentence.
        image: Position of the image in the evidence, or None where classes are suspected.
        other: Position of another image that belongs to it, among those of the other split.
        classes: Names of the classes: label and prediction of an image, or the classes that are suspected.
        group: Name of the group that a class seems to belong to.
    """

    score: float
    sentence: str
    image: int | None = None
    other: int | None = None
    classes: tuple[str, ...] = ()
    group: str | None = None


@dataclass(frozen=True, eq=False)
class OtherSplit:
    """Images of another split, for near duplicates.

    Attributes:
        name: Of the split.
        features: [M, F], by the same network.
        labels: Classes [M].
        ids: What messages call each image [M].
    """

    name: str
    features: np.ndarray
    labels: np.ndarray
    ids: Sequence[str]

    def __post_init__(self):
        _check_features(self.features, len(self.labels), f"features of {self.name}")
        _check_count(self.ids, len(self.labels), f"ids of {self.name}")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a network that has not seen these images in training makes of them.

    Args:
        tree: Its classes are the columns.
        labels: Classes [N], whole numbers.
        probabilities: Of the classes [N, C], rows summing to 1; those of a network that was trained on these labels hide their faults.
        ids: What messages call each image [N]; default: its number.
        features: What the classifier reads [N, F], for the detectors that look at it.
        others: Images of another split, for near duplicates.

    Raises:
        ShapeError: Sizes or types that do not fit. DataError: labels that are no class, rows that are no probabilities, no images.
    """

    tree: Hierarchy
    labels: np.ndarray
    probabilities: np.ndarray
    ids: Sequence[str] | None = None
    features: np.ndarray | None = None
    others: OtherSplit | None = None

    def __post_init__(self):
        rows, classes = len(self.labels), self.tree.num_classes
        if self.labels.ndim != 1 or not np.issubdtype(self.labels.dtype, np.integer):
            raise ShapeError(f"labels: wanted whole numbers [N], got {list(self.labels.shape)}, {self.labels.dtype}")
        if self.probabilities.shape != (rows, classes):
            raise ShapeError(
                f"probabilities: wanted [{rows}, {classes}], a row for each label and a column for each class,"
                f" got {list(self.probabilities.shape)}"
            )
        if not rows:
            raise DataError("there is no image to judge")
        wrong = np.unique(self.labels[(self.labels < 0) | (self.labels >= classes)])
        if len(wrong):
            raise DataError(f"labels: wanted classes 0 to {classes - 1}, got {shorten(wrong)}; leave images without a class out")
        self._check_probabilities()
        if self.ids is None:
            object.__setattr__(self, "ids", range(rows))
        _check_count(self.ids, rows, "ids")
        if self.features is not None:
            _check_features(self.features, rows, "features")
        if self.others is not None and (self.features is None or self.features.shape[1] != self.others.features.shape[1]):
            raise ShapeError("others: their features and those of the evidence should come from one layer of one network")

    def _check_probabilities(self) -> None:
        bad = np.flatnonzero(~np.isfinite(self.probabilities).all(1))
        if len(bad):
            raise DataError(f"probabilities: not finite in {len(bad)} of {len(self.labels)} rows, the first of them row {bad[0]}")
        off = np.flatnonzero((self.probabilities < 0).any(1) | (np.abs(self.probabilities.sum(1, dtype=np.float64) - 1) > 1e-2))
        if len(off):
            raise DataError(f"probabilities: row {off[0]} has negative numbers or a sum other than 1; give logits a softmax first")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image [N]."""
        return self.probabilities.argmax(1)

    @cached_property
    def counts(self) -> np.ndarray:
        """Images of each class [C]."""
        return np.bincount(self.labels, minlength=self.tree.num_classes)

    @cached_property
    def of_label(self) -> np.ndarray:
        """Probability of each image's label [N]."""
        return self.probabilities[np.arange(len(self)), self.labels]

    @cached_property
    def of_best(self) -> np.ndarray:
        """Probability of the most probable class [N]."""
        return self.probabilities.max(1)

    @cached_property
    def mass(self) -> np.ndarray:
        """Sum of the probabilities of the images of each class [C, C], float64: a soft confusion matrix."""
        probabilities, labels = (torch.from_numpy(np.ascontiguousarray(array)) for array in (self.probabilities, self.labels))
        return class_sums(probabilities, labels.long(), self.tree.num_classes).numpy()

    @cached_property
    def titles(self) -> list[str]:
        """Readable names of the classes [C]."""
        return class_titles(self.tree)

    @cached_property
    def parents(self) -> Cut:
        """The classes by their parent."""
        return parent_groups(self.tree)

    def notes(self) -> list[str]:
        """What the detectors cannot tell anything of, one sentence each."""
        missing = np.flatnonzero(self.counts == 0)
        never = np.setdiff1d(np.flatnonzero(self.counts), self.predicted)
        return self._note(missing, "no image of {} is judged", "no images of these classes are judged: {}") + self._note(
            never,
            "{} is never predicted, so images that look like it are not found",
            "these classes are never predicted, so images that look like them are not found: {}",
        )

    def _note(self, labels: np.ndarray, one: str, several: str) -> list[str]:
        """What is to be said of one class or of several, if there is any."""
        names = shorten(self.tree.classes[label] for label in labels)
        return [(one if len(labels) == 1 else several).format(names)] if len(labels) else []


def _check_features(features: np.ndarray, rows: int, what: str) -> None:
    if features.ndim != 2 or len(features) != rows:
        raise ShapeError(f"{what}: wanted [{rows}, F], got {list(features.shape)}")
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise DataError(f"{what}: not finite in {len(bad)} of {rows} rows, the first of them row {bad[0]}")


def _check_count(ids: Sequence[str], rows: int, what: str) -> None:
    if len(ids) != rows:
        raise ShapeError(f"{what}: wanted {rows}, one for each label, got {len(ids)}")


def ranked(findings: list[Finding]) -> list[Finding]:
    """Worst first; equal scores keep their order."""
    return sorted(findings, key=lambda finding: -finding.score)


def needed_features(evidence: Evidence, detector: str) -> np.ndarray:
    """The features of the evidence. Raises DataError if it has none."""
    if evidence.features is None:
        raise DataError(f"{detector} looks at features, and the evidence has none")
    return evidence.features
