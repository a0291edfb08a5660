"""Classes of two meanings: some of their images resemble one group, others one far from it."""

from typing import Annotated

import numpy as np
from pydantic import Field

from hiercnn.diagnose._evidence import Evidence, Finding, ranked
from hiercnn.diagnose._groups import group_titles, top_groups
from hiercnn.diagnose._registry import detectors
from hiercnn.settings import checked_options

TINY = 1e-12


@detectors.register("homonym_class")
@checked_options
def homonym_class(evidence: Evidence, *, share: Annotated[float, Field(gt=0, le=0.5)] = 0.1) -> list[Finding]:
    """Classes whose images disagree about which groups they resemble, each by itself being sure.

    What an image resembles are the probabilities of all classes but its label's, summed by parent and made to sum to 1. The score is the
    mutual information of image and group inside the class, in nats.

    Args:
        share: Of the images, that should resemble a group of another top-level group than most do.

    Raises:
        HierarchyError: A tree without groups.
    """
    top, parents = top_groups(evidence.tree), evidence.parents
    far = top.groups[[np.flatnonzero(parents.groups == group)[0] for group in range(len(parents))]]
    resembled = _resembled(evidence)
    findings = []
    for label in np.flatnonzero(evidence.counts > 1):
        rows = resembled[evidence.labels == label]
        votes = np.bincount(rows.argmax(1), minlength=len(parents))
        one = votes.argmax()
        elsewhere = np.where(far == far[one], 0, votes)
        other = elsewhere.argmax()
        if elsewhere[other] >= share * len(rows):
            score = _entropy(rows.mean(0)) - _entropy(rows).mean()
            findings.append(_finding(evidence, int(label), float(score), (int(one), int(other)), votes))
    return ranked(findings)


def _resembled(evidence: Evidence) -> np.ndarray:
    """Which groups each image resembles, its label's class left out [N, K], rows summing to 1."""
    others = evidence.probabilities.astype(np.float64)
    others[np.arange(len(evidence)), evidence.labels] = 0
    grouped = others @ np.eye(len(evidence.parents))[evidence.parents.groups]
    return grouped / np.maximum(grouped.sum(1, keepdims=True), TINY)


def _entropy(shares: np.ndarray) -> np.ndarray:
    return -(shares * np.log(np.maximum(shares, TINY))).sum(-1)


def _finding(evidence: Evidence, label: int, score: float, groups: tuple[int, int], votes: np.ndarray) -> Finding:
    names = group_titles(evidence.tree, evidence.parents)
    one, other = groups
    sentence = (
        f"of {votes.sum()} images of {evidence.titles[label]}, {votes[one]} resemble {names[one]} most,"
        f" and {votes[other]} resemble {names[other]}, a group far from it"
    )
    return Finding(score, sentence, classes=(evidence.tree.classes[label],))
