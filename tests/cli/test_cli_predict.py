"""`hiercnn predict`."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file
from train.tiny import tiny

from hiercnn import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tiny("epochs=1"), run_dir=tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_a_table(command, run, photos):
    code, out, err = command("predict", run.path, photos, "--rule", "argmax")
    assert (code, err) == (0, "")
    assert all(f"{number}.png" in out.replace("\n", "") for number in range(3))
    assert out.count("│ leaf") == 3


def test_lines_of_json(command, run, photos):
    rule = ("--rule", "climbing", "--set", "threshold=0.99")
    code, out, _ = command("predict", run.path, photos / "0.png", photos / "2.png", *rule, "--format", "jsonl")
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["id"] for answer in answers] == [str(photos / "0.png"), str(photos / "2.png")]
    assert {answer["level"] for answer in answers} == {"depth 0"}
    assert all(answer["reason"] for answer in answers)


def test_csv(command, run, photos):
    code, out, _ = command("predict", run.path, photos, "--format", "csv", "--batch-size", 2)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert len(rows) == 3
    assert rows[0]["probability"].endswith("%")


def test_unreadable_files_are_listed_at_the_end(command, run, photos, tmp_path):
    (tmp_path / "bad [red].png").write_text("no image")
    code, out, err = command("predict", run.path, photos / "1.png", tmp_path, "--format", "jsonl")
    assert code == 3
    assert len(out.splitlines()) == 1
    assert "bad [red].png: cannot identify image file" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_the_terminal_cannot_show(command, run, photos, tmp_path, monkeypatch, form, encoding):
    name = "β😀\udcff.png"  # a byte that is no UTF-8, as Linux lets file names have
    shutil.copy(photos / "0.png", tmp_path / name)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr("sys.stdout", terminal)
    assert command("predict", run.path, tmp_path, "--rule", "argmax", "--format", form)[0] == 0
    printed = terminal.buffer.getvalue().decode(encoding)
    assert "\\udcff.png" in printed
    assert form != "jsonl" or json.loads(printed)["id"] == str(tmp_path / name)


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "climbng"], "did you mean 'climbing'"),
        (["--format", "xml"], "--format: wanted table, jsonl, csv, got 'xml'"),
        (["--rule", "climbing", "--set", "threshold"], "--set: wanted OPTION=VALUE, got 'threshold'"),
        (["--rule", "climbing", "--set", "threshold=high"], "threshold"),
        (["--rule", "climbing", "--set", "threshold={a: ["], "--set threshold is not valid YAML"),
        (["--weights", "worst"], "worst"),
        (["--device", "quantum"], "'quantum' is no device of torch; use auto, cpu or cuda"),
    ],
)
def test_mistyped(command, run, photos, arguments, message):
    code, _, err = command("predict", run.path, photos, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_missing_files_are_told_before_the_network_is_built(command, run, tmp_path):
    code, _, err = command("predict", run.path, tmp_path / "nothing.png")
    assert code == 2
    assert "there is no file or folder" in err


def test_a_timm_model_takes_the_place_of_a_run(command, photos, tmp_path):
    weights = str(tmp_path / "weights.safetensors")
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    code, out, _ = command("predict", "test_resnet", photos, "--weights", weights, "--set", "threshold=0", "--format", "jsonl")
    assert code == 0
    assert {json.loads(line)["level"] for line in out.splitlines()} == {"leaf"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet5O",), "there is no folder resnet5O, and timm has no such model; did you mean 'resnet50'"),
        (("test_resnet", "--level", "3"), "--level, --budget and --early-loss are for run folders"),
        (("test_resnet", "--weights", "nowhere.pth"), "no weights in nowhere.pth"),
    ],
)
def test_what_is_no_source(command, photos, arguments, message):
    code, _, err = command("predict", arguments[0], photos, *arguments[1:])
    assert code == 2
    assert message in err
