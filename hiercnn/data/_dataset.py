"""Anybody's map-style Dataset as a Source."""

import operator
from collections.abc import Sequence

import numpy as np
import torch

from hiercnn.data._image_set import ImageSet, Source
from hiercnn.data._names import Names
from hiercnn.data._registry import data_sets
from hiercnn.errors import DataError


@data_sets.register("python")
def python() -> Source:
    """The data of runs that were given datasets as objects; cannot be read back by name."""
    raise DataError("this run's data came from Python; call hiercnn.fit(..., train=your_dataset) instead")


def from_datasets(train, val=None, test=None, *, classes: Sequence[str] | None = None) -> Source:
    """Wrap map-style datasets that give (image, label) pairs.

    Images may be PIL images, uint8 arrays or tensors [channels, H, W] (which hiercnn resizes, augments and normalises) or float tensors
    (used as they are). Labels are class indices.

    Args:
        train, val, test: The datasets; val and test may be None.
        classes: Class names in the order of the labels; default: `train.classes`.

    Raises:
        DataError: No class names, labels out of range or not whole numbers (multi-label data are not supported).
    """
    names = tuple(map(str, classes if classes is not None else getattr(train, "classes", ())))
    if not names:
        raise DataError("the training dataset has no .classes; pass classes=[...] in the order of the labels")
    splits = {"train": train, "val": val, "test": test}
    sets = {split: _image_set(dataset, split, len(names)) for split, dataset in splits.items() if dataset is not None}
    kinds = {split: _kind(image_set.fetch(0), split) for split, image_set in sets.items()}
    for split, kind in kinds.items():
        if kind != kinds["train"]:
            raise DataError(f"{split} images are of another kind than train images: {kind[0]} channels, {kind[1]}; train: {kinds['train']}")
    return Source(names, **sets, channels=kinds["train"][0])


def _image_set(dataset, split: str, count: int) -> ImageSet:
    if len(dataset) == 0:
        raise DataError(f"the {split} dataset is empty")
    changed = getattr(dataset, "target_transform", None) is not None  # then .targets are not what samples bring
    targets = None if changed else getattr(dataset, "targets", None)
    listed = [dataset[i][1] for i in range(len(dataset))] if targets is None else list(targets)
    labels = checked_labels(listed, split, count)
    return ImageSet(labels, Names.of(f"{split}/{i}" for i in range(len(labels))), dataset=dataset, positions=np.arange(len(labels)))


def checked_labels(listed: Sequence, split: str, count: int) -> np.ndarray:
    """Class indices [n], int64. Raises DataError for labels that are no indices of so many classes, or several a sample."""
    for i, label in enumerate(listed):
        if np.ndim(label) != 0:
            raise DataError(f"{split} sample {i} has {np.asarray(label).size} labels; multi-label data are not supported: give one index")
    labels = np.array([_whole(label, f"{split} sample {i}") for i, label in enumerate(listed)], dtype=np.int64)
    if labels.min() < 0 or labels.max() >= count:
        wrong = int(np.flatnonzero((labels < 0) | (labels >= count))[0])
        raise DataError(f"{split} sample {wrong} has the label {labels[wrong]}, but there are {count} classes (0..{count - 1})")
    return labels


def _whole(label, what: str) -> int:
    try:
        return operator.index(label)
    except TypeError:
        raise DataError(f"{what} has the label {label!r}; labels are class indices, whole numbers from 0") from None


def _kind(image, split: str) -> tuple[int, str]:
    """Channels of an image, and whether it is normalised here (uint8, PIL) or used as it is (float); refuses other shapes and dtypes."""
    if hasattr(image, "getbands"):
        return len(image.getbands()), "uint8"
    if not isinstance(image, torch.Tensor) or image.ndim != 3 or (image.shape[0] > 4 and image.shape[-1] <= 4):
        came = list(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
        raise DataError(f"{split} images should be PIL images or [channels, H, W] arrays or tensors, got {came}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise DataError(f"{split} images should be uint8 (0..255) or float, got {image.dtype}")
    return int(image.shape[0]), "float" if image.is_floating_point() else "uint8"
