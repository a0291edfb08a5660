"""Diagnosis of a run: what is judged by which network, what is left behind, folds that are reused, and what is refused."""

import csv
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from train.tiny import BRANCHES, tiny

from hiercnn import fit
from hiercnn.data import make_loader
from hiercnn.diagnose import Evidence, detectors, inject, mislabel
from hiercnn.errors import CheckpointError, DataError, HierarchyError, Interrupted, RecipeError
from hiercnn.recipe import FAULT_COLUMNS, Run, build_data, build_hierarchy, build_source, diagnose_run, out_of_fold
from hiercnn.recipe._folds import fold_numbers
from hiercnn.train import QuietDisplay


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return fit(tiny(BRANCHES, "epochs=1"), run_dir=tmp_path_factory.mktemp("diagnose") / "run")


@pytest.fixture(scope="module")
def folded(run):
    lines = []
    return diagnose_run(run, ["mislabel", "near_duplicates"], folds=2, tell=lines.append), lines


def data_of(recipe):
    return build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))


def read(folder, name: str) -> list[dict[str, str]]:
    with open(folder / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("side", [None, "val"])
def test_every_detector_judges_held_out_images_and_leaves_a_table(run, side):
    found = diagnose_run(run, side=side, tell=silent)
    name = side or "test"
    images = getattr(data_of(run.recipe), name)
    assert set(found.findings) == set(detectors)
    assert found.folder == run.path / "diagnose" / name
    facts = json.loads((found.folder / "facts.json").read_text(encoding="utf-8"))
    assert (facts["split"], facts["images"], facts["run"], facts["weights"]) == (name, len(images), run.digest, "last")
    assert facts["accuracy"] == pytest.approx(run.end[name]["accuracy"]["leaf"])
    for detector, findings in found.findings.items():
        rows = read(found.folder, detector)
        assert [row["sentence"] for row in rows] == [finding.sentence for finding in findings]
        assert [row["rank"] for row in rows] == [str(1 + i) for i in range(len(rows))]
    for row in read(found.folder, "mislabel"):
        assert images.ids[int(row["index"])] == row["image"]
        assert run.hierarchy.classes[images.labels[int(row["index"])]] == row["label"] != row["predicted"]
    assert tuple(row) == FAULT_COLUMNS


def test_fold_numbers_spread_every_class_and_keep_groups_out():
    labels = np.repeat([0, 1, 2, 3], [7, 10, 4, 5])
    numbers = fold_numbers(labels, 3, 3, seed=0)
    assert (numbers[labels == 3] == -1).all()
    for label in range(3):
        counts = np.bincount(numbers[labels == label], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(numbers[labels < 3]).tolist() == [7, 7, 7]
    assert numbers.tolist() == fold_numbers(labels, 3, 3, seed=0).tolist() != fold_numbers(labels, 3, 3, seed=1).tolist()


def test_each_training_image_is_judged_by_the_network_that_has_not_seen_it(run, folded):
    found, _ = folded
    train = data_of(run.recipe).train
    numbers = fold_numbers(train.labels, run.hierarchy.num_classes, 2, run.recipe.seed)
    wrong = {}
    for fold in (0, 1):
        part = Run(run.path / "folds" / "2" / str(fold))
        assert part.recipe.epochs == run.recipe.epochs
        assert part.start["sizes"] == {"train": int((numbers != fold).sum()), "val": int((numbers == fold).sum())}
        held_out = np.flatnonzero(numbers == fold)
        loader = make_loader(train.subset(held_out), run.recipe.data, train=False, channels=3)
        with torch.no_grad():
            best = torch.cat([part.model(batch.images).leaf.argmax(1) for batch in loader.epoch()]).numpy()
        wrong |= {int(i): run.hierarchy.classes[label] for i, label in zip(held_out, best, strict=True) if label != train.labels[i]}
    assert {int(row["index"]): row["predicted"] for row in read(found.folder, "mislabel")} == wrong
    assert found.folder == run.path / "diagnose" / "train-2-folds"
    assert found.facts["images"] == len(train)
    assert all(row["other_split"] == "test" for row in read(found.folder, "near_duplicates"))


def test_finished_folds_are_reused(run, folded, monkeypatch):
    monkeypatch.setattr("hiercnn.train._trainer.Trainer.fit", None)
    lines = []
    again = diagnose_run(run, ["mislabel"], folds=2, tell=lines.append)
    assert lines == ["fold 1 of 2 is there", "fold 2 of 2 is there"]
    assert again.findings["mislabel"] == folded[0].findings["mislabel"]
    assert folded[1][0] == "fold 1 of 2 is trained: 90 images, 1 epochs"


def test_a_stopped_fold_goes_on(tmp_path, monkeypatch):
    recipe = tiny("epochs=2")
    data = data_of(recipe)

    whole = out_of_fold(recipe, data, tmp_path / "whole", 2, tell=silent)[1]
    with monkeypatch.context() as patch:
        patch.setattr(QuietDisplay, "step", lambda self, done, loss: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted, match="stopped in fold 1 of 2; the same command goes on"):
            out_of_fold(recipe, data, tmp_path / "stopped", 2, tell=silent)
    lines = []
    after = out_of_fold(recipe, data, tmp_path / "stopped", 2, tell=lines.append)[1]
    assert lines[0].startswith("fold 1 of 2 goes on")
    assert torch.equal(after.logits, whole.logits)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda recipe, data: (tiny("epochs=1", "optim.lr=0.01"), data), RecipeError, "another recipe; these differ: 'optim.lr'"),
        (
            lambda recipe, data: (recipe, replace(data, train=replace(data.train, labels=data.train.labels[::-1].copy()))),
            CheckpointError,
            "images, labels or classes have changed",
        ),
    ],
)
def test_folds_of_something_else_are_refused(tmp_path_factory, change, error, said):
    folder = tmp_path_factory.mktemp("folds")
    recipe = tiny("epochs=1")
    out_of_fold(recipe, data_of(recipe), folder, 2, tell=silent)
    with pytest.raises(error, match=said):
        out_of_fold(*change(recipe, data_of(recipe)), folder, 2, tell=silent)


def test_a_class_of_one_image_has_no_folds(tmp_path):
    recipe = tiny("epochs=1")
    data = data_of(recipe)
    kept = np.flatnonzero((data.train.labels != 3) | (np.cumsum(data.train.labels == 3) == 1))
    with pytest.raises(DataError, match=f"there is one of '{data.hierarchy.classes[3]}'"):
        out_of_fold(recipe, replace(data, train=data.train.subset(kept)), tmp_path, 2, tell=silent)
    with pytest.raises(RecipeError, match="folds: wanted 2 or more"):
        out_of_fold(recipe, data, tmp_path, 1, tell=silent)


def test_images_labelled_with_a_group_are_trained_on_and_not_judged(tmp_path):
    recipe = tiny("epochs=1", "data.coarse_labels={cut: 9, fine: 3}")
    data = data_of(recipe)
    positions, seen = out_of_fold(recipe, data, tmp_path, 2, tell=silent)
    classed = np.flatnonzero(data.train.labels < 36)
    assert positions.tolist() == classed.tolist()
    assert seen.labels.tolist() == data.train.labels[classed].tolist()
    sizes = Run(tmp_path / "0").start["sizes"]
    assert sizes["train"] + sizes["val"] == len(data.train) > len(classed)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"side": "train"}, RecipeError, "judge train out of fold: folds=5"),
        ({"side": "tests"}, RecipeError, "wanted train, val, test, got 'tests'"),
        ({"side": "test", "folds": 2}, RecipeError, "folds are of train"),
        ({"folds": 2, "weights": "best"}, RecipeError, "judged with the weights that each network ends with, not with 'best'"),
        ({"names": ["mislabels"]}, RecipeError, "did you mean 'mislabel'"),
        ({"weights": "average"}, CheckpointError, "average.safetensors"),
    ],
)
def test_what_cannot_be_judged_is_told(run, options, error, said):
    with pytest.raises(error, match=said):
        diagnose_run(run, **options, tell=silent)


def test_runs_that_are_not_whole(run, tmp_path):
    with pytest.raises(CheckpointError, match="no run in"):
        diagnose_run(Run(tmp_path / "nothing"))
    half = shutil.copytree(run.path, tmp_path / "half", ignore=shutil.ignore_patterns("folds"))
    lines = (half / "metrics.jsonl").read_text().splitlines(keepends=True)
    (half / "metrics.jsonl").write_text("".join(line for line in lines if '"end"' not in line))
    with pytest.raises(CheckpointError, match="has done 1 of 1 epochs; finish it"):
        diagnose_run(Run(half))
    (half / "metrics.jsonl").write_text("".join(lines).replace(run.start["digests"]["test"], "0" * 16))
    with pytest.raises(CheckpointError, match="the test images or labels of .* have changed"):
        diagnose_run(Run(half))
    (half / "metrics.jsonl").write_text("".join(lines))
    (half / "checkpoints" / "last.safetensors").unlink()
    with pytest.raises(CheckpointError, match="last.safetensors"):
        diagnose_run(Run(half))


def test_a_tree_of_one_level_leaves_detectors_out_unless_asked_for(tmp_path):
    recipe = tiny("epochs=1", "data.render_train=4").plain() | {"hierarchy": None}
    run = fit(recipe, run_dir=tmp_path / "run")
    found = diagnose_run(run, tell=silent)
    assert set(detectors) - set(found.findings) == {"homonym_class", "misplaced_class", "multi_object"}
    assert sum("is left out: the tree has one level" in note for note in found.facts["notes"]) == 3
    with pytest.raises(HierarchyError, match="multi_object: the tree has one level"):
        diagnose_run(run, ["multi_object"], tell=silent)


def test_a_folder_that_cannot_be_is_told_before_the_work(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("hiercnn.recipe._diagnose.look_at", None)
    with pytest.raises(CheckpointError, match="choose another with --out"):
        diagnose_run(run, ["mislabel"], out=tmp_path / "file" / "here", tell=silent)


def test_names_of_files_that_are_no_text_are_written_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("hiercnn.recipe._diagnose._paths", lambda source: {f"test/{i}": os.fsdecode(b"caf\xe9.png") for i in range(200)})
    run = fit(tiny("epochs=1"), run_dir=tmp_path / "run")
    folder = diagnose_run(run, ["mislabel"], tell=silent).folder
    assert b"caf\xe9.png" in (folder / "mislabel.csv").read_bytes()


@pytest.mark.long
def test_planted_labels_are_found_out_of_fold(tmp_path):
    recipe = tiny("epochs=30", "data.augment={}", "data.batch_size=16")
    data = data_of(recipe)
    patterns = torch.randint(0, 256, (36, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    wrong = inject.relabel(data.train.labels, data.hierarchy, 0.2, "far")
    easy = replace(data.train, labels=wrong.labels, images=patterns[data.train.labels])  # all images of a class are one
    positions, seen = out_of_fold(recipe, replace(data, train=easy), tmp_path, 2, tell=silent)
    found = mislabel(Evidence(data.hierarchy, wrong.labels[positions], seen.logits.softmax(1).numpy()))
    assert inject.found([finding.image for finding in found], wrong.images.tolist()).precision > 0.9
