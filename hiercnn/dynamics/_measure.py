"""Everything that is measured of one network at one moment, as rows of a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiercnn.clustering import ClassStatistics, cluster, partition_agreement, tree_correlation, tree_distances, vector_distances
from hiercnn.dynamics._collapse import collapse, group_rows, nearest_mean
from hiercnn.dynamics._hypernyms import LogitStatistics, confusion_matrix, hypernym_scores
from hiercnn.dynamics._separability import block_strength, class_similarity, probe_accuracy
from hiercnn.errors import DataError
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.models import PENULTIMATE as LAST
from hiercnn.models import HierarchicalModel, classifier_of, layer_names

LOGITS, LEAF, TREE = "logits", "leaf", "tree"
OF_CLASSIFIER = ("nc3", "w_equinorm")  # what needs its rows


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
def look(model: HierarchicalModel, loader, layers: Sequence[str] | None = None) -> Look:
    """Pass the images of a loader through a model and read some of its layers; default: every stage, and what the classifier reads."""
    layers = layer_names(model.backbone) if layers is None else layers
    model.eval()
    parts = [(model(batch.images, layers), batch.labels) for batch in loader.epoch()]
    features = {layer: torch.cat([output.features[layer] for output, _ in parts]) for layer in layers}
    return Look(features, torch.cat([output.leaf.float() for output, _ in parts]), torch.cat([labels for _, labels in parts]))


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
    partitions = cut_partitions(tree, cuts, random)
    rows = rows_of_logits(LogitStatistics(tree.num_classes, partitions).update(test.logits, test.labels))
    for layer, features in train.features.items():
        statistics = ClassStatistics(tree.num_classes, features.shape[1]).update(features, train.labels)
        own = weight if layer == LAST else None
        rows += rows_of_statistics(layer, statistics, tree, partitions, own, permutations=999)
        rows += _rows_of_features(layer, statistics, train, test, partitions, layer == LAST, probes)
    return rows


def classifier_rows(model: HierarchicalModel, num_classes: int) -> Tensor | None:
    """The classifier's row for each class [K, F]; None for classifiers without such rows."""
    weight = getattr(classifier_of(model), "weight", None)
    return weight.detach() if weight is not None and weight.ndim == 2 and len(weight) == num_classes else None


def cut_partitions(tree: Hierarchy, cuts: Sequence[Cut], random: int) -> dict[str, list[np.ndarray]]:
    """{cut: its groups [K], then random partitions of the same sizes}. Raises DataError for a cut with one group."""
    for cut in cuts:
        if len(cut) < 2:
            raise DataError(f"the cut '{cut.name}' has one group, and there is nothing to tell apart; cut lower")
    several = {cut.name: [cut, *(tree.random_like(cut, seed) for seed in range(random))] for cut in cuts if cut.name != LEAF}
    return {name: [np.asarray(each.groups) for each in these] for name, these in several.items()}


def rows_of_logits(seen: LogitStatistics) -> list[Row]:
    """Hypernym accuracy by both rules, against random groups."""
    leaf = hypernym_scores(seen.confusion, np.arange(len(seen.confusion)))
    rows = [Row(LOGITS, LEAF, "greedy", leaf.greedy), Row(LOGITS, LEAF, "corrected", leaf.corrected)]
    for name, several in seen.partitions.items():
        scores = [hypernym_scores(seen.confusion, groups)._asdict() for groups in several]
        rows += [_row(LOGITS, name, statistic, [found[statistic] for found in scores]) for statistic in scores[0]]
        rows.append(_row(LOGITS, name, "sum_rule", seen.sum_rule(name)))
    return rows


def rows_of_statistics(
    layer: str,
    statistics: ClassStatistics,
    tree: Hierarchy,
    partitions: Mapping[str, list[np.ndarray]],
    weight: Tensor | None,
    *,
    permutations: int,
) -> list[Row]:
    """What class statistics of a layer's features give in closed form: collapse, block strength, and the tree of the class means.

    Args:
        weight: Rows of the classifier that reads this layer, if it does.
        permutations: Of Mantel's test; 0 leaves it out.
    """
    means = statistics.means.cpu()
    similarity = class_similarity(means.numpy())
    dendrogram = cluster(vector_distances(means, "cosine", list(tree.classes)), "average")
    agreement = tree_correlation(dendrogram.cophenetic(), tree_distances(tree), permutations=permutations)
    rows = [Row(layer, TREE, name, value) for name, value in agreement._asdict().items() if permutations or name != "p"]
    rows += _collapsed(layer, LEAF, [statistics], [weight])
    for name, several in partitions.items():
        coarse = [statistics.coarser(groups) for groups in several]
        rows += _collapsed(layer, name, coarse, [None if weight is None else group_rows(weight, groups) for groups in several])
        rows.append(_row(layer, name, "block_strength", [_or_nan(block_strength, similarity, groups) for groups in several]))
        found = partition_agreement(dendrogram.groups(int(several[0].max()) + 1), several[0])
        rows += [Row(layer, name, key, value) for key, value in found._asdict().items()]
    return rows


def _rows_of_features(
    layer: str,
    statistics: ClassStatistics,
    train: Look,
    test: Look,
    partitions: Mapping[str, list[np.ndarray]],
    classified: bool,
    probes: bool,
) -> list[Row]:
    """What only the features of single images tell: nearest class means, NC4 of the layer that is classified, and probes."""
    features, unseen, classes = train.features[layer], test.features[layer], np.arange(len(statistics.counts))
    nearest, predicted = nearest_mean(unseen, statistics.means), test.logits.argmax(1)
    confusion = confusion_matrix(nearest, test.labels, len(classes))
    rows = [Row(layer, LEAF, "nearest_mean", float(np.trace(confusion) / confusion.sum()))]
    if classified:
        rows.append(Row(layer, LEAF, "nc4", float((predicted != nearest).double().mean())))
    if probes:
        rows.append(Row(layer, LEAF, "probe", _probe(features, unseen, train, test, classes)))
    for name, several in partitions.items():
        rows.append(_row(layer, name, "nearest_mean", [hypernym_scores(confusion, groups).greedy for groups in several]))
        if classified:
            rows.append(_row(layer, name, "nc4", [_disagreement(each, statistics, predicted.numpy(), unseen) for each in several]))
        if probes:
            rows.append(Row(layer, name, "probe", _probe(features, unseen, train, test, several[0])))
    return rows


def _collapsed(layer: str, cut: str, statistics: Sequence[ClassStatistics], rows: Sequence[Tensor | None]) -> list[Row]:
    found = [collapse(each, weight)._asdict() for each, weight in zip(statistics, rows, strict=True)]
    names = [name for name in found[0] if rows[0] is not None or name not in OF_CLASSIFIER]
    return [_row(layer, cut, name, [values[name] for values in found]) for name in names]


def _disagreement(groups: np.ndarray, statistics: ClassStatistics, predicted: np.ndarray, features: Tensor) -> float:
    """NC4 of groups: the group of the predicted class against the nearest group mean."""
    return float((groups[predicted] != nearest_mean(features, statistics.coarser(groups).means).numpy()).mean())


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
