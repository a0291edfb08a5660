"""Classes whose images belong to another class as well: they look like it, and its images do not look like them."""

import numpy as np

from hiercnn.diagnose._evidence import Evidence, Finding, ranked
from hiercnn.diagnose._pairs import pairs
from hiercnn.diagnose._registry import detectors

LEAST = 0.25  # scores below are no suspicion


@detectors.register("subset_class")
def subset_class(evidence: Evidence) -> list[Finding]:
    """Classes, the narrow one first, by how much the narrow one looks like the broad one, less how much the broad one looks like it."""
    found = pairs(evidence)
    score = np.abs(found.forth - found.back)
    names, titles = evidence.tree.classes, evidence.titles
    findings = []
    for k in np.flatnonzero(score > LEAST):
        narrow, broad, much, little = found.first[k], found.second[k], found.forth[k], found.back[k]
        if little > much:
            narrow, broad, much, little = broad, narrow, little, much
        sentence = (
            f"images of {titles[narrow]} look like {titles[broad]} {much:.2f} times as much as those of {titles[broad]} do,"
            f" which look like {titles[narrow]} only {little:.2f} times as much as its own"
        )
        findings.append(Finding(float(score[k]), sentence, classes=(names[narrow], names[broad])))
    return ranked(findings)
