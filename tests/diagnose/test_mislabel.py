"""Wrong labels: the odds against a plain loop, known rankings, planted faults."""

import numpy as np
import pytest
from evidence import FLAT, TREE, judged, right
from hypothesis import given
from hypothesis import strategies as st
from random_trees import several_classes, trees

from hiercnn.diagnose import detectors, mislabel, slip_odds
from hiercnn.errors import RecipeError


def odds_by_loop(row: np.ndarray, label: int, tree, nearness: float) -> float:
    """log Σ_{j≠y} p_j P(y | j) − log p_y, P(y | j) ∝ (classes that part from j where y does)^−nearness."""

    def fellows(one: int, other: int) -> int:
        meet = tree.lca(tree.leaf_nodes[one], tree.leaf_nodes[other])
        return sum(tree.lca(tree.leaf_nodes[one], tree.leaf_nodes[each]) == meet for each in range(tree.num_classes) if each != one)

    total = 0.0
    for other in range(tree.num_classes):
        if other != label:
            weights = [fellows(other, each) ** -nearness for each in range(tree.num_classes) if each != other]
            total += row[other] * fellows(other, label) ** -nearness / sum(weights)
    return np.log(total) - np.log(row[label])


@pytest.mark.long
@given(trees().filter(several_classes), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_odds_are_those_of_a_plain_loop(tree, seed, nearness):
    rng = np.random.default_rng(seed)
    probabilities, labels = rng.dirichlet(np.ones(tree.num_classes), size=3), rng.integers(0, tree.num_classes, 3)
    found = slip_odds(probabilities, labels, tree, nearness=nearness)
    wanted = [odds_by_loop(row, label, tree, nearness) for row, label in zip(probabilities, labels, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_without_the_tree_the_odds_rank_by_the_label_s_probability():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(9) / 3, size=200), rng.integers(0, 9, 200)
    odds = slip_odds(probabilities, labels, TREE, nearness=0)
    assert np.argsort(odds).tolist() == np.argsort(-probabilities[np.arange(200), labels]).tolist()


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(9), size=50), rng.integers(0, 9, 50)
    whole = slip_odds(probabilities, labels, TREE)
    monkeypatch.setattr("hiercnn.diagnose._mislabel.BLOCK", 30)
    np.testing.assert_array_equal(slip_odds(probabilities, labels, TREE), whole)


def test_a_planted_fault_comes_first_and_says_why():
    evidence = judged(TREE, *right(TREE), ("cat", {"bus": 0.9, "cat": 0.01}), ("cat", {"dog": 0.5, "cat": 0.3}))
    first, second = mislabel(evidence)
    assert (first.image, first.classes, second.image) == (36, ("cat", "bus"), 37)
    assert first.sentence == "labelled cat (1.00%), but looks like bus (90.0%); the two have no group in common"
    assert second.sentence.endswith("both are pet")


def test_a_slip_to_a_sibling_is_likelier_the_more_so_with_nearness():
    evidence = judged(TREE, ("cat", {"dog": 0.8, "cat": 0.1}), ("cat", {"saw": 0.8, "cat": 0.1}))
    gaps = []
    for nearness in (0.0, 0.5, 1.0):
        score = {finding.image: finding.score for finding in mislabel(evidence, nearness=nearness)}
        gaps.append(score[0] - score[1])
    assert gaps[0] == pytest.approx(0)
    assert 0 < gaps[1] < gaps[2]


def test_the_margin_is_the_difference_times_the_distance():
    evidence = judged(TREE, ("cat", {"dog": 0.6, "cat": 0.2}), ("cat", {"saw": 0.5, "cat": 0.3}))
    assert [(f.image, pytest.approx(f.score)) for f in mislabel(evidence, score="margin")] == [(1, 0.2), (0, 0.4 / 3)]


def test_right_predictions_are_no_suspicion_and_flat_trees_will_do():
    assert mislabel(judged(TREE, *right(TREE))) == []
    assert len(mislabel(judged(FLAT, ("cat", {"car": 0.7})))) == 1


@pytest.mark.parametrize(("options", "said"), [({"nearness": 2}, "nearness"), ({"score": "odd"}, "score")])
def test_options_are_checked(options, said):
    with pytest.raises(RecipeError, match=f"mislabel: {said}"):
        detectors["mislabel"](judged(FLAT, ("cat", {"car": 0.7})), **options)
