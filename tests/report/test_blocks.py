"""Tables, orders and maps of the linked views."""

import base64
from types import SimpleNamespace

import numpy as np
import pytest
from report.conftest import three_levels

from hiercnn.hierarchy import Hierarchy, builtin, from_classes
from hiercnn.metrics import node_counts
from hiercnn.recipe import Run
from hiercnn.report._blocks import (
    EVALUATIONS,
    _thinned,
    confusion_of,
    folded,
    locality,
    logit_order,
    plain,
    shown_responses,
    standardised,
    view,
)

DTYPES = {"u1": "<u1", "u2": "<u2", "i4": "<i4", "f4": "<f4"}


def unpacked(values: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(values["data"]), DTYPES[values["kind"]]).reshape(values["shape"])


@pytest.fixture(scope="module")
def shown(run):
    return view(run, images=10)


def test_locality_is_the_share_of_errors_inside(shown):
    confusion = confusion_of(shown.last, shown.tree)
    for row, cut in zip(locality(confusion, shown.cuts), shown.cuts, strict=True):
        wrong = shown.last.labels != shown.last.predicted
        inside = cut.groups[shown.last.labels] == cut.groups[shown.last.predicted]
        chance = np.mean([(np.sum(cut.groups == cut.groups[label]) - 1) / 11 for label in shown.last.labels[wrong]])
        assert row["inside"] == pytest.approx(inside[wrong].mean())
        assert row["ratio"] == pytest.approx(inside[wrong].mean() / chance)
        assert row["accuracy"] == pytest.approx(inside.mean())


def test_logit_order_puts_classes_that_go_together_side_by_side():
    groups = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    similarity = np.where(groups[:, None] == groups, 0.9, -0.2)
    order = logit_order(similarity)
    assert sorted(order) == list(range(9))
    assert (np.diff(groups[order]) != 0).sum() == 2


def test_responses_are_standardised_by_channel():
    values = standardised(np.array([[1.0, 5, 2], [3, 5, 4], [5, 5, 9]]))
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(values.std(0), [1, 0, 1])


def test_channels_that_differ_least_are_left_out(monkeypatch):
    monkeypatch.setattr("hiercnn.report._blocks.RESPONSES", 20 * 12)
    responses = np.random.default_rng(0).normal(size=(12, 40))
    responses[0, [7, 30]] = 50
    (kept,) = shown_responses({"late": responses}).values()
    assert kept.shape == (12, 20)
    assert {7, 30} <= set(np.flatnonzero(np.isin(standardised(responses)[0], kept[0])))


def test_plain_values_are_those_of_the_views(shown):
    values = plain(shown, {"test": "test set"})
    last = values["evaluations"][-1]
    counts = node_counts(confusion_of(shown.last, shown.tree), shown.tree)
    for packed, wanted in zip(last["counts"], counts, strict=True):
        np.testing.assert_array_equal(unpacked(packed), wanted)
    assert last["set"] == "test set"
    assert sum(last["profile"]) == (shown.last.labels != shown.last.predicted).sum()
    np.testing.assert_array_equal(unpacked(values["orders"]["tree"]), shown.tree.leaf_order)
    assert [layer["name"] for layer in values["layers"]] == ["stage0", "stage1", "stage2", "penultimate"]
    assert unpacked(values["layers"][0]["values"]).shape == (32, 12)
    np.testing.assert_allclose(unpacked(last["paths"][0])[:, 0] / 254, shown.last.paths[0][:, 0], atol=0.003)


def test_cuts_of_the_views_lie_between_root_and_leaves(shown):
    assert [cut.name for cut in shown.cuts] == ["3 groups", "7 groups"]


def test_few_evaluations_are_all_shown_many_evenly():
    made = [SimpleNamespace(split="val", epoch=epoch) for epoch in range(1, 101)] + [SimpleNamespace(split="test", epoch=100)]
    kept = _thinned(made)
    assert len(kept) == EVALUATIONS + 1
    assert (kept[0].epoch, kept[-2].epoch, kept[-1].split) == (1, 100, "test")
    assert _thinned(made[:10]) == made[:10]


def test_many_classes_are_folded_into_groups():
    tree = Hierarchy(
        ["root", *(f"g{i}" for i in range(50)), *(f"c{i}" for i in range(2500))], [-1, *[0] * 50, *(1 + i // 50 for i in range(2500))]
    )
    cut, (note,) = folded(tree)
    assert len(cut) <= 1000
    assert "2,500 classes are too many for a row each: they are counted as" in note
    assert folded(builtin("cifar100")) == (None, [])
    cut, (note,) = folded(from_classes([f"c{i}" for i in range(2001)]))
    assert cut is None
    assert "the tree has no groups to fold them into" in note


def test_more_classes_than_rows(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("hiercnn.report._blocks.MOST", 10)
    monkeypatch.setattr("hiercnn.report._blocks.FOLDED", 8)
    shown = view(bench.made_run(tmp_path / "run", three_levels(), epochs=2, images=False), images=10)
    assert shown.tree.num_classes == len(shown.fold) <= 8
    assert shown.responses == {}
    assert shown.last.labels.max() < len(shown.fold)
    assert plain(shown, {})["evaluations"][-1]["profile"]


def test_without_predictions_the_page_says_so(bench, tmp_path):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=2, images=False)
    for file in run.predictions.iterdir():
        file.unlink()
    again = f"train it again: hiercnn train {run.path}/recipe.yaml --run-dir …"
    gone = f"which the run has written: put the files back into {run.predictions}, or {again}."
    assert view(run, images=10).notes == [f"No predictions of val.npz and test.npz, {gone}"]
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("predictions: true", "predictions: false"))
    notes = view(Run(run.path), images=10).notes
    assert notes == [f"No predictions: the run was trained with eval.predictions=false; {again} eval.predictions=true."]


def test_predictions_of_one_split_are_gone(bench, tmp_path):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=2, images=False)
    (run.predictions / "test.npz").unlink()
    shown = view(run, images=0)
    assert shown.last.split == "val"
    assert shown.notes[0].startswith("No predictions of test.npz, which the run has written: put the files back into ")
    (run.predictions / "test.npz").write_bytes(b"PK")
    assert view(run, images=0).notes == ["test.npz cannot be read (CheckpointError); it is left out"]
