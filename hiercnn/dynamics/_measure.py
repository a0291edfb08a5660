"""Everything that is measured of one network at one moment, as rows of a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hiercnn.clustering import ClassStatistics, cluster, partition_agreement, tree_correlation, tree_distances, vector_distances
from hiercnn.dynamics._collapse import collapse, group_rows, nearest_mean
from hiercnn.dynamics._hypernyms import confusion_matrix, hypernym_scores, sum_rule_hits
from hiercnn.dynamics._separability import block_strength, class_similarity, probe_accuracy
from hiercnn.errors import DataError
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.models import stages, tapped_forward

LOGITS, LAST, LEAF, TREE = "logits", "penultimate", "leaf", "tree"


class Row(NamedTuple):
    """One number.

    Attributes:
        layer: `logits`, `stage0`, …, or `penultimate`: what the classifier reads.
        cut: Name of the cut, `leaf`, or `tree` for what is of the whole tree.
        statistic: What was measured.
        value: Its value; NaN where it is not defined.
        random_mean, random_low, random_high: Mean and 5–95 % band over random partitions of the same group sizes; NaN where there are none.
    """

    layer: str
    cut: str
    statistic: str
    value: float
    random_mean: float = float("nan")
    random_low: float = float("nan")
    random_high: float = float("nan")


@dataclass(frozen=True, eq=False)
class Look:
    """What a network makes of n images.

    Attributes:
        features: {layer: [n, F]}, feature maps averaged over the map.
        logits: Of the leaves [n, K].
        labels: Classes [n], int64.
    """

    features: Mapping[str, Tensor]
    logits: Tensor
    labels: Tensor

    def cpu(self) -> "Look":
        """The same on the CPU."""
        return Look({layer: values.cpu() for layer, values in self.features.items()}, self.logits.cpu(), self.labels.cpu())

    def class_means(self, classes: int) -> dict[str, np.ndarray]:
        """Means of the features of each class by layer, [K, F] float64."""
        gathered = {layer: ClassStatistics(classes, values.shape[1], diagonal=True) for layer, values in self.features.items()}
        return {layer: found.update(self.features[layer], self.labels).means.numpy() for layer, found in gathered.items()}


@torch.no_grad()
def look(model: nn.Module, loader) -> Look:
    """Pass the images of a loader through a model, after every stage of its backbone and before its classifier."""
    backbone = model.backbone
    names, parts = range(len(stages(backbone))), []
    read: list[Tensor] = []
    hook = backbone.get_classifier().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].flatten(1)))
    model.eval()
    try:
        for batch in loader.epoch():
            scores, maps = tapped_forward(backbone, batch.images, names)
            pooled = {f"stage{i}": _pooled(maps[i]) for i in names} | {LAST: read.pop()}
            leaf = model(batch.images).leaf if len(model.feeds) or model.reader is not None else scores  # more than the backbone's own
            read.clear()
            parts.append((pooled, leaf.float(), batch.labels))
    finally:
        hook.remove()
    features = {layer: torch.cat([pooled[layer] for pooled, *_ in parts]).float() for layer in parts[0][0]}
    return Look(features, *(torch.cat([part[i] for part in parts]) for i in (1, 2)))


def measure(
    train: Look, test: Look, tree: Hierarchy, cuts: Sequence[Cut], *, weight: Tensor | None = None, random: int = 20, probes: bool = True
) -> list[Row]:
    """Measure one moment: hypernym accuracy on test, separability and collapse of every layer on train, trees of the class means.

    Args:
        train, test: What the network makes of images it was trained on and of others; every class among those of train.
        cuts: Cuts between root and leaves.
        weight: Rows of the classifier [K, F].
        random: Random partitions of the same group sizes beside each cut.
        probes: Whether to fit linear probes, which takes most of the time.

    Raises:
        DataError: A cut with one group, or a class without an image of train.
    """
    for cut in cuts:
        if len(cut) < 2:
            raise DataError(f"the cut '{cut.name}' has one group, and there is nothing to tell apart; cut lower")
    partitions = {cut.name: [np.asarray(cut.groups), *_random(tree, cut, random)] for cut in cuts if cut.name != LEAF}
    rows = _of_logits(test, tree.num_classes, partitions)
    for layer in train.features:
        rows += _of_layer(layer, train, test, tree, partitions, weight if layer == LAST else None, probes)
    return rows


def _random(tree: Hierarchy, cut: Cut, count: int) -> list[np.ndarray]:
    return [np.asarray(tree.random_like(cut, seed).groups) for seed in range(count)]


def _of_logits(test: Look, classes: int, partitions: Mapping[str, list[np.ndarray]]) -> list[Row]:
    """Hypernym accuracy by both rules, against random groups."""
    confusion = confusion_matrix(test.logits.argmax(1), test.labels, classes)
    rows = [Row(LOGITS, LEAF, "greedy", float(np.trace(confusion) / confusion.sum()))]
    for name, several in partitions.items():
        scores = [hypernym_scores(confusion, groups)._asdict() for groups in several]
        rows += [_row(LOGITS, name, statistic, [found[statistic] for found in scores]) for statistic in scores[0]]
        sums = [sum_rule_hits(test.logits, test.labels, torch.tensor(groups)) / len(test.labels) for groups in several]
        rows.append(_row(LOGITS, name, "sum_rule", sums))
    return rows


def _of_layer(
    layer: str, train: Look, test: Look, tree: Hierarchy, partitions: Mapping[str, list[np.ndarray]], weight: Tensor | None, probes: bool
) -> list[Row]:
    features, unseen = train.features[layer], test.features[layer]
    statistics = ClassStatistics(tree.num_classes, features.shape[1]).update(features, train.labels)
    nearest = nearest_mean(unseen, statistics.means)
    confusion = confusion_matrix(nearest, test.labels, tree.num_classes)
    means = statistics.means.numpy()
    similarity = class_similarity(means)
    dendrogram = cluster(vector_distances(statistics.means, "cosine", list(tree.classes)), "average")
    agreement = tree_correlation(dendrogram.cophenetic(), tree_distances(tree))
    rows = [Row(layer, TREE, name, value) for name, value in agreement._asdict().items()]
    rows += _collapsed(layer, LEAF, [statistics], [weight])
    rows.append(Row(layer, LEAF, "nearest_mean", float(np.trace(confusion) / confusion.sum())))
    if weight is not None:
        rows.append(Row(layer, LEAF, "nc4", float((test.logits.argmax(1) != nearest).double().mean())))
    if probes:
        rows.append(Row(layer, LEAF, "probe", _probe(features, unseen, train, test, np.arange(tree.num_classes))))
    for name, several in partitions.items():
        coarse = [statistics.coarser(groups) for groups in several]
        rows += _collapsed(layer, name, coarse, [None if weight is None else group_rows(weight, groups) for groups in several])
        rows.append(_row(layer, name, "nearest_mean", [hypernym_scores(confusion, groups).greedy for groups in several]))
        rows.append(_row(layer, name, "block_strength", [_or_nan(block_strength, similarity, groups) for groups in several]))
        found = partition_agreement(dendrogram.groups(int(several[0].max()) + 1), several[0])
        rows += [Row(layer, name, key, value) for key, value in found._asdict().items()]
        if weight is not None:
            predicted = test.logits.argmax(1).numpy()
            rows.append(_row(layer, name, "nc4", [_disagreement(g, c, predicted, unseen) for g, c in zip(several, coarse, strict=True)]))
        if probes:
            rows.append(Row(layer, name, "probe", _probe(features, unseen, train, test, several[0])))
    return rows


def _collapsed(layer: str, cut: str, statistics: Sequence[ClassStatistics], rows: Sequence[Tensor | None]) -> list[Row]:
    found = [collapse(each, weight)._asdict() for each, weight in zip(statistics, rows, strict=True)]
    return [_row(layer, cut, name, [values[name] for values in found]) for name in found[0] if not np.isnan(found[0][name])]


def _disagreement(groups: np.ndarray, statistics: ClassStatistics, predicted: np.ndarray, features: Tensor) -> float:
    """NC4 of groups: the group of the predicted class against the nearest group mean."""
    return float((groups[predicted] != nearest_mean(features, statistics.means).numpy()).mean())


def _probe(features: Tensor, unseen: Tensor, train: Look, test: Look, groups: np.ndarray) -> float:
    return probe_accuracy((features.numpy(), groups[train.labels.numpy()]), (unseen.numpy(), groups[test.labels.numpy()]))


def _or_nan(function: Callable[..., float], *arguments) -> float:
    try:
        return function(*arguments)
    except DataError:
        return float("nan")


def _row(layer: str, cut: str, statistic: str, values: Sequence[float]) -> Row:
    """The first value is that of the cut, the others are those of random partitions."""
    value, *others = values
    if not others:
        return Row(layer, cut, statistic, value)
    low, high = np.quantile(others, [0.05, 0.95])
    return Row(layer, cut, statistic, value, float(np.mean(others)), float(low), float(high))


def _pooled(features: Tensor) -> Tensor:
    return features.flatten(2).mean(2) if features.ndim > 2 else features
