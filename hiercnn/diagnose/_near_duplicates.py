"""Images that stand in two splits: nearly the same features."""

from typing import Annotated

import numpy as np
from pydantic import Field

from hiercnn.diagnose._evidence import Evidence, Finding, needed_features, ranked
from hiercnn.diagnose._registry import detectors
from hiercnn.errors import DataError
from hiercnn.settings import checked_options

BLOCK = 2**24  # similarities looked at together


@detectors.register("near_duplicates")
@checked_options
def near_duplicates(evidence: Evidence, *, quantile: Annotated[float, Field(gt=0, lt=1)] = 0.99) -> list[Finding]:
    """Images with a neighbour in another split that is nearer than images of different classes get.

    Features are centred on the mean of both splits and compared by cosine. Of each image the nearest one of the other split counts,
    whatever its class, if it is nearer than a quantile of what images have as their nearest neighbour of another class.

    Args:
        quantile: Of the nearest neighbours of another class; the rest of them may be copies with another label.

    Raises:
        DataError: No features, or no other split.
    """
    features, others = needed_features(evidence, "near_duplicates"), evidence.others
    if others is None:
        raise DataError("near_duplicates compares with images of another split, and the evidence has none")
    mean = np.concatenate([features, others.features]).mean(0, dtype=np.float64)
    best, nearest, stranger = _neighbours(_unit(features - mean), _unit(others.features - mean), evidence.labels, others.labels)
    strangers = stranger[np.isfinite(stranger)]
    threshold = np.quantile(strangers, quantile) if len(strangers) else -1.0
    titles = evidence.titles
    return ranked(
        [
            Finding(
                float(best[i]),
                f"{evidence.ids[i]} ({titles[evidence.labels[i]]}) and {others.ids[j]} of {others.name} ({titles[others.labels[j]]})"
                f" have a cosine of {best[i]:.4f}; different classes hardly come above {threshold:.4f}",
                int(i),
                int(j),
                classes=tuple(evidence.tree.classes[label] for label in (evidence.labels[i], others.labels[j])),
            )
            for i in np.flatnonzero(best > threshold)
            for j in [nearest[i]]
        ]
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 [N, F], float32; a row of zeros stays."""
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _neighbours(
    rows: np.ndarray, others: np.ndarray, labels: np.ndarray, other_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosine and place of the nearest of the others [N], and cosine of the nearest of another class [N]; block by block."""
    size, parts = max(1, BLOCK // len(others)), []
    for at in range(0, len(rows), size):
        cosines = rows[at : at + size] @ others.T
        place = cosines.argmax(1)
        best = cosines[np.arange(len(place)), place]
        cosines[labels[at : at + size, None] == other_labels] = -np.inf
        parts.append((best, place, cosines.max(1)))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
