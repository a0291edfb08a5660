"""The claims about class hierarchies in networks, as numbers of one run beside those of random groups of the same sizes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hiercnn.dynamics._figures import Story
from hiercnn.dynamics._hypernyms import first_reaching
from hiercnn.dynamics._measure import LEAF, LOGITS, TREE

COLLAPSING = ("nc1", "trace_ratio", "equinorm", "equiangular", "max_angle", "nc3", "nc4")


class Finding(NamedTuple):
    """One number that speaks for or against a claim.

    Attributes:
        claim: A1: confusions form nested blocks. A2: early layers hold coarse groups apart before late layers hold the classes apart.
            B1: hypernyms are learnt before hyponyms. B2: the learnt tree aligns with the given one. B3: some properties of neural collapse
            come earlier in hypernym space. (A: Bilal et al., TVCG 2018; B: Malashin et al., AISTATS 2025.)
        what: What was measured, cut included.
        value: Of the true groups.
        against: What it has to beat: the same of random groups of the same sizes, or of the classes; the other end of their 5–95 % band
            where there is one.
        supported: Whether it does; None where one of both is not defined.
    """

    claim: str
    what: str
    value: float
    against: float
    supported: bool | None


def findings(story: Story) -> list[Finding]:
    """All numbers for the claims A1, A2, B1, B2 and B3 that the moments of one run give. Times are in epochs."""
    return [*_blocks(story), *_layers(story), *_order(story), *_trees(story), *_collapse(story)]


def _blocks(story: Story) -> list[Finding]:
    curves = {cut.name: story.curve(LOGITS, cut.name, "lift") for cut in story.cuts}
    return [
        _larger("A1", f"errors inside {name} ÷ chance, at the end, against random groups", curve["value"][-1], curve["random_high"][-1])
        for name, curve in curves.items()
    ]


def _layers(story: Story) -> list[Finding]:
    """Where the coarsest groups are apart in the first layer, and the classes in the last one."""
    coarse, first = story.cuts[0].name, story.layers[0]
    found = []
    for statistic in ("trace_ratio", "probe"):
        curves = [story.curve(*at, statistic) for at in ((first, coarse), (story.layers[-1], LEAF))]
        if all(curves):
            times = [_time(story, curve["value"], 0.9, way=True) for curve in curves]
            found.append(_smaller("A2", f"t90 of {coarse} in {first} ({statistic}), against that of the classes in the last layer", *times))
    random = story.curve(first, coarse, "trace_ratio")
    times = [_time(story, random[key], 0.9, way=True) for key in ("value", "random_mean")]
    return [*found, _smaller("A2", f"t90 of {coarse} in {first} (trace_ratio), against random groups", *times)]


def _order(story: Story) -> list[Finding]:
    found, leaf = [], story.curve(LOGITS, LEAF, "greedy")["value"]
    half = first_reaching(np.array(leaf), 0.5)
    for cut in story.cuts:
        greedy, lift = story.curve(LOGITS, cut.name, "greedy"), story.curve(LOGITS, cut.name, "lift")
        times = [_time(story, greedy[key], 0.8) for key in ("value", "random_mean")]
        found.append(_smaller("B1", f"t80 of accuracy of {cut.name}, against random groups", *times))
        above = [_time(story, story.curve(LOGITS, each, "corrected")["value"], 0.8) for each in (cut.name, LEAF)]
        found.append(_smaller("B1", f"t80 of accuracy above chance of {cut.name}, against the classes", *above))
        if half is not None:
            what = f"right {cut.name} among wrong classes ÷ chance, at half the last leaf accuracy, against random groups"
            found.append(_larger("B1", what, lift["value"][half], lift["random_high"][half]))
    return found


def _trees(story: Story) -> list[Finding]:
    correlation, p = (story.curve(story.layers[-1], TREE, statistic) for statistic in ("pearson", "p"))
    what = "correlation of the last layer's tree with the given one, against before training"
    nearer = _larger("B2", what, correlation["value"][-1], correlation["value"][0])
    if not p:
        return [nearer]
    likely = _smaller("B2", "p of Mantel's test of it, against 0.05", p["value"][-1], 0.05)
    return [nearer._replace(supported=nearer.supported and likely.supported), likely]  # nearer by luck is not nearer


def _collapse(story: Story) -> list[Finding]:
    found = []
    for cut in story.cuts:
        for statistic in COLLAPSING:
            curve = story.curve(story.layers[-1], cut.name, statistic)
            times = [_time(story, curve[key], 0.9, way=True) for key in ("value", "random_mean")] if curve else []
            if curve:
                found.append(_smaller("B3", f"t90 of {statistic} of {cut.name}, against random groups", *times))
    return found


def _time(story: Story, values: Sequence[float], share: float, *, way: bool = False) -> float:
    """Epoch at which a curve has come so far; NaN where it never moves."""
    at = first_reaching(np.array(values), share, from_start=way)
    return float("nan") if at is None else story.epochs[at]


def _larger(claim: str, what: str, value: float, against: float) -> Finding:
    return Finding(claim, what, value, against, None if np.isnan([value, against]).any() else bool(value > against))


def _smaller(claim: str, what: str, value: float, against: float) -> Finding:
    return Finding(claim, what, value, against, None if np.isnan([value, against]).any() else bool(value < against))
