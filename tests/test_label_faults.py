"""tools/label_faults.py: what it injects, and a row for every detector and fault."""

import csv
from pathlib import Path

import numpy as np
import pytest
from train.tiny import tiny

from hiercnn import fit
from hiercnn.diagnose import inject
from hiercnn.recipe import build_data, build_hierarchy, build_source, to_yaml

pytest.importorskip("cleanlab", reason="needs cleanlab (pip install hiercnn[dev])")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import label_faults

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["label_faults", *map(str, arguments)])
        label_faults.main()

    run.module = label_faults
    return run


@pytest.fixture(scope="module")
def data():
    recipe = tiny("data.render_train=51", "data.render_test=31")
    return build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))


def test_wrong_labels_are_of_two_kinds_and_no_image_is_both(tool, data):
    labels, faults = tool.module.wrong_labels(data.train.labels, data.hierarchy, 0)
    assert {kind: len(images) for kind, images in faults.items()} == {"near": 36, "far": 36}
    every = np.concatenate(list(faults.values()))
    assert sorted(every) == np.flatnonzero(labels != data.train.labels).tolist()


def test_every_class_has_one_fault_at_most(tool, data):
    changed, faults = tool.module.with_faulty_classes(data, 0, 3)
    assert {kind: len(names) for kind, names in faults.items()} == {"split": 3, "widened": 3, "merged": 3}
    named = [name for names in faults.values() for pair in names for name in pair]
    assert len(set(named)) == len(named)
    assert changed.hierarchy.num_classes == 36
    assert np.unique(changed.train.labels).tolist() == list(range(36))


@pytest.mark.long
def test_a_row_for_every_detector_and_fault(tool, tmp_path, capsys):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(to_yaml(tiny("epochs=1", "data.render_train=28")), encoding="utf-8")
    command = (recipe, "optim.lr=0.04", "--folds", 2, "--count", 2, "--out", tmp_path / "runs", "--csv", tmp_path / "faults.csv")
    tool(*command)
    assert "fold 2 of 2 is trained" in capsys.readouterr().out
    tool(*command, "--experiments", "moves")
    assert "fold 2 of 2 is there" in capsys.readouterr().out
    with open(tmp_path / "faults.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["detector"] for row in rows if row["experiment"] == "classes"} == {"duplicate_classes", "subset_class", "homonym_class"}
    named = {row["detector"] for row in rows if row["experiment"] == "labels"}
    assert {"mislabel", "mislabel, margin", "cleanlab self_confidence", "cleanlab confidence_weighted_entropy"} <= named
    same = {row["detector"]: row["average precision"] for row in rows if row["fault"] == "far"}
    assert float(same["mislabel, nearness 0"]) == pytest.approx(float(same["cleanlab self_confidence"]), abs=0.02)
    moves = [row for row in rows if row["experiment"] == "moves"]
    assert moves[0] == moves[1]


def test_copies_and_two_objects_are_in_images_of_their_own(tool, data):
    changed, faults = tool.module.with_copies(data.test, data.train, 0)
    assert set(faults) == {*inject.CHANGES, "label of the original", "another label"}
    every = [copy for change in inject.CHANGES for copy, _ in faults[change]]
    assert len(set(every)) == len(every) == sum(len(faults[label]) for label in ("label of the original", "another label"))
    kept = [copy for copy, original in faults["label of the original"] if changed.labels[copy] == data.train.labels[original]]
    assert len(kept) == len(every) / 2
    changed, faults = tool.module.with_objects(data.test, data.hierarchy, 0)
    assert {layout: len(images) for layout, images in faults.items()} == {"beside": 22, "blended": 22}
    assert len(set(faults["beside"] + faults["blended"])) == 44


def test_of_a_kind_other_faults_are_left_out(tool):
    rows = {row.fault: row.found for row in tool.module.of_kinds("x", "all", [1, 9, 2], {"a": [1], "b": [2, 3]})}
    assert rows["all"].precision == pytest.approx(2 / 3)
    assert (rows["a"].precision, rows["b"].precision) == (1, 0.5)


def test_test_images_of_a_run_are_judged_as_well(tool, tmp_path, capsys):
    run = fit(tiny("epochs=1", "data.render_test=27"), run_dir=tmp_path / "run")
    tool("quickstart/flat", "--seeds", "--runs", run.path, "--count", 2, "--csv", tmp_path / "faults.csv")
    with open(tmp_path / "faults.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert {row[0] for row in rows} == {"5 a class, held out"}
    wanted = {
        "labels": {"near and far", "near", "far"},
        "moves": {"moved"},
        "copies": {"copied", *inject.CHANGES, "label of the original", "another label"},
        "objects": {"two objects", *inject.LAYOUTS},
    }
    assert {(row[1], row[4]) for row in rows} == {(experiment, fault) for experiment, faults in wanted.items() for fault in faults}
    assert {row[8] for row in rows} == {str(36 * 27)}
    assert {row[3] for row in rows if row[1] == "copies"} == {"near_duplicates", "near_duplicates, quantile 0.9"}


def test_mistyped_recipes_are_told(tool, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        tool("cifar100/flatt", "--out", tmp_path)
    assert stopped.value.code == 2
    assert "did you mean 'cifar100/flat'" in capsys.readouterr().err
