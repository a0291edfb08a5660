"""The run folder: what is in it and when, who may use it, how damage is told."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from train.tiny import BRANCHES, Spy, child, tiny

from hiercnn import Run, fit
from hiercnn.errors import CheckpointError, HierCNNError, Interrupted
from hiercnn.hierarchy import read_cuts, read_hierarchy
from hiercnn.recipe import to_yaml
from hiercnn.train import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A finished run with heads; tests only read it."""
    return fit(tiny(BRANCHES, "name=branches"), run_dir=tmp_path_factory.mktemp("run"))


def test_recipe_and_environment_are_complete_before_step_0(tmp_path):
    seen = {}

    def look(epoch, batch):
        if not seen:
            seen.update({path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()})

    recipe = tiny(BRANCHES)
    fit(recipe, run_dir=tmp_path, display=Spy(look))
    assert yaml.safe_load(seen["recipe.yaml"]) == recipe.plain()
    assert seen["recipe.yaml"] == to_yaml(recipe)
    assert json.loads(seen["environment.json"])["seed"] == 0
    assert json.loads(seen["metrics.jsonl"])["event"] == "start"
    assert json.loads(seen["hierarchy.json"])["classes"]


def test_stored_recipe_is_the_recipe(run):
    assert run.recipe == tiny(BRANCHES, "name=branches")


def test_environment_facts(run):
    facts = json.loads((run.path / "environment.json").read_text())
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]
    assert set(facts["versions"]) == {"hiercnn", "torch", "torchvision", "timm", "numpy"}
    assert facts["precision"] == "float32"
    assert facts["threads"] == torch.get_num_threads()
    assert "cores" in facts["device"]
    assert facts.keys() >= {"started", "command", "python", "platform", "git", "seed"}


def test_hierarchy_file_holds_the_tree_and_the_cuts(run):
    tree = read_hierarchy(run.path / "hierarchy.json")
    assert tree.num_classes == 36
    assert [cut.name for cut in read_cuts(run.path / "hierarchy.json", tree)] == ["3 groups", "9 groups"]
    assert run.hierarchy.digest == tree.digest
    assert [len(cut) for cut in run.cuts] == [3, 9]


def test_events(run):
    start, *epochs, end = run.events
    assert start == {
        "event": "start",
        "epochs": 2,
        "steps_per_epoch": 5,
        "sizes": {"train": 180, "val": 36, "test": 108},
        "digests": start["digests"],
        "unreadable": [],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "input_size": [3, 16, 16],
        "classes": 36,
        "channels": 3,
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }
    assert set(start["digests"]) == {"train", "val", "test"}
    assert epochs == run.metrics
    assert [(event["epoch"], event["step"], event["images"]) for event in epochs] == [(1, 5, 160), (2, 10, 320)]
    assert set(epochs[0]["train"]) == {"loss", "cross_entropy", "head/stage0_3", "head/stage1_9"}
    assert epochs[0]["weights"] == {"leaf": 1.0, "head/stage0_3": 0.5, "head/stage1_9": 0.5}
    assert set(epochs[0]["val"]["accuracy"]) == {"3 groups", "9 groups", "leaf"}
    assert set(epochs[0]["val"]["heads"]) == {"stage0_3", "stage1_9"}
    assert epochs[0]["train_subset"]["images"] == 180
    assert end["event"] == "end"
    assert end["val"] == epochs[-1]["val"]
    assert end["test"]["images"] == 108
    assert end["peak_memory_mib"] is None  # a GPU's alone


def test_training_loss_is_the_weighted_sum_of_its_terms(run):
    for event in run.metrics:
        terms = event["train"]
        assert terms["loss"] == pytest.approx(
            terms["cross_entropy"] + 0.5 * terms["head/stage0_3"] + 0.5 * terms["head/stage1_9"], rel=1e-6
        )


@pytest.mark.parametrize("split", ["val", "test"])
def test_logits_give_the_reported_accuracy(run, split):
    stored = np.load(run.predictions / f"{split}.npz")
    assert {name: (array.dtype.name, array.shape) for name, array in stored.items() if name != "ids"} == {
        "labels": ("int64", (run.end[split]["images"],)),
        "indices": ("int64", (run.end[split]["images"],)),
        "logits": ("float16", (run.end[split]["images"], 36)),
    }
    guess, labels = stored["logits"].argmax(1), stored["labels"]
    for cut in run.cuts:
        assert (cut.groups[guess] == cut.groups[labels]).mean() == pytest.approx(run.end[split]["accuracy"][cut.name])
    assert (guess == labels).mean() == pytest.approx(run.end[split]["accuracy"]["leaf"])


@pytest.mark.parametrize("split", ["val", "test"])
def test_logits_give_the_reported_mistakes(run, split):
    stored, found = np.load(run.predictions / f"{split}.npz"), run.end[split]
    guess, labels = stored["logits"].argmax(1), stored["labels"]
    distances = run.hierarchy.distances(labels, guess, kind="lca") * run.hierarchy.height
    assert found["hd1"] == pytest.approx(distances.mean())
    assert found["severity"] == pytest.approx(distances[guess != labels].mean())
    assert 0 < found["hd1"] < found["severity"]


def test_ids_name_each_image_once(run):
    ids = np.load(run.predictions / "test.npz")["ids"]
    assert len(set(ids)) == 108
    assert ids[0] == "test/0"
    assert all(name.startswith("train/") for name in np.load(run.predictions / "val.npz")["ids"])


def test_predictions_between_are_small(run):
    stored = np.load(run.predictions / "val-epoch-0001.npz")
    assert {name: (array.dtype.name, array.shape) for name, array in stored.items()} == {
        "labels": ("int64", (36,)),
        "indices": ("int64", (36,)),
        "top_classes": ("int32", (36, 5)),
        "top_probabilities": ("float16", (36, 5)),
        "sums/3 groups": ("float16", (36, 3)),
        "sums/9 groups": ("float16", (36, 9)),
    }
    np.testing.assert_allclose(stored["sums/3 groups"].sum(1, dtype=np.float32), 1, atol=2e-3)
    accuracy = (stored["top_classes"][:, 0] == stored["labels"]).mean()
    assert accuracy == pytest.approx(run.metrics[0]["val"]["accuracy"]["leaf"])


def test_checkpoints(run):
    assert {path.name for path in run.checkpoints.iterdir()} == {"last.safetensors", "best.safetensors", "state.pt"}
    with safe_open(run.checkpoints / "last.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["hiercnn"])
    assert facts == {
        "epoch": 2,
        "step": 10,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "classes": list(run.hierarchy.classes),
        "hierarchy": run.hierarchy.digest,
    }


def test_kept_model_gives_the_stored_logits(run):
    from hiercnn.data import make_loader
    from hiercnn.recipe import build_data, build_hierarchy, build_source

    data = build_data(run.recipe, build_source(run.recipe), build_hierarchy(run.recipe.hierarchy))
    batch = next(make_loader(data.test, run.recipe.data, train=False, channels=3).epoch())
    with torch.no_grad():
        logits = run.model(batch.images).leaf
    np.testing.assert_allclose(logits.numpy(), np.load(run.predictions / "test.npz")["logits"], rtol=2e-3, atol=2e-3)


def test_keep_log_writes_log_spaced_steps(tmp_path):
    run = fit(tiny("checkpoints.keep=log", "epochs=3"), run_dir=tmp_path)
    steps = sorted(int(path.stem.split("-")[1]) for path in run.checkpoints.glob("step-*.safetensors"))
    assert steps == [0, 1, 2, 4, 5, 8, 10, 15]  # powers of two in the first two epochs of 5, and every epoch's end
    first, last = run.load_model("step-00000000"), run.load_model("step-00000015")
    assert not torch.equal(first.backbone.fc.weight, last.backbone.fc.weight)
    assert torch.equal(last.backbone.fc.weight, run.model.backbone.fc.weight)


def test_no_scratch_files_are_left(run):
    assert not list(run.path.rglob("*.tmp"))


# ---- reading a damaged folder ---------------------------------------------------------------------------------------


def _folder(tmp_path, text: str) -> RunFolder:
    (tmp_path / "metrics.jsonl").write_text(text)
    return RunFolder(tmp_path)


def test_half_written_last_line_is_left_out(tmp_path):
    assert _folder(tmp_path, '{"event": "start"}\n{"event": "epo').events == [{"event": "start"}]


def test_damage_before_the_last_line_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="line 1 is damaged"):
        _ = _folder(tmp_path, '{"event": "sta\n{"event": "epoch"}\n').events


def test_no_run_here(tmp_path):
    assert not RunFolder(tmp_path).finished
    with pytest.raises(CheckpointError, match="no run in"):
        _ = RunFolder(tmp_path).events


def test_weights_that_are_not_there(run):
    with pytest.raises(CheckpointError, match="cannot read weights .*step-00000003"):
        run.load_model("step-00000003")


def test_run_of_an_own_model_needs_it_again(tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 36))
    run = fit(tiny(), model=model, run_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"was an object; pass it: Run\(path, model=\.\.\.\)"):
        _ = Run(run.path).model


# ---- what is there is not lost --------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path) -> Path:
    """The folder of a run that was stopped in its second epoch."""
    stop = Spy(lambda epoch, batch: os.kill(os.getpid(), signal.SIGINT) if (epoch, batch) == (2, 2) else None)
    with pytest.raises(Interrupted):
        fit(tiny(), run_dir=tmp_path / "run", display=stop)
    return tmp_path / "run"


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_without_its_recipe_is_not_overwritten(stopped, resume):
    (stopped / "recipe.yaml").unlink()
    before = {file: file.read_bytes() for file in stopped.rglob("*") if file.is_file() and file.name != "lock"}
    with pytest.raises(CheckpointError, match=r"holds a run \(state.pt\) whose recipe.yaml is gone; put that back"):
        fit(tiny(), run_dir=stopped, resume=resume)
    assert all(file.read_bytes() == content for file, content in before.items())


def test_an_event_that_is_cut_off_does_not_count(stopped):
    file = stopped / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"has 1 events, the checkpoint knows 2; begin again in another folder"):
        fit(tiny(), run_dir=stopped, resume=True)


def test_a_last_line_without_its_end_is_a_line(stopped):
    file = stopped / "metrics.jsonl"
    file.write_bytes(file.read_bytes().rstrip())
    run = fit(tiny(), run_dir=stopped, resume=True)
    assert len(run.metrics) == tiny().epochs


@pytest.mark.parametrize("text", ["", "{", '{"classes": []}'])
def test_a_damaged_tree_is_written_again(stopped, text):
    before = (stopped / "hierarchy.json").read_bytes()
    (stopped / "hierarchy.json").write_text(text)
    fit(tiny(), run_dir=stopped, resume=True)
    assert (stopped / "hierarchy.json").read_bytes() == before


@pytest.mark.parametrize("name", ["state.pt", "last.safetensors", "metrics.jsonl", "recipe.yaml", "environment.json", "hierarchy.json"])
@pytest.mark.parametrize("resume", [False, True])
def test_what_a_link_in_the_place_of_a_scratch_file_leads_to_stays(name, resume, tmp_path, request):
    run = request.getfixturevalue("stopped") if resume else tmp_path / "new"
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = run / "checkpoints" if name in ("state.pt", "last.safetensors") else run
    (folder / f"{name}.tmp").symlink_to(precious)
    assert fit(tiny(), run_dir=run, resume=resume).finished
    assert precious.read_text() == "precious"
    assert not (folder / name).is_symlink()


@pytest.mark.parametrize("name", ["environment.json", "metrics.jsonl"])
def test_what_a_link_in_a_new_folder_leads_to_stays(name, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("")
    assert fit(tiny(), run_dir=tmp_path / "run").finished
    assert (tmp_path / "precious").read_text() == ""


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match="cannot write to the run folder"):
        fit(tiny(), run_dir=tmp_path)
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write to the run folder .*File name too long; choose another with --run-dir"):
        fit(tiny(), run_dir=tmp_path / ("a" * 300))


# ---- one process a folder -------------------------------------------------------------------------------------------


def hold(path) -> None:
    """For `child`: keep the folder's lock."""
    with RunFolder(path).lock():
        (path / "held").touch()
        time.sleep(60)


@pytest.mark.long
def test_lock_names_the_other_process_and_goes_with_it(tmp_path):
    process = child(hold, tmp_path)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(CheckpointError, match=f"in use by process {process.pid}; choose another --run-dir"):
        fit(tiny(), run_dir=tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert fit(tiny(), run_dir=tmp_path).finished


def test_lock_is_released_after_a_run(run):
    with run.lock(), pytest.raises(CheckpointError, match="in use by process"), RunFolder(run.path).lock():
        raise AssertionError("locked twice")
    with run.lock():
        assert run.exists()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write to the run folder .* choose another with --run-dir"):
        fit(tiny(), run_dir=tmp_path / "file" / "run")


def test_full_disk_before_step_0(tmp_path, monkeypatch):
    write = Path.write_text

    def full(path, *arguments, **options):
        if path.name == "environment.json":
            raise OSError(28, "No space left on device")
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match="cannot write to the run folder .*No space left on device"):
        fit(tiny(), run_dir=tmp_path)
    assert not Run(tmp_path).exists()


def test_git_commit_is_told_or_absent(run):
    stored = json.loads((run.path / "environment.json").read_text())["git"]
    found = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=os.path.dirname(__file__), capture_output=True, text=True, check=False
    )
    assert stored is None or found.returncode or stored.rstrip("+") == found.stdout.strip()


def test_a_run_that_fails_before_it_starts_leaves_no_folder(tmp_path):
    with pytest.raises(HierCNNError):
        fit(tiny("data={name: folder, root: nowhere, image_size: 16}"), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_is_noted_in_the_environment(tmp_path):
    stop = Spy(lambda epoch, batch: os.kill(os.getpid(), signal.SIGINT) if (epoch, batch) == (2, 2) else None)
    with pytest.raises(Interrupted):
        fit(tiny(), run_dir=tmp_path, display=stop)
    fit(tiny(), run_dir=tmp_path, resume=True)
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert [place["device"] for place in environment["resumed"]] == [environment["device"]]


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_unreadable_images_are_named_in_the_run(storage, tmp_path, capsys):
    for number in range(12):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 20 * number, np.uint8)).save(path)
    (tmp_path / "images" / "a" / "broken.png").write_bytes(b"no image")
    data = {
        "name": "folder",
        "root": str(tmp_path / "images"),
        "image_size": 16,
        "batch_size": 4,
        "max_unreadable": 0.6,
        "storage": storage,
    }
    recipe = tiny("hierarchy=null", "logging.display=plain").plain() | {"data": data}
    run = fit(recipe, run_dir=tmp_path / "run")
    named = run.events[0]["unreadable"] if storage == "memory" else run.metrics[-1]["unreadable"]
    assert named == ["a/broken.png"]
    assert "'a/broken.png'" in capsys.readouterr().out
