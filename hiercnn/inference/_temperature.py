"""Temperature scaling: one number by which logits are divided, so that probabilities are as large as the answers are right."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hiercnn.errors import DataError
from hiercnn.hierarchy import Hierarchy
from hiercnn.losses import CrossEntropy
from hiercnn.ops import check_floats, check_target
from hiercnn.settings import Settings

PRIOR_SD = math.log(2)  # of log T
SEARCHED = math.log(1000)  # largest |log T|; the prior keeps it far below unless logits are all but equal
BLOCK = 2**22  # logits in one block
NOTE = "no label speaks against more confidence, so that nothing but the prior holds the temperature"


class Temperature(Settings):
    """A fitted temperature.

    Attributes:
        value: T; logits are to be divided by it.
        images: Number of images it was fitted on.
        nll_before, nll_after: Mean −log of the label's probability, in nats, of the logits as they are and divided by T.
        note: What the reader should know, or nothing.
    """

    value: float
    images: int
    nll_before: float | None = None
    nll_after: float | None = None
    note: str = ""


def fit_temperature(logits: Tensor, labels: Tensor, hierarchy: Hierarchy | None = None) -> Temperature:
    """The T that minimises Σ −log p_label(z / T) + (log T)² / (2 log² 2).

    The second term is a prior that weighs as much as a few images: where all labels are right, or there is one class alone, the
    likelihood has no optimum at a finite T, and of a handful of images none that means much.

    Args:
        logits: Leaf scores [B, C], or those of a head [B, K].
        labels: Class of each image [B], int64, or with `hierarchy` an inner node, whose probability is that of all its classes.
        hierarchy: Says what labels of C and more are.

    Raises:
        ShapeError: Logits or labels of another size, type or device. DataError: no images, labels that do not exist, NaN logits.

    Source: Guo et al., "On calibration of modern neural networks" (ICML 2017); the prior is ours.
    """
    from scipy.optimize import minimize_scalar

    check_images(logits, labels, hierarchy)
    nll = CrossEntropy(hierarchy, inner_labels=True).to(logits.device) if bool((labels >= logits.shape[1]).any()) else None
    before = _total(nll, logits, labels, 1.0)
    if not math.isfinite(before):
        raise DataError("logits: some are NaN or infinite, so that labels have no probability; look at the network or its input")
    found = minimize_scalar(
        lambda log_t: _total(nll, logits, labels, math.exp(log_t)) + log_t**2 / (2 * PRIOR_SD**2),
        bounds=(-SEARCHED, SEARCHED),
        method="bounded",
        options={"xatol": 1e-4},
    )
    value, count = math.exp(found.x), len(labels)
    after, sharper = (_total(nll, logits, labels, t) for t in (value, value / 4))
    note = "" if sharper > after else NOTE
    return Temperature(value=value, images=count, nll_before=before / count, nll_after=after / count, note=note)


def check_images(logits: Tensor, labels: Tensor, hierarchy: Hierarchy | None) -> None:
    """Raise ShapeError or DataError unless there are images, a row of logits and a known label each."""
    check_floats("logits", logits, ("class", hierarchy.num_classes if hierarchy else None))
    check_target(labels, logits)
    if not len(labels):
        raise DataError("calibration needs images; the split is empty")
    known = hierarchy.num_nodes if hierarchy else logits.shape[1]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= known:
        raise DataError(f"labels: wanted 0 to {known - 1}, got {low if low < 0 else high}; leave such images out")


@torch.no_grad()
def _total(nll: CrossEntropy | None, logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Σ −log p_label(z / T) over all images, in nats."""
    size, total = max(1, BLOCK // logits.shape[1]), 0.0
    for scores, those in zip(logits.split(size), labels.split(size), strict=True):
        scores = (scores if scores.dtype == torch.float64 else scores.float()) / temperature
        if nll is None:
            total += float(F.cross_entropy(scores, those, reduction="none").double().sum())
        else:
            total += float(sum(terms.double().sum() for terms in nll.terms(scores, those).values()))
    return total
