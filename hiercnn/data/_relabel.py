"""Training labels made worse on purpose: wrong ones, and ones that name a group instead of a class. Val and test stay as they are."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hiercnn.data._image_set import ImageSet, members
from hiercnn.data._settings import CoarseLabels, LabelNoise
from hiercnn.errors import DataError, HierarchyError
from hiercnn.hierarchy import Cut, Hierarchy, chosen_cuts


def relabelled(train: ImageSet, tree: Hierarchy, noise: LabelNoise | None, coarse: CoarseLabels | None, seed: int) -> ImageSet:
    """The training set with wrong labels, then coarse labels, as the settings ask; the same images whatever they ask.

    Images that are labelled with a group already keep their labels.

    Args:
        train: Labels of `tree`.
        noise, coarse: The sections `data.label_noise` and `data.coarse_labels`; None changes nothing.
        seed: Which images are chosen, and which wrong labels they get.

    Raises:
        DataError: A cut that does not exist or has no groups above the leaves; a class without another class to be mistaken for; no label
            that would become coarse.
    """
    if noise is not None:
        train = replace(train, labels=_noisy(train, tree, noise, np.random.default_rng([seed, 3])))
    if coarse is not None:
        train = _coarsened(train, tree, coarse, np.random.default_rng([seed, 4]))
    return train


def _noisy(train: ImageSet, tree: Hierarchy, noise: LabelNoise, rng: np.random.Generator) -> np.ndarray:
    """In every class the same share of images gets a wrong label, drawn evenly from the classes that `kind` allows."""
    cut = _cut(tree, noise, "label_noise")
    groups = np.zeros(tree.num_classes) if cut is None else cut.groups
    candidates = []
    for label in range(tree.num_classes):
        same = groups == groups[label]
        others = np.flatnonzero(same if noise.kind != "far" else ~same)
        candidates.append(others[others != label])
        if not len(candidates[-1]):
            cure = "choose another cut, or kind: uniform" if noise.kind == "near" else "there is no other class"
            raise DataError(f"data.label_noise: class '{tree.classes[label]}' is alone in its group of the cut; {cure}")
    return wrong_labels(train.labels, candidates, noise.share, rng)


def wrong_labels(labels: np.ndarray, candidates: Sequence[np.ndarray], share: float, rng: np.random.Generator) -> np.ndarray:
    """Labels [N] of which in every class the same share is wrong, drawn evenly from the class's candidates [C]; others stay as they are."""
    wrong = labels.copy()
    for of_class, others in zip(members(labels, len(candidates)), candidates, strict=True):
        chosen = rng.permutation(of_class)[: round(share * len(of_class))]
        wrong[chosen] = rng.choice(others, len(chosen))
    return wrong


def _coarsened(train: ImageSet, tree: Hierarchy, coarse: CoarseLabels, rng: np.random.Generator) -> ImageSet:
    """Of every class some images keep their label; the others are labelled with their group, or left out."""
    cut = _cut(tree, coarse, "coarse_labels")
    labels, chosen = train.labels.copy(), []
    for label, of_class in enumerate(train.members(tree.num_classes)):
        members = rng.permutation(of_class)
        kept = coarse.fine if isinstance(coarse.fine, int) else max(1, round(coarse.fine * len(members)))
        alone = cut.nodes[cut.groups[label]] == tree.leaf_nodes[label]  # its group says as much as its label
        chosen.append(members[:0] if alone else members[kept:])
    chosen = np.concatenate(chosen)
    if not len(chosen):
        largest = np.bincount(train.labels, minlength=1)[: tree.num_classes].max()
        raise DataError(f"data.coarse_labels.fine={coarse.fine}: every image keeps its class (the largest class has {largest}); take fewer")
    if coarse.drop:
        return train.subset(np.setdiff1d(np.arange(len(train)), chosen))
    node_labels = {int(node): label for label, node in enumerate(tree.label_nodes)}
    group_labels = np.array([node_labels[int(node)] for node in cut.nodes])
    labels[chosen] = group_labels[cut.groups[labels[chosen]]]
    return replace(train, labels=labels)


def groups_to_relabel(tree: Hierarchy, settings: LabelNoise | CoarseLabels) -> Cut | None:
    """The groups that the settings name, if any. Raises HierarchyError unless there are at least two, above the leaves."""
    if settings.cut is None:
        return None
    cut = chosen_cuts(tree, [settings.cut])[0]
    if cut.name == "leaf" or len(cut) < 2:
        raise HierarchyError(f"needs groups above the leaves, at least two; the tree has height {tree.height}")
    return cut


def _cut(tree: Hierarchy, settings: LabelNoise | CoarseLabels, section: str) -> Cut | None:
    try:
        return groups_to_relabel(tree, settings)
    except HierarchyError as error:
        raise DataError(f"data.{section}.cut: {error}") from None
