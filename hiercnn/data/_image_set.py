"""What a data set is before training: images (in memory, in files, or in anybody's Dataset) with labels and names."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from hiercnn.data._names import ENCODING, take
from hiercnn.errors import DataError, shorten

DIGEST_CHUNK = 2**16  # ids hashed at once


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one split with their labels.

    Attributes:
        labels: [n] int64. From a source: positions in `Source.names`. After `prepare`: labels of the hierarchy.
        ids: What messages and predictions call each image: its path, or `train/17`.
        images: uint8 [n, channels, H, W] in memory, or None.
        paths: Image files [n], or None.
        dataset: A map-style Dataset that gives (image, label), with `positions` [n] into it, or None.
    """

    labels: np.ndarray
    ids: Sequence[str]
    images: Tensor | None = None
    paths: Sequence[Path] | None = None
    dataset: object | None = None
    positions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        """Fingerprint of ids, labels and (where they are in memory) pixels: equal for equal splits."""
        content = hashlib.sha256()
        for start in range(0, len(self), DIGEST_CHUNK):
            text = "\n".join(self.ids[start : start + DIGEST_CHUNK])
            content.update((text if start == 0 else f"\n{text}").encode(*ENCODING))
        content.update(self.labels.tobytes())
        if self.images is not None:
            content.update(self.images.numpy())
        return content.hexdigest()[:16]

    def subset(self, indices: np.ndarray) -> "ImageSet":
        """These images only, in this order."""
        indices = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            labels=self.labels[indices],
            ids=take(self.ids, indices),
            images=None if self.images is None else self.images[torch.from_numpy(indices)],
            paths=None if self.paths is None else take(self.paths, indices),
            positions=None if self.positions is None else self.positions[indices],
        )

    def members(self, classes: int) -> list[np.ndarray]:
        """Indices of the images of each label below `classes`, in order."""
        return members(self.labels, classes)

    def fetch(self, index: int):
        """One image: a PIL image (files), a uint8 tensor [channels, H, W] (memory), or what the Dataset gives.

        Raises:
            DataError: The file is missing or no readable image; names it.
        """
        if self.images is not None:
            return self.images[index]
        if self.paths is not None:
            return open_image(self.paths[index])
        image = self.dataset[int(self.positions[index])][0]
        if hasattr(image, "getbands"):
            return image if image.mode == "L" else to_rgb(image)
        return torch.as_tensor(image) if isinstance(image, np.ndarray) else image


def members(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """Positions of each label below `classes`, in order."""
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(classes + 1))
    return [order[start:stop] for start, stop in pairwise(ends)]


def open_image(file: Path | BinaryIO, name: str | None = None, *, max_pixels: int | None = None):
    """Decode an image file, or an open one, to RGB; a file of more than `max_pixels` (default: what Pillow allows) is not decoded.

    Raises:
        DataError: Names the file, or `name`, and the reason.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with _pillow_limit(max_pixels), Image.open(file) as image:
            return to_rgb(image)
    except UnidentifiedImageError:
        raise DataError(f"unreadable image {name or file}: cannot identify image file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"unreadable image {name or file}: {error}") from None


@contextmanager
def _pillow_limit(max_pixels: int | None) -> Iterator[None]:
    """Let Pillow refuse images of more than `max_pixels`; of its own accord it warns from half as many on."""
    from PIL import Image

    if max_pixels is None:
        yield
        return
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels / 2  # twice that is an error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def to_rgb(image):
    """A PIL image of any mode in RGB; transparency is dropped."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits: Pillow would clip them to 255, not scale them
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image.convert("RGB")


@dataclass(frozen=True, eq=False)
class Source:
    """What a data set factory returns.

    Attributes:
        names: Label names in the data set's own order; positions in it are the sets' labels. Names of inner nodes of the
            hierarchy may be among them where `inner_labels` is set.
        train, val, test: The splits; val and test may be None.
        inner_labels: Whether names may be inner nodes (partly coarse labels).
        channels: Colour channels of the images.

    Raises:
        DataError: A name that stands there twice, a label that is no position in `names`, or not a label an image.
    """

    names: tuple[str, ...]
    train: ImageSet
    val: ImageSet | None = None
    test: ImageSet | None = None
    inner_labels: bool = False
    channels: int = 3

    def __post_init__(self):
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise DataError(f"class names stand there twice: {shorten(twice)}; every class has a name of its own")
        for split, images in self.present().items():
            _check_labels(images, split, len(self.names))

    def present(self) -> dict[str, ImageSet]:
        """The splits there are, by name."""
        return {name: split for name in ("train", "val", "test") if (split := getattr(self, name)) is not None}


def _check_labels(images: ImageSet, split: str, names: int) -> None:
    counts = {len(column) for column in (images.ids, images.images, images.paths, images.positions) if column is not None}
    if counts != {len(images.labels)}:
        raise DataError(f"{split} has {len(images.labels)} labels for {max(counts - {len(images.labels)})} images; give each image one")
    wrong = np.flatnonzero((images.labels < 0) | (images.labels >= names))
    if len(wrong):
        label, name = images.labels[wrong[0]], images.ids[int(wrong[0])]
        raise DataError(f"{split} image {name} has the label {label}, but there are {names} names (0..{names - 1})")


def in_memory(images: np.ndarray, labels: np.ndarray, split: str) -> ImageSet:
    """An `ImageSet` of uint8 images [n, channels, H, W] whose ids are `split/number`."""
    return ImageSet(np.asarray(labels, dtype=np.int64), [f"{split}/{i}" for i in range(len(labels))], images=torch.as_tensor(images))
