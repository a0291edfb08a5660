"""Images that show two things: the network is torn between the label and a class far from it."""

from typing import Annotated

import numpy as np
from pydantic import Field

from hiercnn.diagnose._evidence import Evidence, Finding, ranked
from hiercnn.diagnose._groups import group_titles, top_groups
from hiercnn.diagnose._registry import detectors
from hiercnn.settings import checked_options


@detectors.register("multi_object")
@checked_options
def multi_object(
    evidence: Evidence, *, together: Annotated[float, Field(gt=0, le=1)] = 0.7, top: Annotated[int, Field(ge=2)] = 5
) -> list[Finding]:
    """Images whose label and prediction are of different top-level groups and have nearly all probability; by that of the label.

    Args:
        together: What the probabilities of label and prediction should exceed together.
        top: The label should be among so many most probable classes.

    Raises:
        HierarchyError: A tree without groups.
    """
    groups = top_groups(evidence.tree)
    labels, best = evidence.labels, evidence.predicted
    above = (evidence.probabilities > evidence.of_label[:, None]).sum(1)
    far = groups.groups[labels] != groups.groups[best]
    torn = np.flatnonzero(far & (above < top) & (evidence.of_label + evidence.of_best > together))
    names, titles, classes = group_titles(evidence.tree, groups), evidence.titles, evidence.tree.classes
    return ranked(
        [
            Finding(
                float(evidence.of_label[i]),
                f"labelled {titles[labels[i]]} ({evidence.of_label[i]:.1%}, {names[groups.groups[labels[i]]]}),"
                f" and looks like {titles[best[i]]} as well ({evidence.of_best[i]:.1%}, {names[groups.groups[best[i]]]})",
                int(i),
                classes=(classes[labels[i]], classes[best[i]]),
            )
            for i in torn
        ]
    )
