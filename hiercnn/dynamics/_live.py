"""Dynamics measured while a network is trained, from the passes that evaluate it anyway."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hiercnn.clustering import ClassStatistics
from hiercnn.data import Batch
from hiercnn.dynamics._hypernyms import LogitStatistics
from hiercnn.dynamics._measure import LAST, Row, cut_partitions, rows_of_logits, rows_of_statistics
from hiercnn.dynamics._moments import Moment, read_moment, told, write_moment, write_tables
from hiercnn.errors import DataError
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.models import Output


class LiveDynamics:
    """Gathers class statistics of layers and of logits batch by batch, and writes what they give in closed form.

    That is everything of `measure` but nearest class means, NC4, probes and Mantel's p. Numbers are those of the weights at that moment,
    on the images that evaluation sees, in its precision.

    Args:
        tree: Its classes are the logits.
        cuts: Cuts between root and leaves. Raises DataError for one with a single group.
        layers: Of `layer_names`.
        random: Random partitions of the same group sizes beside each cut.
        folder: Where moments are written; the tables go beside it.
    """

    def __init__(self, tree: Hierarchy, cuts: Sequence[Cut], layers: Sequence[str], *, random: int, folder: Path):
        self.tree, self.cuts, self.layers, self.folder = tree, list(cuts), list(layers), folder
        self._partitions = cut_partitions(tree, cuts, random)
        self._clear()

    def _clear(self) -> None:
        self._of_logits = LogitStatistics(self.tree.num_classes, self._partitions)
        self._of_layers: dict[str, ClassStatistics] = {}
        self._problem: DataError | None = None

    def begin(self) -> None:
        """Forget what another run has left in the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def see_test(self, batch: Batch, output: Output) -> None:
        """Count the logits of images that the network is not trained on."""
        known = batch.labels < self.tree.num_classes
        self._of_logits.update(output.leaf[known], batch.labels[known])

    def see_train(self, batch: Batch, output: Output) -> None:
        """Add the features of images that it is trained on, all with a class."""
        for layer in self.layers:
            features = output.features[layer]
            if layer not in self._of_layers:
                self._of_layers[layer] = ClassStatistics(self.tree.num_classes, features.shape[1], device=features.device)
            try:
                self._of_layers[layer].update(features, batch.labels)
            except DataError as error:  # features that are not finite must not end the training
                self._problem = error

    def write(self, step: int, weight: Tensor | None) -> None:
        """Write what was seen since the last time; `weight` [K, F] are the rows of the classifier.

        Raises:
            DataError: Features that are not finite, or a class without any; there is no such moment then.
        """
        try:
            if self._problem is not None:
                raise self._problem
            rows: list[Row] = rows_of_logits(self._of_logits)
            for layer, statistics in self._of_layers.items():
                rows += rows_of_statistics(
                    layer, statistics, self.tree, self._partitions, weight if layer == LAST else None, permutations=0
                )
            means = {layer: statistics.means.cpu().numpy() for layer, statistics in self._of_layers.items()}
            write_moment(self.folder / f"step-{step:08d}.npz", Moment(step, rows, means))
        finally:
            self._clear()

    def end(self, per_epoch: int) -> None:
        """Write the tables of all moments; `per_epoch` are the updates of an epoch."""
        if moments := read_moments(self.folder):
            write_tables(told(moments, self.tree, self.cuts, per_epoch, "val"), self.folder.parent)


def read_moments(folder: Path) -> list[Moment]:
    """Moments in a folder, in order of time."""
    found = (read_moment(file) for file in sorted(folder.glob("step-*.npz")))
    return [moment for moment in found if moment is not None]
