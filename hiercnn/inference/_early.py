"""How sure a hypernym head must be to answer before the network has come to its end."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hiercnn.errors import DataError, RecipeError
from hiercnn.hierarchy import Cut
from hiercnn.inference._calibrate import choose_threshold
from hiercnn.settings import Settings


class ExitCalibration(Settings):
    """What `calibrate_exit` found; plain numbers, for JSON.

    Attributes:
        threshold: Probability of the head's best group from which on images leave early; None if no threshold keeps the promise.
        loss: Promised largest share of images that leaving early makes wrong. confidence: probability with which the promise holds.
        early: Share of the calibration images that leave early.
        made_wrong: Share of them that leaving makes wrong. made_right: share that it makes right.
        right: Share of right groups, by head or network. whole: the same if all images went to the end.
        images: How many calibration images there were.
    """

    threshold: Annotated[float, Field(ge=0, le=1)] | None
    loss: float
    confidence: float
    early: float
    made_wrong: float
    made_right: float
    right: float
    whole: float
    images: int


@torch.no_grad()
def calibrate_exit(
    head: Tensor, leaf: Tensor, labels: Tensor, cut: Cut, *, loss: float = 0.01, confidence: float = 0.95
) -> ExitCalibration:
    """The lowest confidence at which images may leave at a head, so that a promised share at most becomes wrong by it.

    Only images whose group the whole network gets right count as made wrong, so nothing is promised of how often it is right. More leave
    at lower thresholds, never fewer: these are tested from 1 down, as `calibrate` tests its own.

    Args:
        head: The head's logits [B, K]. leaf: leaf logits [B, C], whose sums are the network's own answer.
        labels: Labels [B], int64; those without a group at the cut are left out.
        loss: Share of images that may be made wrong, over 0 and below 1.
        confidence: With what probability over calibration images, over 0 and below 1.

    Raises:
        RecipeError: Shares out of range. DataError: no image with a group.

    Source: Angelopoulos et al., "Learn then test: calibrating predictive algorithms to achieve risk control" (2021).
    """
    for name, share in (("loss", loss), ("confidence", confidence)):
        if not 0 < share < 1:
            raise RecipeError(f"{name}: wanted a share over 0 and below 1, got {share!r}")
    wanted = torch.tensor(cut.label_groups)[labels.cpu()]
    known = wanted >= 0
    if not known.any():
        raise DataError(f"no image has a group of the cut '{cut.name}', so no early exit can be calibrated on them")
    wanted, head, leaf = wanted[known], head.cpu()[known], leaf.cpu()[known]
    sums = leaf.new_zeros(len(leaf), len(cut)).index_add_(1, torch.tensor(cut.groups), leaf.float().softmax(1))
    by_head, by_network = head.argmax(1) == wanted, sums.argmax(1) == wanted
    sure = head.float().softmax(1).amax(1)
    points = torch.where(~by_head & by_network, sure.double(), -1.0)
    threshold = choose_threshold(points.numpy(), 1 - loss, confidence)
    early = sure >= (2.0 if threshold is None else threshold)
    return ExitCalibration(
        threshold=threshold,
        loss=loss,
        confidence=confidence,
        early=early.double().mean(),
        made_wrong=(early & ~by_head & by_network).double().mean(),
        made_right=(early & by_head & ~by_network).double().mean(),
        right=torch.where(early, by_head, by_network).double().mean(),
        whole=by_network.double().mean(),
        images=len(wanted),
    )
