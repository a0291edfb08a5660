"""Distances between classes, from one vector a class or from a table of similarities."""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hiercnn.errors import DataError, ShapeError, shorten

Metric = Literal["cosine", "correlation", "euclidean", "unit"]
MIRRORED = 4096  # rows that are mirrored at once
BLOCK = 2**24  # numbers of the table of distances that exist at once beside the result


class ClassDistances:
    """Distances between K classes, made when they are asked for, by one matrix product.

    Attributes:
        euclidean: Whether they are euclidean, as ward linkage needs them.
    """

    def __init__(self, vectors: Tensor | None, table: np.ndarray | None, *, euclidean: bool):
        self._vectors, self._table, self.euclidean = vectors, table, euclidean

    def __len__(self) -> int:
        return len(self._table if self._vectors is None else self._vectors)

    @property
    def on_gpu(self) -> bool:
        """Whether the vectors are on a GPU."""
        return self._vectors is not None and self._vectors.is_cuda

    def among(self, classes: np.ndarray) -> np.ndarray:
        """Between some classes [M, M], float64."""
        if self._vectors is None:
            return self._table[np.ix_(classes, classes)]
        some = self._vectors[torch.as_tensor(np.asarray(classes))]
        return self._between(some, some).fill_diagonal_(0).cpu().numpy()

    def square(self) -> Tensor:
        """Between all classes [K, K], where the vectors are; the diagonal is 0."""
        if self._vectors is None:
            return torch.from_numpy(self._table.copy())
        return _mirrored(self._between(self._vectors, self._vectors).fill_diagonal_(0))

    def condensed(self) -> np.ndarray:
        """Between all pairs of classes in scipy's order [K (K − 1) / 2], float64."""
        count = len(self)
        found, place = np.empty(count * (count - 1) // 2), 0
        for start, rows in self._rows():
            for number, row in enumerate(rows, start=start):
                found[place : (place := place + count - number - 1)] = row[number + 1 :]
        return found

    def _rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """Rows [·, K] of the table of all distances, a block at a time, and the first row's number."""
        step = max(1, BLOCK // max(len(self), 1))
        for start in range(0, len(self), step):
            if self._vectors is None:
                yield start, self._table[start : start + step]
            else:
                yield start, self._between(self._vectors[start : start + step], self._vectors).cpu().numpy()

    def _between(self, some: Tensor, others: Tensor) -> Tensor:
        product = some @ others.T
        if not self.euclidean:
            return product.neg_().add_(1).clamp_(min=0)
        return product.mul_(-2).add_(some.square().sum(1)[:, None]).add_(others.square().sum(1)).clamp_(min=0).sqrt_()


def vector_distances(vectors: np.ndarray | Tensor, metric: Metric = "cosine", names: list[str] | None = None) -> ClassDistances:
    """Distances between vectors of classes, such as means of features or rows of a classifier.

    Args:
        vectors: [K, F].
        metric: `cosine` and `unit`: one minus the cosine, and the euclidean distance of vectors of length 1, after taking the mean of all
            vectors away; `correlation`: one minus the correlation of two vectors; `euclidean`.
        names: Of the classes, for messages.

    Raises:
        ShapeError: Vectors that are not [K, F]. DataError: fewer than two classes; vectors that are not finite; metrics of angles for a
        vector that has none, such as the mean of all.
    """
    if metric not in get_args(Metric):
        raise ShapeError(f"metric: wanted one of {', '.join(get_args(Metric))}, got {metric!r}")
    vectors = torch.as_tensor(vectors).detach()
    if vectors.ndim != 2:
        raise ShapeError(f"vectors: wanted [K, F], one a class, got {list(vectors.shape)}")
    names = _checked_names(names, len(vectors))
    vectors = vectors.double()
    _refuse(~vectors.isfinite().all(1), names, "vectors that are not finite; leave these classes out, or look at their images")
    if metric == "euclidean":
        _refuse(~vectors.square().sum(1).isfinite(), names, "vectors whose squares are over all numbers; divide all vectors by one number")
    else:
        vectors = vectors / max(float(vectors.abs().max()), 1e-300)  # angles are the same
    centre = vectors.mean(1, keepdim=True) if metric == "correlation" else vectors.mean(0)
    centred = vectors - centre
    if metric != "euclidean":
        length = centred.norm(dim=1, keepdim=True)
        least = 1e-12 * max(1e-300, float(vectors.norm(dim=1).max()))
        what = "vectors that are constant" if metric == "correlation" else "vectors that are the mean of all"
        _refuse(length[:, 0] <= least, names, f"{what}, to which no {metric} distance exists; use euclidean")
        centred = centred / length
    return ClassDistances(centred, None, euclidean=metric in ("euclidean", "unit"))


def similarity_distances(similarity: np.ndarray | Tensor, names: list[str] | None = None) -> ClassDistances:
    """One minus similarities [K, K] of 0 to 1, which are made symmetric; below 0 counts as 0. The diagonal is not read.

    Raises:
        ShapeError: A table that is not square. DataError: fewer than two classes; similarities that are not finite, or over 1.
    """
    table = torch.as_tensor(similarity).detach().double().cpu().numpy().copy()
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ShapeError(f"similarity: wanted [K, K], got {list(table.shape)}")
    names = _checked_names(names, len(table))
    np.fill_diagonal(table, 0)
    _refuse(torch.from_numpy(~np.isfinite(table).all(1)), names, "similarities that are not finite")
    if table.max() > 1 + 1e-9:
        raise DataError(f"similarities are 0 to 1, got {table.max():g}; divide counts by the images of a class")
    distances = 1 - np.clip((table + table.T) / 2, 0, 1)
    np.fill_diagonal(distances, 0)
    return ClassDistances(None, distances, euclidean=False)


def logit_similarity(logits: np.ndarray | Tensor) -> np.ndarray:
    """Correlation of the logits of every two classes over images, [N, K] → [K, K]. Source: Bilal et al. (2018)."""
    logits = torch.as_tensor(logits).detach().double()
    if logits.ndim != 2 or len(logits) < 2:
        raise ShapeError(f"logits: wanted [N, K] of two images or more, got {list(logits.shape)}")
    centred = logits - logits.mean(0)
    length = centred.norm(dim=0)
    centred = centred / torch.where(length > 1e-12 * logits.norm(dim=0), length, torch.inf)  # what is constant correlates with nothing
    return (centred.T @ centred).cpu().numpy()


def confusion_similarity(confusion: np.ndarray | Tensor) -> np.ndarray:
    """Share of the images of a class that are taken for another, the mean of both ways: counts [K, K], rows actual → [K, K].

    Raises:
        ShapeError: A table that is not square. DataError: counts below 0; a class without images.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ShapeError(f"confusion: wanted counts [K, K], got {list(counts.shape)}")
    if not (counts >= 0).all():
        raise DataError("confusion: counts below 0, or no numbers")
    images = counts.sum(1, keepdims=True)
    empty = np.flatnonzero(images == 0)
    if len(empty):
        raise DataError(f"confusion: classes without images: {shorten(empty.tolist())}; leave them out")
    share = counts / images
    return (share + share.T) / 2


def _mirrored(table: Tensor) -> Tensor:
    """The part right of the diagonal also below it, in place: a matrix product need not be symmetric to the last bit."""
    for start in range(0, len(table), MIRRORED):
        stop = start + MIRRORED
        table[stop:, start:stop] = table[start:stop, stop:].T
        corner = table[start:stop, start:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)
    return table


def _checked_names(names: list[str] | None, count: int) -> list[str]:
    if count < 2:
        raise DataError(f"clustering needs two classes at least, got {count}")
    if names is not None and len(names) != count:
        raise ShapeError(f"names: wanted {count}, one a class, got {len(names)}")
    return [str(number) for number in range(count)] if names is None else [str(name) for name in names]


def _refuse(bad: Tensor, names: list[str], what: str) -> None:
    if bad.any():
        raise DataError(f"classes with {what}: {shorten(names[number] for number in torch.nonzero(bad)[:, 0].tolist())}")
