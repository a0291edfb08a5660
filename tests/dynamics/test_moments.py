"""Moments on disk, and what only all of them tell."""

import csv

import numpy as np
import pytest

from hiercnn.dynamics import LAST, LEAF, LOGITS, TREE, Moment, Row, read_moment, times, told, write_moment, write_tables
from hiercnn.hierarchy import from_nested

TREE_OF_SIX = from_nested({"x": {"u": ["a", "b"], "v": ["c", "d"]}, "y": {"w": ["e", "f"]}})
CUT = TREE_OF_SIX.cut(depth=1)
STEPS = [0, 5, 10, 20]
NAN = float("nan")


def moments(curves: dict[tuple[str, str, str], list[float]], seed: int = 0) -> list[Moment]:
    means = np.random.default_rng(seed).normal(size=(len(STEPS), 6, 4))
    return [Moment(step, [Row(*key, values[t]) for key, values in curves.items()], {LAST: means[t]}) for t, step in enumerate(STEPS)]


def story(curves: dict[tuple[str, str, str], list[float]]):
    return told(moments(curves), TREE_OF_SIX, [CUT], per_epoch=5)


def values(found, *key: str) -> list[float]:
    return [row.value for _, _, row in found.rows if row[:3] == key]


def test_a_moment_comes_back_as_it_was(tmp_path):
    (moment, *_) = moments({(LOGITS, LEAF, "greedy"): [0.1, 0.2, 0.3, 0.4], (LAST, CUT.name, "nc1"): [NAN, 1, 1, 1]})
    write_moment(tmp_path / "one.npz", moment, {"images": 5})
    found = read_moment(tmp_path / "one.npz", {"images": 5})
    assert found.step == 0
    np.testing.assert_equal(found.rows, moment.rows)
    assert np.array_equal(found.means[LAST], moment.means[LAST])
    assert read_moment(tmp_path / "one.npz", {"images": 6}) is None
    assert read_moment(tmp_path / "one.npz") is not None


@pytest.mark.parametrize("content", [b"", b"half", None], ids=["empty", "no npz", "cut off"])
def test_what_is_half_written_is_no_moment(tmp_path, content):
    file = tmp_path / "one.npz"
    write_moment(file, moments({})[0])
    file.write_bytes(file.read_bytes()[:200] if content is None else content)
    assert read_moment(file) is None
    assert read_moment(tmp_path / "nothing.npz") is None


def test_relative_accuracy_is_that_of_the_last_moment():
    found = story({(LOGITS, LEAF, "greedy"): [0.1, 0.2, 0.3, 0.4], (LOGITS, CUT.name, "greedy"): [0.2, 0.4, 0.5, 0.5]})
    assert values(found, LOGITS, LEAF, "relative") == pytest.approx([0.25, 0.5, 0.75, 1])
    assert values(found, LOGITS, CUT.name, "relative") == pytest.approx([0.4, 0.8, 1, 1])


def test_nothing_is_relative_to_nothing():
    found = story({(LOGITS, LEAF, "greedy"): [0.1, 0.0, 0.0, 0.0]})
    assert np.isnan(values(found, LOGITS, LEAF, "relative")).all()


def test_the_last_tree_is_its_own():
    found = story({(LOGITS, LEAF, "greedy"): [1, 1, 1, 1]})
    final = values(found, LAST, TREE, "r_final")
    assert final[-1] == pytest.approx(1)
    assert all(abs(value) < 0.999 for value in final[:-1])


def test_accuracy_is_timed_from_nothing_and_layers_from_their_start():
    found = story(
        {
            (LOGITS, LEAF, "greedy"): [0.3, 0.46, 0.85, 1.0],  # t50 at 5 would be missed by 0.04
            (LOGITS, CUT.name, "corrected"): [-0.2, 0.5, 0.8, 1.0],
            (LAST, CUT.name, "trace_ratio"): [9.0, 5.0, 1.8, 1.0],  # 90 % of the way from 9 down to 1 is at 1.8
            (LAST, LEAF, "block_strength"): [0.0, 0.0, 0.0, 0.0],
            (LAST, LEAF, "nc1"): [3.0, 2.0, 1.0, 0.0],
        }
    )
    wanted = {
        (LOGITS, LEAF, "greedy", "t50"): [10, 2],
        (LOGITS, LEAF, "greedy", "t80"): [10, 2],
        (LOGITS, LEAF, "greedy", "t90"): [20, 4],
        (LOGITS, CUT.name, "corrected", "t50"): [5, 1],
        (LOGITS, CUT.name, "corrected", "t80"): [10, 2],
        (LOGITS, CUT.name, "corrected", "t90"): [20, 4],
        (LAST, CUT.name, "trace_ratio", "t90"): [10, 2],
        (LAST, LEAF, "block_strength", "t90"): [None, None],
    }
    assert {tuple(row[:4]): row[4:] for row in times(found)} == wanted


def test_what_is_not_known_at_one_moment_moves_no_other():
    key = (LAST, LEAF, "nc3")
    found = story({(LOGITS, LEAF, "greedy"): [1, 1, 1, 1], key: [NAN, 3.0, 1.0, 0.0]})
    some = found._replace(rows=[row for row in found.rows if not (row[1] == 0 and row[2][:3] == key)])
    for each in (found, some):
        np.testing.assert_equal(each.curve(*key)["value"], [NAN, 3.0, 1.0, 0.0])


def test_curves_that_end_unknown_or_below_chance_have_no_times():
    found = story(
        {
            (LOGITS, CUT.name, "corrected"): [0.1, 0.3, 0.0, -0.1],
            (LAST, CUT.name, "probe"): [0.1, 0.3, NAN, NAN],
        }
    )
    assert {tuple(row[4:]) for row in times(found)} == {(None, None)}


def test_tables_have_every_number(tmp_path):
    found = story({(LOGITS, LEAF, "greedy"): [0.1, 0.2, 0.3, 0.4], (LAST, LEAF, "nc1"): [NAN, 2, 1, 1]})
    write_tables(found, tmp_path)
    with open(tmp_path / "dynamics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows if row["statistic"] == "nc1"] == [("0", "0"), ("1", "5"), ("2", "10"), ("4", "20")]
    assert [row["value"] for row in rows if row["statistic"] == "nc1"] == ["", "2", "1", "1"]
    assert len(rows) == len(found.rows) == 16
    with np.load(tmp_path / "means.npz") as means:
        assert means["steps"].tolist() == STEPS
        assert means[LAST].shape == (4, 6, 4)
