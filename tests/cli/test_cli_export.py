"""`hiercnn export`, and `hiercnn predict` with what it has written."""

import json

import numpy as np
import pytest
from PIL import Image
from train.tiny import tiny

from hiercnn import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tiny("epochs=1", "decision={name: climbing, threshold: 0.05}"), run_dir=tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    file = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(file)
    return file


def test_an_exported_folder_takes_the_place_of_the_run(command, run, photo, tmp_path):
    code, out, err = command("export", run.path, "--format", "timm", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{tmp_path / 'out'}: model.safetensors, hiercnn.json, README.md",
        "timm: its decisions are the run's, its logits differ by 0 at most",
    ]
    answers = [json.loads(command("predict", folder, photo, "--format", "jsonl").out) for folder in (run.path, tmp_path / "out")]
    ours, theirs = ({key: value for key, value in each.items() if key not in ("best", "path", "probability")} for each in answers)
    assert ours == theirs
    assert answers[1]["probability"] == pytest.approx(answers[0]["probability"], abs=1e-6)  # layouts in memory round differently
    code, _, err = command("predict", tmp_path / "out", photo, "--weights", "best")
    assert code == 2
    assert "--weights: an exported folder has one network, that of its export; leave out --weights best" in err


def test_the_rule_of_the_command_line(command, run, photo, tmp_path):
    rule = ("--rule", "climbing", "--set", "threshold=1")
    assert command("export", run.path, "--format", "timm", "--out", tmp_path / "out", *rule).code == 0
    found = json.loads(command("predict", tmp_path / "out", photo, "--format", "jsonl").out)
    assert found["level"] == "depth 0"
    changed = command("predict", tmp_path / "out", photo, "--format", "jsonl", "--set", "threshold=0", "--batch-size", 2)
    assert json.loads(changed.out)["level"] == "leaf"


def test_onnx_that_cannot_be_checked_says_so(command, run, tmp_path, monkeypatch):
    from hiercnn.recipe import Exported

    monkeypatch.setattr("hiercnn.recipe.export_run", lambda *_, **__: Exported(tmp_path / "out", "model.onnx", None))
    assert (
        "onnx: not checked: onnxruntime is not installed (pip install hiercnn[export])"
        in command("export", run.path, "--format", "onnx", "--out", tmp_path / "out").out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onx"], "unknown format 'onx'; did you mean 'onnx'?; there are timm, torch, onnx"),
        (["--format", "torch", "--heads", "drop"], "heads: wanted strip or keep, got 'drop'"),
        (["--format", "torch", "--set", "threshold"], "--set: wanted OPTION=VALUE, got 'threshold'"),
    ],
)
def test_mistyped(command, run, tmp_path, arguments, message):
    code, out, err = command("export", run.path, "--out", tmp_path / "out", *arguments)
    assert (code, out) == (2, "")
    assert message in err
