"""From a source to the splits of one run: names matched to the hierarchy, val carved, images decoded."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from hiercnn.data._image_set import ImageSet, Source
from hiercnn.data._names import joined
from hiercnn.data._relabel import relabelled
from hiercnn.data._settings import DataSettings
from hiercnn.errors import DataError, did_you_mean, shorten
from hiercnn.hierarchy import Hierarchy, from_classes

AUTO_VAL = 0.1  # share of each class that val `auto` carves
MEMORY_LIMIT = 2**30  # bytes of decoded uint8 images that storage `auto` keeps


@dataclass(frozen=True, eq=False)
class Data:
    """The splits of one run; labels are those of `hierarchy`, whose classes are in the data set's order.

    Attributes:
        hierarchy: The class tree, classes numbered as the data set numbers them.
        train, val, test: The splits; test may be None.
        channels: Colour channels of the images.
        inner_labels: Whether some training label is an inner node.
        unreadable: Ids of images that were left out.
    """

    hierarchy: Hierarchy
    train: ImageSet
    val: ImageSet
    test: ImageSet | None
    channels: int
    inner_labels: bool
    unreadable: tuple[str, ...]


def prepare(source: Source, hierarchy: Hierarchy | None, settings: DataSettings, seed: int, *, prune: bool = False) -> Data:
    """Match, split, subset and (for small sets) decode a source.

    Args:
        source: What a data set factory returned.
        hierarchy: The class tree in any class order; None makes a one-level tree of the source's names.
        settings: The `data:` section of the recipe.
        seed: The run's seed, used where `settings.seed` is None.
        prune: Whether classes of the tree that the data set lacks are pruned away rather than refused.

    Raises:
        DataError: Names and tree do not match (every mismatch listed), one class, an empty class, too many unreadable images.
    """
    tree, labels = match(source, hierarchy, prune=prune)
    splits = {name: replace(split, labels=labels[split.labels]) for name, split in source.present().items()}
    seed = seed if settings.seed is None else settings.seed
    train, val = _carve(splits, settings, seed, tree)
    train = relabelled(train, tree, settings.label_noise, settings.coarse_labels, seed)
    _check_classes(train, tree, "train")
    if not len(val):
        raise DataError(f"data.val={settings.val} carves nothing: no class has two images; add images, or bring a val split")
    if "test" in splits and not (splits["test"].labels < tree.num_classes).any():
        raise DataError("no test image is labelled with a class; leave the split out, or label it finer")
    sets, unreadable = {}, []
    for name, split in {"train": train, "val": val, "test": splits.get("test")}.items():
        sets[name], bad = (split, []) if split is None else _store(split, source, settings)
        unreadable += bad
    _check_classes(sets["train"], tree, "train, after leaving out unreadable images,")
    inner = bool((train.labels >= tree.num_classes).any())
    return Data(tree, **sets, channels=source.channels, inner_labels=inner, unreadable=tuple(unreadable))


def match(source: Source, hierarchy: Hierarchy | None, *, prune: bool = False) -> tuple[Hierarchy, np.ndarray]:
    """Match names, never positions. Return the tree in the source's class order and the label of each of `source.names`."""
    if hierarchy is None:
        hierarchy = from_classes(source.names)
    known = set(hierarchy.classes)
    leaves = [name for name in source.names if name in known]
    inner = [name for name in source.names if name in hierarchy and name not in known]
    unknown = [name for name in source.names if name not in hierarchy]
    absent = [] if prune else sorted(known.difference(leaves))
    problems = [
        f"the data have classes that the hierarchy lacks: {shorten(unknown, limit=None)}{did_you_mean(unknown[0], hierarchy.names)}"
        if unknown
        else "",
        f"these are groups of the hierarchy, not classes: {shorten(inner, limit=None)}" if inner and not source.inner_labels else "",
        f"the hierarchy has classes without data: {shorten(absent, limit=None)} (hierarchy.prune=true leaves them out)" if absent else "",
    ]
    if any(problems):
        raise DataError("data and hierarchy do not match: " + "; ".join(filter(None, problems)))
    if len(leaves) < 2:
        raise DataError(f"classification needs at least two classes; the data have {shorten(leaves) or 'none'}")
    tree = hierarchy.prune(leaves) if prune else hierarchy.with_classes(leaves)
    gone = [name for name in inner if name not in tree]
    if gone:
        raise DataError(f"no class with data is left below {shorten(gone)}; images are labelled so")
    return tree, np.array([tree.label(name) for name in source.names], dtype=np.int64)


def _carve(splits: dict[str, ImageSet], settings: DataSettings, seed: int, tree: Hierarchy) -> tuple[ImageSet, ImageSet]:
    """Return train and val. A carved val takes from each class first, `per_class` from what is left."""
    given, val = splits.get("val"), settings.val
    if val == "auto":
        val = "given" if given is not None and not _absent_classes(given, tree) else AUTO_VAL
    if val == "given":
        if given is None:
            raise DataError("data.val is 'given', but the data set brings no val split; give a share such as 0.1")
        _check_classes(given, tree, "the data set's own val (carve one with data.val=0.1)")
        pool = splits["train"]
    else:
        pool = splits["train"] if given is None else _joined(splits["train"], given)
    rng = np.random.default_rng([seed, 1])
    kept, carved = [np.flatnonzero(pool.labels >= tree.num_classes)], []
    for label, of_class in enumerate(pool.members(tree.num_classes)):
        members = rng.permutation(of_class)
        count = 0 if val == "given" else _val_count(val, len(members), tree.classes[label])
        carved.append(members[:count])
        kept.append(members[count : count + _train_count(len(members) - count, label, settings, tree.num_classes)])
    train = pool.subset(np.sort(np.concatenate(kept)))
    return train, given if val == "given" else pool.subset(np.sort(np.concatenate(carved)))


def _val_count(val: float | int, members: int, name: str) -> int:
    if isinstance(val, int):
        if members <= val:
            raise DataError(f"data.val={val} images a class leaves '{name}' nothing to train on: it has {members}; use less or a share")
        return val
    return 0 if members < 2 else min(max(1, round(val * members)), members - 1)


def _train_count(left: int, label: int, settings: DataSettings, classes: int) -> int:
    count = left if settings.per_class is None else min(left, settings.per_class)
    share = 1.0 if settings.imbalance is None else settings.imbalance ** (-label / (classes - 1))
    return max(1, round(share * count)) if left else 0


def _joined(a: ImageSet, b: ImageSet) -> ImageSet:
    labels, ids = np.concatenate([a.labels, b.labels]), joined(a.ids, b.ids)
    if a.images is not None and b.images is not None:
        return ImageSet(labels, ids, images=torch.cat([a.images, b.images]))
    if a.paths is not None and b.paths is not None:
        return ImageSet(labels, ids, paths=joined(a.paths, b.paths))
    both = torch.utils.data.ConcatDataset([a.dataset, b.dataset])
    return ImageSet(labels, ids, dataset=both, positions=np.concatenate([a.positions, b.positions + len(a.dataset)]))


def _absent_classes(split: ImageSet, tree: Hierarchy) -> list[str]:
    counts = np.bincount(split.labels[split.labels < tree.num_classes], minlength=tree.num_classes)
    return [tree.classes[label] for label in np.flatnonzero(counts == 0)]


def _check_classes(split: ImageSet, tree: Hierarchy, what: str) -> None:
    empty = _absent_classes(split, tree)
    if empty:
        raise DataError(f"{what} has no image of {shorten(empty)}; add some, or leave the classes out of data and hierarchy")


def _store(split: ImageSet, source: Source, settings: DataSettings) -> tuple[ImageSet, list[str]]:
    """Decode into memory where settings and size say so; return the set and the ids of unreadable images."""
    if split.images is not None:
        return replace(split, images=_resized(split.images, settings.image_size, settings.interpolation)), []
    if split.dataset is not None or settings.storage == "files":
        return split, []
    size = settings.image_size
    if size is None:
        raise DataError("data.image_size is needed for images in files: the side in pixels, such as 64 or 224")
    if settings.storage == "auto" and (settings.augment.needs_single_images or len(split) * source.channels * size * size > MEMORY_LIMIT):
        return split, []
    return _decode(split, fitted(size, settings.interpolation), settings.max_unreadable)


def fitted(size: int, interpolation: str | None):
    """The transform that resizes an image's short side to `size` and crops its centre."""
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize(size, interpolation=resampling(interpolation), antialias=True), v2.CenterCrop(size)])


def resampling(interpolation: str | None):
    """torchvision's mode of that name, bilinear by default."""
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(interpolation or "bilinear")


def _resized(images: torch.Tensor, size: int | None, interpolation: str | None) -> torch.Tensor:
    if size is None or images.shape[-1] == images.shape[-2] == size:
        return images
    if interpolation == "lanczos":
        raise DataError("data.interpolation: lanczos is for images in files; take bicubic for images that come in memory")
    from torchvision.transforms import v2

    return v2.functional.resize(images, [size, size], interpolation=resampling(interpolation), antialias=True)


def _decode(split: ImageSet, fit, max_unreadable: float) -> tuple[ImageSet, list[str]]:
    from torchvision.transforms import v2

    fit = v2.Compose([fit, v2.PILToTensor()])
    images, readable, bad = [], [], []
    for i in range(len(split)):
        try:
            images.append(fit(split.fetch(i)))
            readable.append(i)
        except DataError as error:
            bad.append((split.ids[i], str(error)))
    check_unreadable(bad, len(split), max_unreadable if images else 0)
    kept = replace(split.subset(np.array(readable, dtype=np.int64)), paths=None)
    return replace(kept, images=torch.stack(images)), [name for name, _ in bad]


def check_unreadable(bad: list[tuple[str, str]], total: int, allowed: float) -> None:
    """Raise DataError when more than the allowed share of images could not be read; names the first ones."""
    if len(bad) > allowed * total:
        listed = "\n".join(f"  {reason}" for _, reason in bad[:5])
        raise DataError(
            f"{len(bad)} of {total} images cannot be read, more than data.max_unreadable={allowed:g} allows; mend or remove them:\n{listed}"
        )
