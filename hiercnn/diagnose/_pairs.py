"""How much the images of one class look like another class."""

from typing import NamedTuple

import numpy as np

from hiercnn.diagnose._evidence import Evidence


class Pairs(NamedTuple):
    """Pairs of classes, each once [M].

    Attributes:
        first, second: Classes, first < second.
        forth: How much images of the first look like the second, by how much those of the second do; 1 if just as much.
        back: The same the other way round.
    """

    first: np.ndarray
    second: np.ndarray
    forth: np.ndarray
    back: np.ndarray


def pairs(evidence: Evidence) -> Pairs:
    """All pairs of classes with images. With R_ij the mean probability of class j over the images of i, forth is R_ij / (R_jj + 1/C).

    A rarely predicted class is recognised rarely as itself, so counting confusions alone would miss it.
    """
    classes = np.flatnonzero(evidence.counts)
    rates = evidence.mass[np.ix_(classes, classes)] / evidence.counts[classes, None]
    containment = rates / (np.diag(rates) + 1 / evidence.tree.num_classes)
    first, second = np.triu_indices(len(classes), 1)
    return Pairs(classes[first], classes[second], containment[first, second], containment[second, first])
