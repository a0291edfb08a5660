"""Damaged and hostile files that the fuzzer has found: each ends in one of our errors, and none runs anything."""

import io
import json
import os
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from train.tiny import BRANCHES, tiny

from hiercnn import fit
from hiercnn.clustering import ClassStatistics, Dendrogram
from hiercnn.compare import markdown, summarise
from hiercnn.data import data_sets
from hiercnn.dynamics import read_moment, write_moment
from hiercnn.dynamics._moments import Moment
from hiercnn.errors import CheckpointError, DataError, RecipeError, ShapeError
from hiercnn.files import read_arrays
from hiercnn.models import pretrained_config
from hiercnn.models._weights import read_weights
from hiercnn.recipe import Run, class_responses, load_recipe
from hiercnn.recipe._views import kept_responses
from hiercnn.report._evaluations import kept_evaluations
from hiercnn.train import load_weights
from hiercnn.train._checkpoint import load_training_state


class Hostile:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("canary",)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    recipe = tiny(BRANCHES, "epochs=2", "dynamics={random: 1}", "checkpoints.keep=log")
    return fit(recipe, run_dir=tmp_path_factory.mktemp("damaged") / "run")


@pytest.fixture
def run(original, tmp_path) -> Run:
    """A copy to damage."""
    shutil.copytree(original.path, tmp_path / "run")
    return Run(tmp_path / "run")


def packed(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def array(values, header: tuple[bytes, bytes] = (b"", b"")) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue().replace(*header) if header[0] else buffer.getvalue()


ARRAYS = {
    "nothing": b"",
    "no archive": b"PK\x03\x04 no more",
    "an array alone": array(np.zeros(3)),
    "a header that python cannot parse": packed(x=array(np.zeros(3), (b"(3,)", b"(3,("))),
    "a header of another size": packed(x=array(np.zeros(3), (b"(3,)", b"(9,)"))),
    "a pickle": packed(x=array(np.array([Hostile()], dtype=object))),
    "an empty member": packed(x=b""),
}


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
def test_arrays(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.npz is damaged"):
        read_arrays(tmp_path / "x.npz")
    with pytest.raises(DataError, match="does not hold class statistics"):
        ClassStatistics.load(tmp_path / "x.npz")
    assert read_moment(tmp_path / "x.npz") is None
    assert not (tmp_path / "canary").exists()


def test_arrays_of_another_byte_order(tmp_path):
    np.savez(tmp_path / "x.npz", numbers=np.arange(3, dtype=">f8"), names=np.array(["a", "é"], dtype=">U2"))
    found = read_arrays(tmp_path / "x.npz")
    assert torch.from_numpy(found["numbers"]).tolist() == [0, 1, 2]
    assert found["names"].tolist() == ["a", "é"]


def test_arrays_that_are_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read .*: No such file"):
        read_arrays(tmp_path / "x.npz")


def test_a_moment_at_no_step(tmp_path):
    write_moment(tmp_path / "x.npz", Moment(float("inf"), [], {}))
    assert read_moment(tmp_path / "x.npz") is None


@pytest.mark.parametrize("content", [b"PK\x03\x04 no more", packed(stage0=array(np.float64(1))), packed(stage0=array(np.zeros((1, 3))))])
def test_responses_that_are_damaged_are_measured_anew(run, content):
    (run.path / "dynamics" / "means.npz").write_bytes(content)
    assert kept_responses(run) is None
    assert all(len(means) == run.hierarchy.num_classes for means in class_responses(run, images=40).values())


def test_predictions_without_rows(run):
    (run.predictions / "val.npz").write_bytes(packed(labels=array(np.int64(3)), indices=array(np.arange(3))))
    assert "val.npz cannot be read" in kept_evaluations(run, run.hierarchy).problems[0]


# ---- events


def change(run: Run, kind: str, *path, to=None) -> None:
    """Give every event of a kind another value, or none."""
    events = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    for event in events:
        if event["event"] == kind:
            *inner, last = path
            for key in inner:
                event = event[key]
            event.pop(last)
            event.update({} if to is None else {last: to})
    run.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("start", ["channels"], "three"),
        ("start", ["channels"], 10**30),
        ("start", ["steps_per_epoch"], 0),
        ("start", ["digests", "train"], 7),
        ("start", ["mean"], ["x"]),
        ("epoch", ["epoch"], True),
        ("epoch", ["val", "accuracy", "9 groups"], [0.5]),
        ("end", ["seconds", "train"], "long"),
        ("end", ["test", "severity"], {}),
        ("end", ["val", "hd1"], "leaf"),
        ("end", ["test", "hd1"], "leaf"),
        ("end", ["val", "severity"], {}),
    ],
)
def test_events_with_other_values_are_named(run, kind, path, value):
    change(run, kind, *path, to=value)
    with pytest.raises(CheckpointError, match=rf"metrics\.jsonl line \d+ is damaged \({re.escape('.'.join(path))}.*begin the run again"):
        _ = run.events


@pytest.mark.parametrize(
    ("kind", "path", "read"),
    [
        ("start", ["channels"], "channels"),
        ("epoch", ["val", "accuracy", "leaf"], "metrics"),
        ("end", ["seconds"], "end"),
    ],
)
def test_events_that_lack_something_are_named(run, kind, path, read):
    change(run, kind, *path)
    with pytest.raises(CheckpointError, match=rf"is damaged: {kind} without '{'.'.join(path)}'"):
        getattr(run, read)


def test_events_that_are_nested_too_deeply(run):
    run.metrics_file.write_text("[" * 3000 + "\n" + run.metrics_file.read_text())
    with pytest.raises(CheckpointError, match="line 1 is damaged"):
        _ = run.events


@pytest.mark.parametrize("damage", ["a level of another name", "no device", "nothing"])
def test_a_comparison_of_damaged_runs(run, damage):
    file = run.path / "environment.json"
    if damage == "a level of another name":
        change(run, "end", "test", "accuracy", "9 groups")
    else:
        file.write_text("" if damage == "nothing" else json.dumps({**json.loads(file.read_text()), "device": {}}))
    with pytest.raises(CheckpointError, match="is damaged"):
        markdown(summarise({"flat": [run]}, [run.recipe]))


@pytest.mark.parametrize("content", [None, "", "[1]", "[" * 3000])
def test_an_environment_that_is_lost_does_not_stop_a_run(run, content):
    file = run.path / "environment.json"
    file.unlink() if content is None else file.write_text(content)
    run.note_resume({"device": "here"})
    assert json.loads(file.read_text()) == {"device": "here", "resumed": [{"device": "here"}]}


def test_a_log_that_has_vanished_is_not_begun_anew(run):
    run.metrics_file.unlink()
    with pytest.raises(CheckpointError, match=r"cannot write .*metrics\.jsonl: No such file"):
        run.log({"event": "epoch"})
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl has vanished"):
        run.keep_events(1)


# ---- checkpoints


STATES = {
    "no mapping": lambda state: [1],
    "weights that are no tensors": lambda state: state | {"model": dict.fromkeys(state["model"], 0.5)},
    "weights of no names": lambda state: state | {"model": [1]},
    "classes that are no names": lambda state: state | {"classes": [[name] for name in state["classes"]]},
    "a class twice": lambda state: state | {"classes": [*state["classes"], state["classes"][0]]},
    "no optimiser": lambda state: {key: value for key, value in state.items() if key != "optimizer"},
    "an optimiser of other parameters": lambda state: state | {"optimizer": {"state": {}, "param_groups": []}},
    "an epoch before the first": lambda state: state | {"progress": {**state["progress"], "epoch": -1}},
    "an epoch that is no number": lambda state: state | {"progress": {**state["progress"], "epoch": "two"}},
    "sums that are no numbers": lambda state: state | {"progress": {**state["progress"], "sums": {"loss": None}}},
    "progress of another version": lambda state: state | {"progress": {"epochs": 3}},
    "draws of no generator": lambda state: state | {"rng": torch.zeros(3)},
}


@pytest.mark.parametrize("damage", STATES.values(), ids=STATES)
def test_states_of_training(run, damage):
    state = torch.load(run.checkpoints / "state.pt", weights_only=True)
    torch.save(damage(state), run.checkpoints / "state.pt")
    change_to_unfinished(run)
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        fit(run.recipe, run_dir=run.path, resume=True)


def change_to_unfinished(run: Run) -> None:
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    run.metrics_file.write_text("".join(lines[:-1]))


def test_a_state_that_would_run_something(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Hostile()}, run.checkpoints / "state.pt")
    with pytest.raises(CheckpointError, match="it is damaged"):
        load_training_state(run.checkpoints / "state.pt", run.hierarchy)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("facts", [[1], {"classes": 5}, {"classes": [["a"]]}, {"classes": ["a", "a"]}])
def test_weights_of_no_classes(run, facts):
    file = run.checkpoints / "last.safetensors"
    save_file(load_file(file), file, metadata={"hiercnn": json.dumps(facts)})
    with pytest.raises(CheckpointError, match="is damaged: it does not say of which classes it is"):
        load_weights(file, torch.nn.Identity(), run.hierarchy)


@pytest.mark.parametrize("state", [{0: torch.zeros(3)}, {"x": {1: 2}}, [torch.zeros(3)]])
def test_files_that_hold_no_state_dict(state, tmp_path):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(RecipeError, match=r"x\.pth"):
        read_weights(str(tmp_path / "x.pth"))


def test_weights_whose_pickle_ends_early(tmp_path):
    torch.save({"x": torch.zeros(3)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"\x80\x02s." if name.endswith("data.pkl") else content)
    with pytest.raises(RecipeError, match="cannot read weights"):
        read_weights(str(tmp_path / "x.pth"))


# ---- documents


def test_a_config_that_is_nested_too_deeply(tmp_path):
    (tmp_path / "config.json").write_text('{"x":' * 3000)
    with pytest.raises(RecipeError, match=r"no config\.json of a timm model"):
        pretrained_config("resnet_small", f"local-dir:{tmp_path}")


@pytest.mark.long
@pytest.mark.parametrize("text", ["[" * 3000, "x: 2001-99-99", "!!python/object/apply:os.mkdir [canary]"])
def test_a_recipe_of_a_run(run, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run.recipe_file.write_text(text)
    with pytest.raises(CheckpointError, match=r"cannot read recipe\.yaml"):
        _ = run.recipe
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", [{"x": 1}, [1], 5])
def test_names_that_are_no_text(name):
    raw = tiny().plain()
    raw["model"]["heads"] = [{"stage": 0, "cut": 3, "type": name}]
    with pytest.raises(RecipeError, match=r"model\.heads\[0\]\.type"):
        load_recipe(raw)


LONG = "x" * 5000


@pytest.mark.parametrize(
    "override",
    [
        f"model.weights={LONG}",
        f"hierarchy={{file: {LONG}.csv}}",
        f"hierarchy={{folders: {LONG}}}",
        f"hierarchy={{builtin: synthetic, cluster: {{run: {LONG}, groups: [3]}}}}",
        f"data={{name: folder, root: {LONG}, image_size: 16}}",
        f"data={{name: manifest, file: {LONG}, image_size: 16}}",
        f"data={{name: cifar100, root: {LONG}}}",
        f"data={{name: timm, root: {LONG}, image_size: 16}}",
        f"data={{name: timm, root: ., dataset: wds/, classes: {LONG}, image_size: 16}}",
    ],
)
def test_paths_that_are_too_long(override, tmp_path):
    with pytest.raises((RecipeError, DataError)):
        fit(tiny().plain(), overrides=[override], run_dir=tmp_path / "run")


@pytest.mark.parametrize("text", [f"extends: {LONG}", "x: 1"])
def test_recipes_of_names_that_are_too_long(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "x.yaml" if "extends" in text else LONG)


def test_a_list_of_no_classes(tmp_path):
    (tmp_path / "classes.txt").write_text("")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"data\.classes: no names"):
        data_sets["timm"](root=tmp_path, dataset="", train_split="train", classes=str(tmp_path / "classes.txt"))


@pytest.mark.parametrize(
    "merges",
    [
        [[0, 1, 1, 2], [0.5, 3, 2, 3]],
        [[0, 1, float("nan"), 2], [2, 3, 2, 3]],
        [["a", 1, 1, 2], [2, 3, 2, 3]],
        [[0, 1, 1, 2], [2, 3, 2, 2]],  # scipy would write beside its arrays
        [[0, 1, 1, 3], [2, 3, 2, 3]],
        [[0, 1, 1, 2], [0, 3, 2, 3]],
        [[0, 0, 1, 2], [1, 3, 2, 3]],
        [[0, 4, 1, 2], [2, 3, 2, 3]],
    ],
)
def test_linkage_matrices(merges):
    with pytest.raises(ShapeError, match="merges: wanted scipy's linkage matrix"):
        Dendrogram(merges)
