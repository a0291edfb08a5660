"""Differences of pairs, convergence and gap, each against a plain way to get them."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hiercnn.compare import area_under_curve, curve, epochs_to_target, gaps_at_equal_nll, paired_difference, train_val_gap
from hiercnn.compare._statistics import final_accuracy, smoothed_val, spread

shares = st.floats(0, 1)
pairs = st.lists(st.tuples(shares, shares), min_size=2, max_size=8).filter(lambda points: len({round(a - b, 6) for a, b in points}) > 1)


def rows(*values, every=1, train=0.9) -> list[dict]:
    """A curve of val leaf accuracies."""
    return [{"epoch": (i + 1) * every, "val": {"leaf": value}, "train_accuracy": train} for i, value in enumerate(values)]


def nlls(*points) -> list[dict]:
    """A curve of (train NLL, val NLL)."""
    return [{"epoch": i + 1, "train_nll": train, "val_nll": val} for i, (train, val) in enumerate(points)]


@given(pairs)
def test_interval_is_that_of_the_paired_t_test(points):
    ours, baseline = map(list, zip(*points, strict=True))
    result = paired_difference(ours, baseline)
    interval = stats.ttest_rel(ours, baseline).confidence_interval(0.95)
    assert result["mean"] == pytest.approx(np.mean(ours) - np.mean(baseline), abs=1e-9)
    assert result["interval"] == pytest.approx([interval.low, interval.high], abs=1e-6)
    assert result["pairs"] == len(points)


def test_a_single_pair_has_no_interval():
    assert paired_difference([0.75], [0.5]) == {"mean": 0.25, "pairs": 1, "interval": None}


def test_target_is_reached_by_the_median_of_three():
    curve = rows(0.1, 0.9, 0.2, 0.6, 0.5, 0.7)  # medians of three from epoch 3 on: 0.2, 0.6, 0.5, 0.6
    assert smoothed_val(curve) == [(3, 0.2), (4, 0.6), (5, 0.5), (6, 0.6)]
    assert epochs_to_target(curve, 0.6) == 4
    assert epochs_to_target(curve, 0.5) == 4
    assert epochs_to_target(curve, 0.2) == 3
    assert epochs_to_target(curve, 0.61) is None


def test_epochs_are_those_that_were_evaluated():
    assert epochs_to_target(rows(0.1, 0.5, 0.6, 0.7, every=2), 0.6) == 8


def test_two_epochs_have_no_median_of_three():
    assert smoothed_val(rows(0.1, 0.2)) == []


def test_gap_is_read_at_the_last_epoch():
    assert train_val_gap(rows(0.1, 0.5, train=0.75)) == pytest.approx(0.25)


# ---- area under the curve -------------------------------------------------------------------------------------------


def test_area_by_hand():
    assert area_under_curve(rows(0.0, 0.4, 0.8)) == pytest.approx(0.4)  # (0.2 + 0.6) / 2
    assert area_under_curve(rows(0.2, 0.2, 0.6, every=3)) == pytest.approx(0.3)  # (0.2 + 0.4) / 2: epochs do not stretch it
    assert area_under_curve(rows(0.3)) == 0.3


def test_area_weighs_epochs_by_their_distance():
    uneven = rows(0.0, 1.0, 1.0)
    uneven[2]["epoch"] = 5  # trapezoids 0.5 · 1 and 1 · 3, over 4 epochs
    assert area_under_curve(uneven) == pytest.approx(3.5 / 4)


@given(st.lists(shares, min_size=2, max_size=9), st.integers(1, 5))
def test_area_is_numpys(values, every):
    epochs = [(i + 1) * every for i in range(len(values))]
    expected = sum((values[i] + values[i + 1]) / 2 * (epochs[i + 1] - epochs[i]) for i in range(len(values) - 1))
    assert area_under_curve(rows(*values, every=every)) == pytest.approx(expected / (epochs[-1] - epochs[0]))
    assert area_under_curve(rows(*values, every=every)) == pytest.approx(np.trapezoid(values, np.linspace(0, 1, len(values))))


# ---- gap at equal train NLL -----------------------------------------------------------------------------------------


def test_gaps_where_both_have_the_lowest_train_nll_that_both_reach():
    ours = nlls((3, 3), (2, 2.5), (1, 2.5))
    baseline = nlls((3, 3), (2.5, 3), (1.5, 4))  # reaches 1.5 at its last epoch; ours halfway between 2 and 1, val NLL 2.5
    assert gaps_at_equal_nll(ours, baseline) == pytest.approx((1.0, 2.5))
    assert gaps_at_equal_nll(baseline, ours) == pytest.approx((2.5, 1.0))


def test_gaps_lie_on_the_line_between_evaluations():
    ours, baseline = nlls((4, 1), (0, 9)), nlls((5, 5), (3, 7))  # ours falls to 3 a quarter of the way, where val NLL is 3
    assert gaps_at_equal_nll(ours, baseline) == pytest.approx((0.0, 4.0))


def test_gaps_are_read_where_train_nll_first_falls_so_low():
    ours = nlls((3, 3), (1, 2), (2, 5), (1, 8))  # rises again, and overfits meanwhile
    assert gaps_at_equal_nll(ours, nlls((2, 2), (1, 1.5))) == pytest.approx((1.0, 0.5))


def test_gaps_at_the_first_evaluation():
    assert gaps_at_equal_nll(nlls((2, 3)), nlls((2, 2.5), (1, 2))) == pytest.approx((1.0, 0.5))


def test_curves_that_do_not_meet_have_no_gaps():
    assert gaps_at_equal_nll(nlls((1, 1), (0.5, 1)), nlls((4, 4), (2, 4))) is None
    assert gaps_at_equal_nll(nlls((4, 4), (2, 4)), nlls((1, 1), (0.5, 1))) is None


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=6))
def test_a_run_beside_itself_has_one_gap(points):
    own, same = gaps_at_equal_nll(nlls(*points), nlls(*points))
    least = min(points)[0]
    assert own == same
    assert own == pytest.approx(next(val for train, val in points if train == least) - least)


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_a_curve_is_read_from_the_epochs():
    event = {
        "epoch": 2,
        "images": 64,
        "seconds": {"train": 1.5, "eval": 0.5},
        "val": {"accuracy": {"3 groups": 0.6, "leaf": 0.4}, "nll": 2.0, "images": 36},
        "train_subset": {"accuracy": {"3 groups": 0.9, "leaf": 0.7}, "nll": 1.0},
    }
    wanted = {
        "epoch": 2,
        "images": 64,
        "seconds": 1.5,
        "val": {"3 groups": 0.6, "leaf": 0.4},
        "val_nll": 2.0,
        "train_accuracy": 0.7,
        "train_nll": 1.0,
    }
    assert curve(SimpleNamespace(metrics=[event])) == [wanted]


def test_final_accuracy_prefers_test():
    run = SimpleNamespace(end={"val": {"accuracy": {"leaf": 0.1}}})
    assert final_accuracy(run) == {"leaf": 0.1}
    run.end["test"] = {"accuracy": {"leaf": 0.2}}
    assert final_accuracy(run) == {"leaf": 0.2}


def test_spread_is_the_sample_deviation():
    assert spread([0.1, 0.3]) == {"mean": pytest.approx(0.2), "sd": pytest.approx(0.02**0.5)}
    assert spread([0.1]) == {"mean": pytest.approx(0.1), "sd": None}
