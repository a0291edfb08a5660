"""Classes that are one class by two names: each looks like the other as much as like itself."""

import numpy as np

from hiercnn.diagnose._evidence import Evidence, Finding, ranked
from hiercnn.diagnose._pairs import pairs
from hiercnn.diagnose._registry import detectors

LEAST = 0.25  # scores below are no suspicion


@detectors.register("duplicate_classes")
def duplicate_classes(evidence: Evidence) -> list[Finding]:
    """Pairs of classes by the geometric mean of how much each looks like the other; 1 where the network cannot tell them apart."""
    found = pairs(evidence)
    score = np.sqrt(found.forth * found.back)
    names, titles = evidence.tree.classes, evidence.titles
    return ranked(
        [
            Finding(
                float(score[k]),
                f"images of {titles[i]} look like {titles[j]} {found.forth[k]:.2f} times as much as those of {titles[j]} do,"
                f" and the other way round {found.back[k]:.2f} times",
                classes=(names[i], names[j]),
            )
            for k in np.flatnonzero(score > LEAST)
            for i, j in [(found.first[k], found.second[k])]
        ]
    )
