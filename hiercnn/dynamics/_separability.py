"""How far apart a layer holds groups: block strength of class responses, relevance of channels, and linear probes."""

import warnings
from collections.abc import Sequence

import numpy as np

from hiercnn.errors import DataError, ShapeError

STEPS = 200  # of L-BFGS, at most
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)  # L2 of the probes, on standardised features; the best on held-out images is taken


def class_similarity(responses: np.ndarray) -> np.ndarray:
    """Pearson correlation of classes by their responses [K, F] after standardising the channels: [K, K].

    Channels that are the same for all classes are left out. Source: Bilal et al. (TVCG 2018).
    """
    responses = np.asarray(responses, dtype=np.float64)
    spread = responses.std(0)
    kept = (responses - responses.mean(0))[:, spread > 0] / spread[spread > 0]
    if kept.shape[1] < 2:
        raise DataError(f"responses: wanted two channels or more that differ between classes, got {kept.shape[1]}")
    return np.corrcoef(kept)


def block_strength(similarity: np.ndarray, groups: np.ndarray) -> float:
    """Mean similarity of two classes of one group − that of two classes of different groups; similarity [K, K], groups [K].

    Raises:
        DataError: One group, or no two classes in one.
    """
    first, second = np.triu_indices(len(groups), 1)
    same = np.asarray(groups)[first] == np.asarray(groups)[second]
    if same.all() or not same.any():
        raise DataError("block strength needs two groups or more, and one with two classes")
    pairs = np.asarray(similarity)[first, second]
    return float(pairs[same].mean() - pairs[~same].mean())


def channel_relevance(responses: np.ndarray, members: np.ndarray) -> np.ndarray:
    """AUC of each channel for telling classes of a group from the others: responses [K, F], members [K] bool → [F], 0..1.

    Raises:
        DataError: A group of no class, or of all.
    """
    from scipy.stats import rankdata

    members = np.asarray(members, dtype=bool)
    inside, outside = members.sum(), (~members).sum()
    if not inside or not outside:
        raise DataError("a group of no class, or of all, cannot be told from the others")
    ranks = rankdata(responses, axis=0)
    return (ranks[members].sum(0) - inside * (inside + 1) / 2) / (inside * outside)


def chance_corrected(accuracy: float, labels: np.ndarray) -> float:
    """(accuracy − q) / (1 − q), q the share of the most frequent label of these images."""
    q = np.bincount(labels).max() / len(labels)
    return float((accuracy - q) / (1 - q)) if q < 1 else float("nan")


def probe_accuracy(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], *, penalties: Sequence[float] = PENALTIES, seed: int = 0
) -> float:
    """Chance-corrected accuracy on test of multinomial logistic regression on standardised features.

    Args:
        train, test: Features [n, F] and labels [n].
        penalties: Strengths of L2 ÷ number of images, tried on a fifth of train that is held out.
        seed: Of that fifth.

    Raises:
        ShapeError: Features and labels of different numbers. DataError: fewer than two labels in train.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    for what, (features, labels) in (("train", train), ("test", test)):
        if np.ndim(features) != 2 or len(features) != len(labels):
            raise ShapeError(f"{what}: wanted features [n, F] and labels [n], got {list(np.shape(features))} and {list(np.shape(labels))}")
    features, labels = np.asarray(train[0], dtype=np.float64), np.asarray(train[1])
    if len(np.unique(labels)) < 2:
        raise DataError("a probe needs images of two groups at least")
    mean, spread = features.mean(0), features.std(0)
    scale = np.where(spread > 0, spread, 1)
    features, unseen = (((values - mean) / scale).astype(np.float32) for values in (features, np.asarray(test[0], dtype=np.float64)))
    order = np.random.default_rng(seed).permutation(len(features))
    held, used = order[: len(order) // 5], order[len(order) // 5 :]
    probe, scores = LogisticRegression(max_iter=STEPS, tol=1e-3, warm_start=True), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties on features that tell little; the steps are bounded
        for penalty in sorted(penalties, reverse=True):  # from strong to weak: each begins where the last one ended
            probe.set_params(C=1 / (penalty * len(used))).fit(features[used], labels[used])
            scores[penalty] = probe.score(features[held], labels[held])
        best = max(penalties, key=scores.get)
        probe = LogisticRegression(C=1 / (best * len(order)), max_iter=STEPS, tol=1e-3).fit(features[order], labels[order])
    return chance_corrected(probe.score(unseen, test[1]), np.asarray(test[1]))
