"""Differences of pairs, convergence and gap, each against a plain way to get them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hiercnn.compare import epochs_to_target, paired_difference, train_val_gap
from hiercnn.compare._statistics import final_accuracy, smoothed_val, spread

shares = st.floats(0, 1)
pairs = st.lists(st.tuples(shares, shares), min_size=2, max_size=8).filter(lambda rows: len({round(a - b, 6) for a, b in rows}) > 1)


class Curve:
    """A run that has nothing but val leaf accuracies."""

    def __init__(self, *values, every=1, subset=0.9):
        self.metrics = [
            {"epoch": (i + 1) * every, "val": {"accuracy": {"leaf": value}}, "train_subset": {"accuracy": {"leaf": subset}}}
            for i, value in enumerate(values)
        ]


@given(pairs)
def test_interval_is_that_of_the_paired_t_test(rows):
    ours, baseline = map(list, zip(*rows, strict=True))
    result = paired_difference(ours, baseline)
    interval = stats.ttest_rel(ours, baseline).confidence_interval(0.95)
    assert result["mean"] == pytest.approx(np.mean(ours) - np.mean(baseline), abs=1e-9)
    assert result["interval"] == pytest.approx([interval.low, interval.high], abs=1e-6)
    assert result["pairs"] == len(rows)


def test_a_single_pair_has_no_interval():
    assert paired_difference([0.75], [0.5]) == {"mean": 0.25, "pairs": 1, "interval": None}


def test_target_is_reached_by_the_median_of_three():
    run = Curve(0.1, 0.9, 0.2, 0.6, 0.5, 0.7)  # medians of three from epoch 3 on: 0.2, 0.6, 0.5, 0.6
    assert smoothed_val(run) == [(3, 0.2), (4, 0.6), (5, 0.5), (6, 0.6)]
    assert epochs_to_target(run, 0.6) == 4
    assert epochs_to_target(run, 0.5) == 4
    assert epochs_to_target(run, 0.2) == 3
    assert epochs_to_target(run, 0.61) is None


def test_epochs_are_those_that_were_evaluated():
    assert epochs_to_target(Curve(0.1, 0.5, 0.6, 0.7, every=2), 0.6) == 8


def test_two_epochs_have_no_median_of_three():
    assert smoothed_val(Curve(0.1, 0.2)) == []


def test_gap_is_read_at_the_last_epoch():
    assert train_val_gap(Curve(0.1, 0.5, subset=0.75)) == pytest.approx(0.25)


def test_final_accuracy_prefers_test():
    run = Curve()
    run.end = {"val": {"accuracy": {"leaf": 0.1}}}
    assert final_accuracy(run) == {"leaf": 0.1}
    run.end["test"] = {"accuracy": {"leaf": 0.2}}
    assert final_accuracy(run) == {"leaf": 0.2}


def test_spread_is_the_sample_deviation():
    assert spread([0.1, 0.3]) == {"mean": pytest.approx(0.2), "sd": pytest.approx(0.02**0.5)}
    assert spread([0.1]) == {"mean": pytest.approx(0.1), "sd": None}
