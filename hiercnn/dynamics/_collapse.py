"""Neural collapse NC1 to NC4 (Papyan, Han and Donoho, PNAS 2020) of classes and of groups of classes."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiercnn.clustering import ClassStatistics
from hiercnn.errors import DataError, ShapeError


class Collapse(NamedTuple):
    """How far classes (or groups) of one layer have collapsed; all fall to 0, or to the floors of `etf_floors`.

    Attributes:
        nc1: tr(Σ_W Σ_B⁺) / K, the pseudo-inverse of the K − 1 largest eigenvalues, less those that are zero but for rounding.
        trace_ratio: tr Σ_W / tr Σ_B.
        equinorm: Standard deviation ÷ mean of the norms of the centred class means (ddof 1).
        equiangular: Standard deviation of the cosines between them.
        max_angle: Mean of |cosine + 1 / (K − 1)|.
        nc3: ‖W / ‖W‖ − M / ‖M‖‖², Frobenius norms, of the classifier's rows and the centred means; NaN without a classifier.
        w_equinorm: As `equinorm`, of the classifier's rows.
    """

    nc1: float
    trace_ratio: float
    equinorm: float
    equiangular: float
    max_angle: float
    nc3: float
    w_equinorm: float


def collapse(statistics: ClassStatistics, weight: Tensor | None = None) -> Collapse:
    """Measure the collapse of K classes from their statistics, in float64.

    Args:
        statistics: Of the features, with full scatter; `statistics.coarser(groups)` for groups.
        weight: Rows of the classifier [K, F] that reads these features; for groups the means of their classes' rows (`group_rows`).

    Raises:
        DataError: A single class, a class without features, or the diagonal of the scatter alone. ShapeError: rows of another size.
    """
    count, features = statistics.means.shape
    if statistics.diagonal or count < 2:
        raise DataError("collapse is measured between two classes or more, with their whole scatter (diagonal=False)")
    if (statistics.counts == 0).any():
        raise DataError(f"no features of class {int((statistics.counts == 0).nonzero()[0])}; collapse needs some of every class")
    if weight is not None and tuple(weight.shape) != (count, features):
        raise ShapeError(f"weight: wanted [{count}, {features}], a row a class, got {list(weight.shape)}")
    within, centred = statistics.within_scatter, statistics.means - statistics.mean
    weighted = centred * (statistics.counts.double() / statistics.total).sqrt()[:, None]  # Σ_B is its square
    norms, cosines = centred.norm(dim=1), _cosines(centred)
    rows = None if weight is None else weight.detach().to(centred)
    return Collapse(
        nc1=_nc1(within, weighted),
        trace_ratio=float(within.trace() / weighted.square().sum()),
        equinorm=float(norms.std() / norms.mean()),
        equiangular=float(cosines.std(correction=0)),
        max_angle=float((cosines + 1 / (count - 1)).abs().mean()),
        nc3=float("nan") if rows is None else float((rows / rows.norm() - centred / centred.norm()).square().sum()),
        w_equinorm=float("nan") if rows is None else float(rows.norm(dim=1).std() / rows.norm(dim=1).mean()),
    )


def group_rows(weight: Tensor, groups: np.ndarray) -> Tensor:
    """A row for every group [K', F]: the mean of the rows [K, F] of its classes."""
    index = torch.as_tensor(np.array(groups), device=weight.device)
    sums = weight.detach().double().new_zeros(int(index.max()) + 1, weight.shape[1]).index_add_(0, index, weight.detach().double())
    return sums / torch.bincount(index)[:, None]


def etf_floors(num_classes: int, group_size: int) -> dict[str, float]:
    """What `collapse` tends to for groups of `group_size` classes each, once the classes are a simplex ETF: the same for *any* groups.

    Late collapse of groups therefore says nothing of a hierarchy; only earlier collapse than that of random groups does.
    """
    if num_classes % group_size or num_classes == group_size:
        raise DataError(f"{num_classes} classes do not make two or more groups of {group_size}")
    ratio = num_classes * (group_size - 1) / (num_classes - group_size)
    return {"nc1": 0.0, "trace_ratio": ratio, "equinorm": 0.0, "equiangular": 0.0, "max_angle": 0.0}


def nearest_mean(features: Tensor, means: Tensor) -> Tensor:
    """Class whose mean [K, F] is nearest to each of features [B, F], int64."""
    return torch.cdist(features.double(), means.double()).argmin(1)


def nc4(predicted: Tensor, features: Tensor, means: Tensor) -> float:
    """Share of images on which the classifier's `predicted` classes [B] and the nearest class mean of train disagree; of test images."""
    return float((predicted != nearest_mean(features, means)).double().mean())


def _nc1(within: Tensor, rows: Tensor) -> float:
    """tr(Σ_W Σ_B⁺) / K of Σ_B = RᵀR, R [K, F], whose pseudo-inverse has the right singular vectors of R."""
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    values, vectors = values[: len(rows) - 1], vectors[: len(rows) - 1]
    real = values > values[0] * max(rows.shape) * torch.finfo(values.dtype).eps
    return float((((vectors @ within) * vectors).sum(1) / values.square())[real].sum() / len(rows))


def _cosines(centred: Tensor) -> Tensor:
    rows = torch.nn.functional.normalize(centred, dim=1)
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    return (rows @ rows.T)[first, second]
