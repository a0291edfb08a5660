"""The path of the class means of a layer through training, in one plane."""

from collections.abc import Sequence

import numpy as np

from hiercnn.errors import ShapeError


def aligned_path(means: Sequence[np.ndarray]) -> np.ndarray:
    """Class means of T moments in two dimensions that stay comparable: principal axes of each moment, turned onto those of the next.

    The last moment keeps its principal axes; every other is turned or mirrored (never stretched) to lie as close to its successor as
    possible (orthogonal Procrustes). Each moment is scaled to a mean square radius of 1, so that growing features do not hide the pattern.

    Args:
        means: [K, F] of each moment, in order of time; F may differ between them.

    Returns:
        [T, K, 2], float64; zeros for a moment whose means are all the same.

    Raises:
        ShapeError: No moment, or moments of different numbers of classes.
    """
    counts = sorted({np.shape(moment)[0] for moment in means})
    if len(counts) != 1 or any(np.ndim(moment) != 2 for moment in means):
        raise ShapeError(f"means: wanted [K, F] of one K at every moment, got {[list(np.shape(moment)) for moment in means][:3]}")
    from scipy.linalg import orthogonal_procrustes

    planes = [_principal_plane(np.asarray(moment, dtype=np.float64)) for moment in means]
    for t in range(len(planes) - 2, -1, -1):
        planes[t] = planes[t] @ orthogonal_procrustes(planes[t], planes[t + 1])[0]
    return np.stack(planes)


def _principal_plane(means: np.ndarray) -> np.ndarray:
    centred = means - means.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(means), 2))
    plane[:, : min(2, len(values))] = (left * values)[:, :2]
    radius = np.sqrt((plane**2).sum(1).mean())
    return plane / radius if radius > 0 else plane
