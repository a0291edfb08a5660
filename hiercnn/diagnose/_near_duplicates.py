"""Images that stand in two splits: much nearer to each other than to anything else."""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hiercnn.diagnose._evidence import Evidence, Finding, needed_features, ranked
from hiercnn.diagnose._registry import detectors
from hiercnn.errors import DataError
from hiercnn.settings import checked_options

BLOCK = 2**24  # distances looked at together
ROUNDING = 1e-6  # of a cosine in float32
FARTHEST = 2.0  # distance of opposite features


@detectors.register("near_duplicates")
@checked_options
def near_duplicates(evidence: Evidence, *, quantile: Annotated[float, Field(gt=0, lt=1)] = 0.99) -> list[Finding]:
    """Images with a neighbour in another split that is much nearer than others are, as no two images of different classes get.

    Features are centred on the mean of both splits; distances are 1 − cosine. The score of an image is 1 − d₁ / d₃, with the distances of
    its nearest image of the other split, whatever its class, and of its third nearest: 1 for a copy, 0 where many are as near. So images
    of a crowded class are not taken for copies, and a second copy does not hide the first. It is suspected above a quantile of the same
    score among images of other classes alone.

    Args:
        quantile: Of the scores among other classes; the rest of them may be copies with another label.

    Raises:
        DataError: No features, or no other split.

    Source: the ratio test of Lowe, "Distinctive image features from scale-invariant keypoints" (IJCV 2004), with room for a second copy.
    """
    features, others = needed_features(evidence, "near_duplicates"), evidence.others
    if others is None:
        raise DataError("near_duplicates compares with images of another split, and the evidence has none")
    mean = np.concatenate([features, others.features]).mean(0, dtype=np.float64)
    near, nearest, strange = _neighbours(_unit(features - mean), _unit(others.features - mean), evidence.labels, others.labels)
    score, of_strangers = _score(near), _score(strange[strange[:, 0] < np.inf])
    threshold = np.quantile(of_strangers, quantile) if len(of_strangers) else -1.0
    titles = evidence.titles
    return ranked(
        [
            Finding(
                float(score[i]),
                f"{evidence.ids[i]} ({titles[evidence.labels[i]]}) and {others.ids[j]} of {others.name} ({titles[others.labels[j]]})"
                f" have a cosine of {1 - near[i, 0]:.4f}, {100 * (1 - score[i]):.1f} % of the distance to the third nearest;"
                f" between different classes this is hardly below {100 * (1 - threshold):.1f} %",
                int(i),
                int(j),
                classes=tuple(evidence.tree.classes[label] for label in (evidence.labels[i], others.labels[j])),
            )
            for i in np.flatnonzero(score > threshold)
            for j in [nearest[i]]
        ]
    )


def _score(distances: np.ndarray) -> np.ndarray:
    """1 − d₁ / d₃ of distances [N, 3], nearest first; 1 where float32 does not tell the nearest from a copy."""
    distances = np.where(distances < ROUNDING, 0.0, distances)
    nearest, third = distances[:, 0], np.minimum(distances[:, 2], FARTHEST)
    return 1 - np.divide(nearest, third, out=np.zeros(len(third)), where=third > 0)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 [N, F], float32; a row of zeros stays."""
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _neighbours(
    rows: np.ndarray, others: np.ndarray, labels: np.ndarray, other_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1 − cosine of the three nearest of the others [N, 3] and the place of the nearest [N], and of the three nearest of other classes
    [N, 3]; infinite where there are none; block by block."""
    size, parts = max(1, BLOCK // len(others)), []
    for at in range(0, len(rows), size):
        distances = torch.from_numpy(1 - rows[at : at + size] @ others.T)
        near, place = _three_least(distances)
        distances[torch.from_numpy(labels[at : at + size, None] == other_labels)] = np.inf
        parts.append((near.numpy(), place[:, 0].numpy(), _three_least(distances)[0].numpy()))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _three_least(distances: Tensor) -> tuple[Tensor, Tensor]:
    """Values and places [N, 3] of the least in each row, infinite where there are fewer."""
    padded = F.pad(distances, (0, max(0, 3 - distances.shape[1])), value=np.inf)
    return padded.topk(3, dim=1, largest=False)
