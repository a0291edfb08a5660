"""Counts, means and scatter of the features of each class, gathered in one pass."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hiercnn.errors import CheckpointError, DataError, ShapeError, shorten
from hiercnn.files import read_arrays
from hiercnn.ops import class_sums


class ClassStatistics:
    """Counts, means and within-class scatter of features that come in batches; float64, without taking differences of large sums.

    What is kept can be merged, so batches may be seen in any order and by several processes. N features of K classes, F numbers each.

    Args:
        num_classes: K.
        num_features: F.
        diagonal: Keep the diagonal [F] of the scatter alone instead of [F, F].
        device: Where the sums live: where the features come from.

    Attributes:
        counts: Features of each class [K], int64.
        means: Mean of each class [K, F], float64; 0 for a class without features.
        within: Σ_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ [F, F], or its diagonal [F]; not divided by N.

    Source: the pairwise update of Chan, Golub and LeVeque (1979), for each class.
    """

    def __init__(self, num_classes: int, num_features: int, *, diagonal: bool = False, device: torch.device | str = "cpu"):
        if num_classes < 1 or num_features < 1:
            raise ShapeError(f"statistics need a class and a feature at least, got {num_classes} and {num_features}")
        self.diagonal = diagonal
        self.counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.means = torch.zeros(num_classes, num_features, dtype=torch.float64, device=device)
        self.within = torch.zeros([num_features] * (1 if diagonal else 2), dtype=torch.float64, device=device)

    def update(self, features: Tensor, labels: Tensor) -> "ClassStatistics":
        """Add features [B, F] of classes [B], int64.

        Raises:
            ShapeError: Sizes, types or devices that do not fit. DataError: labels that are no class; features that are not finite, with
            their class and their number. Nothing of such a batch is added.
        """
        if features.ndim != 2 or features.shape[1] != self.means.shape[1]:
            raise ShapeError(f"features: wanted [B, {self.means.shape[1]}], got {list(features.shape)}")
        features = features.detach()
        present, place, counts = _checked_labels(labels, len(self.counts))
        sums = class_sums(features, place, len(present))
        if not sums.isfinite().all():
            raise DataError(_not_finite(features, labels))
        means = sums / counts[:, None]
        residual = features.double() - means[place]
        self._merge(present, counts, means, self._scatter(residual))
        return self

    def merge(self, other: "ClassStatistics") -> "ClassStatistics":
        """Add what others gathered. Raises ShapeError unless it is of the same classes, features and kind of scatter."""
        if (self.means.shape, self.diagonal) != (other.means.shape, other.diagonal):
            raise ShapeError(
                f"statistics of {_kind(self)} and of {_kind(other)} cannot be merged; gather both with the same classes, layer and scatter"
            )
        present = torch.nonzero(other.counts)[:, 0]
        self._merge(*(x.to(self.means.device) for x in (present, other.counts[present], other.means[present], other.within)))
        return self

    def coarser(self, groups: np.ndarray | Tensor) -> "ClassStatistics":
        """Statistics of groups of classes, in closed form: group scatter is that of the classes plus that of their means.

        Args:
            groups: Group of each class [K], 0 to K' − 1, such as `Cut.groups`.
        """
        groups = torch.as_tensor(np.array(groups), device=self.means.device)
        whole = not (groups.is_floating_point() or groups.is_complex())
        groups = groups.to(torch.int64)
        if not whole or groups.shape != self.counts.shape or (len(groups) and groups.min() < 0):
            raise ShapeError(f"groups: wanted one number of 0 or more for each of {len(self.counts)} classes, got {list(groups.shape)}")
        count = int(groups.max()) + 1
        found = ClassStatistics(count, self.means.shape[1], diagonal=self.diagonal, device=self.means.device)
        found.counts.index_add_(0, groups, self.counts)
        found.means.index_add_(0, groups, self.means * self.counts[:, None]).div_(found.counts.clamp(min=1)[:, None])
        found.within = self.within + self._scatter((self.means - found.means[groups]) * self.counts.double().sqrt()[:, None])
        return found

    @property
    def total(self) -> int:
        """Number of features N."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Tensor:
        """Mean of all features [F]."""
        return self._shares() @ self.means

    @property
    def within_scatter(self) -> Tensor:
        """Σ_W = (1/N) Σ_i (h_i − μ_{y_i})(·)ᵀ [F, F], or its diagonal [F]."""
        return self.within / max(self.total, 1)

    @property
    def between_scatter(self) -> Tensor:
        """Σ_B = Σ_c (n_c/N)(μ_c − μ)(·)ᵀ [F, F], or its diagonal [F]; Σ_W + Σ_B is the scatter of all features."""
        return self._scatter((self.means - self.mean) * self._shares().sqrt()[:, None])

    def save(self, path: str | Path) -> None:
        """Write an .npz file. Raises DataError if it cannot."""
        arrays = {name: getattr(self, name).cpu().numpy() for name in ("counts", "means", "within")}
        try:
            with open(path, "wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: str | Path) -> "ClassStatistics":
        """Read what `save` wrote. Raises DataError for any other file."""
        try:
            arrays = read_arrays(path)
            counts, means, within = (torch.from_numpy(arrays[name]) for name in ("counts", "means", "within"))
        except (CheckpointError, KeyError, TypeError) as error:
            raise DataError(f"{path} does not hold class statistics: {error}") from None
        if means.ndim != 2 or counts.shape != means.shape[:1] or within.shape not in (means.shape[1:], means.shape[1:] * 2):
            raise DataError(f"{path} does not hold class statistics: counts {list(counts.shape)}, means {list(means.shape)}")
        if [x.dtype for x in (counts, means, within)] != [torch.int64, torch.float64, torch.float64]:
            raise DataError(f"{path} does not hold class statistics: counts are int64 there, means and scatter float64")
        found = cls(*means.shape, diagonal=within.ndim == 1)
        found.counts, found.means, found.within = counts, means, within
        return found

    def _merge(self, present: Tensor, counts: Tensor, means: Tensor, within: Tensor) -> None:
        """Add counts and means of some classes [P], [P, F], and a scatter of all."""
        mine, share = self.counts[present].double(), counts.double() / (self.counts[present] + counts)
        delta = means - self.means[present]
        self.within += within + self._scatter(delta * (mine * share).sqrt()[:, None])
        self.means[present] += delta * share[:, None]
        self.counts[present] += counts

    def _shares(self) -> Tensor:
        return self.counts.double() / max(self.total, 1)

    def _scatter(self, rows: Tensor) -> Tensor:
        return rows.square().sum(0) if self.diagonal else rows.T @ rows


def _checked_labels(labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The classes of a batch [P], the place of each label among them [B], and their counts [P]."""
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ShapeError(f"labels: wanted [B], int64, got {list(labels.shape)}, {str(labels.dtype).removeprefix('torch.')}")
    present, place, counts = labels.unique(return_inverse=True, return_counts=True)
    wrong = present[(present < 0) | (present >= classes)]
    if len(wrong):
        raise DataError(f"labels: wanted classes 0 to {classes - 1}, got {shorten(wrong.tolist())}; leave images without a class out")
    return present, place, counts


def _not_finite(features: Tensor, labels: Tensor) -> str:
    bad = labels[~features.isfinite().all(1)]
    if not len(bad):
        return "features: their sum is not finite; they are too large for float64"
    counts = {int(label): int(count) for label, count in zip(*bad.unique(return_counts=True), strict=True)}
    return f"features: not finite in {len(bad)} of {len(labels)} rows; rows by class: {shorten(f'{k}: {n}' for k, n in counts.items())}"


def _kind(statistics: ClassStatistics) -> str:
    classes, features = statistics.means.shape
    return f"{classes} classes × {features} features ({'diagonal' if statistics.diagonal else 'full'} scatter)"
