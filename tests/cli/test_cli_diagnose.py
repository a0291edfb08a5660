"""`hiercnn diagnose`."""

import csv
import io
import json

import pytest
from train.tiny import tiny

from hiercnn import fit
from hiercnn.diagnose import detectors


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tiny("epochs=1"), run_dir=tmp_path_factory.mktemp("diagnose") / "run")


def test_a_table_for_every_detector(command, run):
    code, out, err = command("diagnose", run.path, "--top", 2)
    assert code == 0
    assert "images of test, held out, last weights, " in out
    assert all(f"{name}: " in out for name in detectors)
    assert "labelled " in out
    assert "mislabel.csv" in err
    assert (run.path / "diagnose" / "test" / "mislabel.csv").exists()


def test_where_classes_are_suspected_there_is_no_column_of_images(command, run, tmp_path):
    heads = {}
    for name in ("duplicate_classes", "mislabel"):
        _, out, _ = command("diagnose", run.path, "--detector", name, "--top", 1, "--out", tmp_path)
        heads[name] = [cell.strip() for line in out.splitlines() if " score " in line for cell in line.strip("┃ ").split("┃")]
    assert heads == {"duplicate_classes": ["score", "why"], "mislabel": ["score", "image", "why"]}


def test_a_detector_without_suspicions_has_no_table(command, run, tmp_path):
    code, out, _ = command("diagnose", run.path, "--detector", "multi_object", "--out", tmp_path)
    assert code == 0
    assert out.splitlines()[1:] == ["multi_object: 0 suspicions"]


def test_csv_and_json_hold_the_worst(command, run, tmp_path):
    options = ("--side", "val", "--detector", "mislabel", "--detector", "multi_object", "--top", 3, "--out", tmp_path)
    code, out, _ = command("diagnose", run.path, *options, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["rank"] for row in rows if row["detector"] == "mislabel"] == ["1", "2", "3"]
    assert {row["split"] for row in rows} == {"val"}
    with open(tmp_path / "mislabel.csv", newline="", encoding="utf-8") as file:
        whole = list(csv.DictReader(file))
    assert [{"detector": "mislabel"} | row for row in whole[:3]] == [row for row in rows if row["detector"] == "mislabel"]
    _, out, _ = command("diagnose", run.path, *options, "--format", "json")
    found = json.loads(out)
    assert [row["sentence"] for row in found["faults"]["mislabel"]] == [row["sentence"] for row in whole[:3]]
    assert found["split"] == "val"


def test_folds_are_trained_and_told(command, run):
    code, out, err = command("diagnose", run.path, "--folds", 2, "--detector", "mislabel", "--top", 1)
    assert code == 0
    assert "180 images of train, out of 2 folds" in out
    assert "fold 2 of 2 is trained" in err
    assert (run.path / "folds" / "2" / "1" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--side", "train"), "judge train out of fold: folds=5 (--folds 5)"),
        (("--folds", 2, "--weights", "best"), "not with 'best'; leave one of the two out"),
        (("--detector", "mislabels"), "did you mean 'mislabel'"),
        (("--format", "xml"), "--format: wanted table, csv, json, got 'xml'"),
    ],
)
def test_what_cannot_be_is_told(command, run, options, said):
    code, _, err = command("diagnose", run.path, *options)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
