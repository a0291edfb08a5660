"""Claims as numbers: curves that are made to support or to contradict them."""

import numpy as np
import pytest
from dynamics.test_dynamics_figures import LAYERS, STEPS, story

from hiercnn.dynamics import LAST, LEAF, LOGITS, TREE, Row, findings


def told(rows: dict[tuple[str, str, str], tuple], base=None) -> dict[str, list]:
    """Findings by claim of a story whose curves of these keys are replaced: (values [T], means of random groups [T])."""
    base = base or with_p(story())
    kept = [row for row in base.rows if row[2][:3] not in rows]
    for key, (values, means) in rows.items():
        for step, value, mean in zip(STEPS, values, means, strict=True):
            kept.append((-(-step // 8), step, Row(*key, value, mean, mean - 0.01, mean + 0.01)))
    found: dict[str, list] = {}
    for each in findings(base._replace(rows=kept)):
        found.setdefault(each.claim, []).append(each)
    return found


def with_p(plain):
    extra = [(-(-step // 8), step, Row(LAST, TREE, "p", 0.001)) for step in STEPS]
    return plain._replace(rows=[*plain.rows, *extra])


EARLY, LATE = [0.0, 0.5, 0.9, 1.0, 1.0, 1.0], [0.0, 0.1, 0.2, 0.4, 0.7, 1.0]


def test_every_claim_is_told_of_every_cut():
    found = told({})
    assert {claim: len(several) for claim, several in found.items()} == {"A1": 2, "A2": 2, "B1": 6, "B2": 2, "B3": 14}


@pytest.mark.parametrize(("lift", "wanted"), [(3.0, True), (1.005, False), (0.5, False)])
def test_blocks_need_more_errors_inside_than_random_groups_have(lift, wanted):
    found = told({(LOGITS, "3 groups", "lift"): ([lift] * 6, [1.0] * 6)})["A1"][0]
    assert (found.value, found.against, found.supported) == (lift, pytest.approx(1.01), wanted)


@pytest.mark.parametrize(("true", "random", "wanted"), [(EARLY, LATE, True), (LATE, EARLY, False), (EARLY, EARLY, False)])
def test_hypernyms_must_come_before_random_groups_do(true, random, wanted):
    found = told({(LOGITS, "9 groups", "greedy"): (true, random)})["B1"][3]
    assert found.what.startswith("t80 of accuracy of 9 groups")
    assert found.supported is wanted
    assert found.value == (0.25 if true is EARLY else 2.0)


@pytest.mark.parametrize(("coarse", "leaf", "random", "wanted"), [(EARLY, LATE, LATE, True), (LATE, EARLY, EARLY, False)])
@pytest.mark.parametrize("sign", [1, -1], ids=["growing", "falling"])
def test_early_layers_must_hold_groups_apart_before_the_last_one_does_the_classes(coarse, leaf, random, wanted, sign):
    rows = {
        (LAYERS[0], "3 groups", "trace_ratio"): (sign * np.array(coarse), sign * np.array(random)),
        (LAST, LEAF, "trace_ratio"): (sign * np.array(leaf), sign * np.array(leaf)),
    }
    classes, groups = told(rows)["A2"]
    assert (classes.supported, groups.supported) == (wanted, wanted)
    assert sorted([classes.value, classes.against]) == [0.25, 2.0]  # t90 in epochs


def test_probes_are_told_beside_the_ratio_where_there_are_some():
    rows = {(LAYERS[0], "3 groups", "probe"): (EARLY, [np.nan] * 6), (LAST, LEAF, "probe"): (LATE, [np.nan] * 6)}
    _, probe, _ = told(rows)["A2"]
    assert "(probe)" in probe.what
    assert (probe.value, probe.against, probe.supported) == (0.25, 2.0, True)


@pytest.mark.parametrize(("last", "p", "wanted"), [(0.8, 0.001, [True, True]), (-0.5, 0.4, [False, False])])
def test_the_learnt_tree_must_come_closer(last, p, wanted):
    curve = np.linspace(0.1, last, 6)
    rows = {(LAST, TREE, "pearson"): (curve, [np.nan] * 6), (LAST, TREE, "p"): ([p] * 6, [np.nan] * 6)}
    assert [found.supported for found in told(rows)["B2"]] == wanted


def test_what_never_moves_supports_nothing():
    rows = {(LAST, "3 groups", "nc1"): ([1.0] * 6, LATE)}
    found = next(found for found in told(rows)["B3"] if "nc1 of 3 groups" in found.what)
    assert np.isnan(found.value)
    assert found.supported is None
