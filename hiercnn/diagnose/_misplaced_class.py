"""Classes that hang at the wrong place of the tree: confused with the classes of another group rather than with their siblings."""

import numpy as np

from hiercnn.diagnose._evidence import Evidence, Finding, ranked
from hiercnn.diagnose._groups import group_titles, top_groups
from hiercnn.diagnose._registry import detectors

SMOOTHING = 0.1  # of what a class has with another by chance, added to both sides


@detectors.register("misplaced_class")
def misplaced_class(evidence: Evidence) -> list[Finding]:
    """Classes with more in common with the classes of another group than with those below their own parent.

    What class c has in common with a class j is Σ p_j over the images of c plus Σ p_c over those of j. The score is the log of its mean
    over the classes of the best other group over its mean over the siblings; only classes with siblings and images are judged.

    Raises:
        HierarchyError: A tree without groups.
    """
    top_groups(evidence.tree)
    shared = _shared(evidence)
    groups, sizes, classes = evidence.parents.groups, evidence.parents.sizes, np.arange(len(shared))
    others = np.tile(sizes.astype(float), (len(shared), 1))
    others[classes, groups] -= 1
    total = np.maximum(shared.sum(1, keepdims=True), 1e-12)
    affinity = shared / total / np.maximum(others, 1) + SMOOTHING / max(len(shared) - 1, 1)
    own = affinity[classes, groups]
    affinity[classes, groups] = 0
    best = affinity.argmax(1)
    score = np.log(affinity[classes, best] / own)
    judged = np.flatnonzero((sizes[groups] > 1) & (evidence.counts > 0) & (score > 0))
    shares = shared / total
    return ranked([_finding(evidence, c, float(score[c]), int(best[c]), shares[c]) for c in judged])


def _shared(evidence: Evidence) -> np.ndarray:
    """What each class has in common with the classes of each group, itself left out [C, K]."""
    both = evidence.mass + evidence.mass.T
    np.fill_diagonal(both, 0)
    return both @ np.eye(len(evidence.parents))[evidence.parents.groups]


def _finding(evidence: Evidence, label: int, score: float, group: int, shares: np.ndarray) -> Finding:
    names, own = group_titles(evidence.tree, evidence.parents), evidence.parents.groups[label]
    sentence = (
        f"{evidence.titles[label]} hangs below {names[own]}, with {shares[own]:.0%} of what it is confused with;"
        f" {shares[group]:.0%} lies in {names[group]}"
    )
    return Finding(score, sentence, classes=(evidence.tree.classes[label],), group=evidence.parents.names[group])
