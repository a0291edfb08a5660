"""Faults put into labels, trees and images on purpose, and how many of them a ranked list finds."""

import io
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiercnn.data import ImageSet, members, wrong_labels
from hiercnn.diagnose._groups import top_groups
from hiercnn.errors import DataError, HierarchyError
from hiercnn.hierarchy import Hierarchy

KINDS = ("near", "far")
CHANGES = ("shifted", "flipped", "brighter", "jpeg")
LAYOUTS = ("beside", "blended")
BRIGHTER = 1.2  # times as bright
QUALITY = 75  # of JPEG


class Injected(NamedTuple):
    """Labels and tree with a fault, and the truth.

    Attributes:
        labels: Labels of `tree` [N], int64.
        tree: The tree that belongs to them.
        images: Positions of the images whose label changed, in order.
        classes: Names of the classes of `tree` that are at fault.
    """

    labels: np.ndarray
    tree: Hierarchy
    images: np.ndarray
    classes: tuple[str, ...] = ()


class Altered(NamedTuple):
    """Images with a fault, and the truth.

    Attributes:
        split: The images, of the same ids as before.
        images: Positions of those that are at fault, in order [M].
        sources: Position of the image that each is a copy of, or shows as well [M].
    """

    split: ImageSet
    images: np.ndarray
    sources: np.ndarray


class Found(NamedTuple):
    """How well a ranked list finds what was injected.

    Attributes:
        faults: How many there are.
        precision: Share of faults among as many findings as there are faults; equal to recall there.
        average_precision: Mean over the faults of the precision down to each; 0 for one that is not listed.
    """

    faults: int
    precision: float
    average_precision: float


def relabel(labels: np.ndarray, tree: Hierarchy, share: float, kind: str, seed: int = 0, *, among: np.ndarray | None = None) -> Injected:
    """In every class give the same share of images a wrong label.

    Args:
        labels: Labels of `tree` [N]; those that are groups stay.
        share: Of the images of each class, rounded.
        kind: `near`: another class below the same parent (or the lowest ancestor that has another); `far`: of another top-level group.
        among: Positions that may be changed; default: all.

    Raises:
        DataError: An unknown kind, or no image to change. HierarchyError: far, in a tree of one level.
    """
    if kind not in KINDS:
        raise DataError(f"kind: wanted near or far, got '{kind}'")
    candidates = [_near(tree, label) for label in range(tree.num_classes)] if kind == "near" else _far(tree)
    among = np.arange(len(labels)) if among is None else np.sort(among)
    changed = labels.copy()
    changed[among] = wrong_labels(labels[among], candidates, share, np.random.default_rng([seed, 8, KINDS.index(kind)]))
    images = np.flatnonzero(changed != labels)
    if not len(images):
        raise DataError(f"share={share} changes no label: the largest class has {max(map(len, members(labels, tree.num_classes)))} images")
    return Injected(changed, tree, images)


def split(labels: np.ndarray, tree: Hierarchy, name: str, share: float = 0.5, seed: int = 0) -> Injected:
    """Call a share of a class's images by a new name, `NAME (2)`, a class beside it: duplicate classes."""
    label, new = _class(tree, name), f"{name} (2)"
    if new in tree:
        raise HierarchyError(f"there is a class '{new}' already; split another one")
    of_class = np.flatnonzero(labels == label)
    count = round(share * len(of_class))
    if not 0 < count < len(of_class):
        raise DataError(f"share={share} of the {len(of_class)} images of '{name}' leaves one part empty")
    parents = _parents(tree) | {new: tree.names[tree.parents[tree.leaf_nodes[label]]]}
    changed = _rebuilt(tree, parents, [*tree.classes, new], {new: f"{_title(tree, name)} (2)"})
    moved = np.sort(np.random.default_rng([seed, 9]).permutation(of_class)[:count])
    labels = _renumbered(labels, tree, changed)
    labels[moved] = changed.label(new)
    return Injected(labels, changed, moved, (name, new))


def widen(labels: np.ndarray, tree: Hierarchy, broad: str, narrow: str, share: float = 0.5, seed: int = 0) -> Injected:
    """Call a share of the images of a narrow class by the name of a broad one, which the narrow one is a subset of from now on."""
    into, of_class = _class(tree, broad), np.flatnonzero(labels == _class(tree, narrow))
    count = round(share * len(of_class))
    if broad == narrow or not 0 < count < len(of_class):
        raise DataError(f"share={share} of the {len(of_class)} images of '{narrow}' as '{broad}': wanted two classes, both left with some")
    moved = np.sort(np.random.default_rng([seed, 12]).permutation(of_class)[:count])
    changed = labels.copy()
    changed[moved] = into
    return Injected(changed, tree, moved, (narrow, broad))


def merge(labels: np.ndarray, tree: Hierarchy, kept: str, gone: str) -> Injected:
    """Call the images of one class by the name of another: a homonym, if the two are far apart."""
    if _class(tree, kept) == (lost := _class(tree, gone)):
        raise HierarchyError(f"'{kept}' cannot be merged with itself")
    changed = _rebuilt(tree, {name: parent for name, parent in _parents(tree).items() if name != gone}, _without(tree.classes, gone))
    moved = np.flatnonzero(labels == lost)
    return Injected(_renumbered(labels, tree, changed, {gone: kept}), changed, moved, (kept,))


def move(labels: np.ndarray, tree: Hierarchy, name: str, seed: int = 0) -> Injected:
    """Hang a class below a parent of other classes, drawn from another top-level group; a group left without classes goes."""
    label = _class(tree, name)
    others = np.unique(tree.parents[tree.leaf_nodes[_far(tree)[label]]])
    parent = tree.names[np.random.default_rng([seed, 10, label]).choice(others)]
    changed = _rebuilt(tree, _parents(tree) | {name: parent}, tree.classes)
    return Injected(_renumbered(labels, tree, changed), changed, np.array([], dtype=np.int64), (name,))


def copies(
    split: ImageSet, other: ImageSet, share: float, change: str, seed: int = 0, *, relabelled: bool = False, among: np.ndarray | None = None
) -> Altered:
    """In the place of some images put copies of another split's images, each of another class than the image that it replaces.

    Args:
        split, other: Images in memory, of one size.
        share: Of the images of `split`, rounded.
        change: What makes a copy differ: it is `shifted` by a pixel, `flipped` left to right, `brighter` by a fifth, or went through
            `jpeg` of quality 75, which takes one or three channels.
        relabelled: Whether a copy has the label of the image that it replaces, rather than its original's.
        among: Positions in `split` that may be replaced; default: all.

    Raises:
        DataError: An unknown change, images in files, no image to replace, or one class alone.
    """
    if change not in CHANGES:
        raise DataError(f"change: wanted {', '.join(CHANGES)}, got '{change}'")
    pixels, originals, rng = _pixels(split), _pixels(other), np.random.default_rng([seed, 14, CHANGES.index(change), relabelled])
    images = _drawn(len(split), share, among, rng)
    sources = _partners(split.labels[images], other.labels, rng)
    changed, labels = pixels.clone(), split.labels.copy()
    changed[images] = _changed(originals[sources], change)
    if not relabelled:
        labels[images] = other.labels[sources]
    return Altered(replace(split, images=changed, labels=labels), images, sources)


def compose(split: ImageSet, tree: Hierarchy, share: float, layout: str, seed: int = 0, *, among: np.ndarray | None = None) -> Altered:
    """Let some images show another image of the split as well, of another top-level group, and keep their label.

    Args:
        split: Images in memory, labelled with classes.
        share: Of the images, rounded.
        layout: `beside`: the right half is the other image's; `blended`: the mean of both.
        among: Positions of the images that may be changed; default: all.

    Raises:
        DataError: An unknown layout, images in files, no image to change. HierarchyError: a tree of one level.
    """
    if layout not in LAYOUTS:
        raise DataError(f"layout: wanted {', '.join(LAYOUTS)}, got '{layout}'")
    pixels, groups, rng = _pixels(split), top_groups(tree).groups, np.random.default_rng([seed, 15, LAYOUTS.index(layout)])
    images = _drawn(len(split), share, among, rng)
    sources = _partners(groups[split.labels[images]], groups[split.labels], rng)
    changed = pixels.clone()
    changed[images] = _composed(pixels[images], pixels[sources], layout)
    return Altered(replace(split, images=changed), images, sources)


def found(ranked: Sequence[Hashable], faults: Sequence[Hashable]) -> Found:
    """How well a list, most suspicious first, finds the faults. Raises DataError if there is none, or something is listed twice."""
    truth = set(faults)
    if not truth or len(set(ranked)) < len(ranked):
        raise DataError("wanted one fault at least, and everything listed once")
    hits = np.array([each in truth for each in ranked], dtype=float)
    places = np.flatnonzero(hits)
    precisions = np.arange(1, len(places) + 1) / (places + 1)
    return Found(len(truth), float(hits[: len(truth)].sum() / len(truth)), float(precisions.sum() / len(truth)))


def near_classes(tree: Hierarchy, name: str) -> list[str]:
    """The other classes below the lowest ancestor that has some."""
    return [tree.classes[label] for label in _near(tree, _class(tree, name))]


def far_classes(tree: Hierarchy, name: str) -> list[str]:
    """The classes of other top-level groups. Raises HierarchyError in a tree of one level."""
    return [tree.classes[label] for label in _far(tree)[_class(tree, name)]]


# ---- parts ------------------------------------------------------------------------------------------------------------


def _near(tree: Hierarchy, label: int) -> np.ndarray:
    node = tree.leaf_nodes[label]
    while tree.parents[node] >= 0 and len(tree.leaves(node)) < 2:
        node = tree.parents[node]
    others = tree.leaves(node)
    return np.sort(others[others != label])


def _far(tree: Hierarchy) -> list[np.ndarray]:
    groups = top_groups(tree).groups
    return [np.flatnonzero(groups != group) for group in groups]


def _pixels(split: ImageSet) -> Tensor:
    if split.images is None:
        raise DataError("pixels can be changed in memory alone, and these images are in files; set data.storage=memory")
    return split.images


def _drawn(total: int, share: float, among: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """So large a share of the images, in order, out of `among`."""
    among, count = np.arange(total) if among is None else among, round(share * total)
    if not 0 < count <= len(among):
        raise DataError(f"share={share} of {total} images is {count}, out of {len(among)} that may be changed")
    return np.sort(rng.permutation(among)[:count])


def _partners(kinds: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each a position in `others` where there is another kind."""
    choices = {kind: np.flatnonzero(others != kind) for kind in np.unique(kinds)}
    if not all(map(len, choices.values())):
        raise DataError("all images are of one kind: none differs enough to go into another one's place")
    return np.array([rng.choice(choices[kind]) for kind in kinds])


def _changed(images: Tensor, change: str) -> Tensor:
    """Copies [M, channels, H, W], uint8."""
    if change == "shifted":
        down, right = (torch.arange(side).sub(1).clamp(min=0) for side in images.shape[-2:])  # the first row and column stand twice
        return images[..., down, :][..., right]
    if change == "flipped":
        return images.flip(-1)
    if change == "brighter":
        return (images * BRIGHTER).round().clamp(max=255).to(images.dtype)
    return torch.stack([_through_jpeg(image) for image in images])


def _through_jpeg(image: Tensor) -> Tensor:
    """[channels, H, W], uint8, of one or three channels."""
    from PIL import Image

    pixels, file = image.movedim(0, -1).squeeze(-1).numpy(), io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "jpeg", quality=QUALITY)
    return torch.from_numpy(np.array(Image.open(file))).reshape(*image.shape[1:], -1).movedim(-1, 0)


def _composed(images: Tensor, others: Tensor, layout: str) -> Tensor:
    """Pictures of two images [M, channels, H, W], uint8."""
    if layout == "blended":
        return ((images.float() + others) / 2).round().to(images.dtype)
    half = images.shape[-1] // 2
    return torch.cat([images[..., :half], others[..., half:]], -1)


def _class(tree: Hierarchy, name: str) -> int:
    label = tree.label(name)
    if label >= tree.num_classes:
        raise HierarchyError(f"'{name}' is a group, not a class")
    return label


def _title(tree: Hierarchy, name: str) -> str:
    return tree.titles[tree.node(name)]


def _without(names: Sequence[str], gone: str) -> list[str]:
    return [name for name in names if name != gone]


def _parents(tree: Hierarchy) -> dict[str, str | None]:
    return {name: None if parent < 0 else tree.names[parent] for name, parent in zip(tree.names, tree.parents.tolist(), strict=True)}


def _rebuilt(
    tree: Hierarchy, parents: Mapping[str, str | None], classes: Sequence[str], titles: Mapping[str, str] | None = None
) -> Hierarchy:
    """A tree by each name's parent, without groups that have no class left."""
    wanted, kept = set(classes), set()
    for name in wanted:
        while name is not None and name not in kept:
            kept.add(name)
            name = parents[name]
    names = [name for name in parents if name in kept]
    place = {name: number for number, name in enumerate(names)}
    known = dict(zip(tree.names, tree.titles, strict=True)) | dict(titles or {})
    above = [-1 if parents[name] is None else place[parents[name]] for name in names]
    return Hierarchy(names, above, classes, titles=[known[name] for name in names], meta=tree.meta)


def _renumbered(labels: np.ndarray, old: Hierarchy, new: Hierarchy, renamed: Mapping[str, str] | None = None) -> np.ndarray:
    """The labels of one tree, classes and groups, as labels of another, by name."""
    present = np.unique(labels)
    names = [old.names[old.label_nodes[label]] for label in present]
    places = np.zeros(old.num_nodes, dtype=np.int64)
    places[present] = [new.label((renamed or {}).get(name, name)) for name in names]
    return places[labels]
