"""Dynamics of a run: every number against the parts it is made of, what is left behind, going on, and runs that have none."""

import csv
import os
import shutil

import numpy as np
import pytest
import torch
from train.tiny import BRANCHES, tiny

import hiercnn
from hiercnn.clustering import ClassStatistics
from hiercnn.data import make_loader
from hiercnn.dynamics import LAST, LEAF, LOGITS, TREE, collapse, confusion_matrix, cut_partitions, hypernym_scores, look, measure
from hiercnn.errors import CheckpointError, DataError, RecipeError
from hiercnn.recipe import Run, build_data, build_source, dynamics_of_run, kept_steps

OPTIONS = {"images": 72, "random": 3, "probes": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return hiercnn.fit(tiny(BRANCHES, "checkpoints.keep=log"), run_dir=tmp_path_factory.mktemp("dynamics") / "run")


@pytest.fixture(scope="module")
def found(run):
    return dynamics_of_run(run, **OPTIONS)


def values(found, layer: str, cut: str, statistic: str) -> dict[int, float]:
    return {step: row.value for _, step, row in found.story.rows if (row.layer, row.cut, row.statistic) == (layer, cut, statistic)}


def test_moments_are_the_kept_weights_in_order_of_time(run):
    assert kept_steps(run) == [0, 1, 2, 4, 5, 8, 10]


def looks(run, weights: str):
    data = build_data(run.recipe, build_source(run.recipe), run.hierarchy)
    model = run.load_model(weights)
    return [look(model, make_loader(part, run.recipe.data, train=False, channels=3)) for part in (data.train, data.test)]


def test_a_look_is_what_the_network_computes(run):
    data = build_data(run.recipe, build_source(run.recipe), run.hierarchy)
    (batch,) = make_loader(data.val, run.recipe.data, train=False, channels=3).epoch()
    seen = look(run.model, make_loader(data.val, run.recipe.data, train=False, channels=3))
    model = run.model.strip_heads()
    with torch.no_grad():
        torch.testing.assert_close(seen.logits, model(batch.images))
        torch.testing.assert_close(seen.features["stage0"], model.stages[0](batch.images).mean((2, 3)))
        torch.testing.assert_close(model.fc(seen.features[LAST]), seen.logits)
    assert torch.equal(seen.labels, batch.labels)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.heads=[{stage: 0, cut: 3, feed_forward: true}]"],
        ["model.classifier=conditional", "loss.name=conditional_nll"],
    ],
    ids=["feed_forward", "conditional"],
)
def test_logits_are_those_of_the_whole_model(overrides, tmp_path):
    run = hiercnn.fit(tiny(*overrides, "epochs=1"), run_dir=tmp_path)
    data = build_data(run.recipe, build_source(run.recipe), run.hierarchy)
    loader = make_loader(data.val, run.recipe.data, train=False, channels=3)
    (batch,) = loader.epoch()
    with torch.no_grad():
        torch.testing.assert_close(look(run.model, loader).logits, run.model(batch.images).leaf)


def test_rows_are_those_of_the_parts(run):
    train, test = looks(run, "step-00000010")
    tree, cut = run.hierarchy, run.hierarchy.cut(groups=9)
    rows = {row[:3]: row for row in measure(train, test, tree, [cut], weight=run.model.backbone.fc.weight, random=4, probes=False)}
    partitions = [cut.groups, *(tree.random_like(cut, seed).groups for seed in range(4))]
    confusion = confusion_matrix(test.logits.argmax(1), test.labels, tree.num_classes)
    greedy = [hypernym_scores(confusion, np.asarray(groups)).greedy for groups in partitions]
    row = rows[LOGITS, "9 groups", "greedy"]
    assert row.value == greedy[0]
    assert row.random_mean == pytest.approx(np.mean(greedy[1:]))
    assert (row.random_low, row.random_high) == pytest.approx(tuple(np.quantile(greedy[1:], [0.05, 0.95])))
    leaves = ClassStatistics(36, 16).update(train.features["stage0"], train.labels)
    assert rows["stage0", LEAF, "nc1"].value == pytest.approx(collapse(leaves).nc1)
    assert rows["stage0", "9 groups", "trace_ratio"].value == pytest.approx(collapse(leaves.coarser(cut.groups)).trace_ratio)
    assert ("stage0", LEAF, "nc3") not in rows  # no classifier reads it
    assert (LAST, "9 groups", "nc3") in rows
    assert {statistic for layer, name, statistic in rows if (layer, name) == ("stage1", TREE)} == {"pearson", "spearman", "p"}


def test_random_partitions_have_the_sizes_of_the_groups(run):
    cut = run.hierarchy.cut(groups=3)
    own, *random = cut_partitions(run.hierarchy, [cut], 5)["3 groups"]
    assert own.tolist() == list(cut.groups)
    assert all(sorted(np.bincount(groups)) == sorted(np.bincount(own)) for groups in random)
    assert len({tuple(groups) for groups in random}) == 5


def test_the_last_moment_is_its_own_measure(found):
    assert values(found, LOGITS, LEAF, "relative")[10] == 1
    assert values(found, LAST, TREE, "r_final")[10] == pytest.approx(1)
    assert abs(values(found, LAST, TREE, "r_final")[0]) < 1


def test_what_a_run_keeps_of_it(run, found):
    with open(found.folder / "dynamics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.story.rows)
    assert [int(row["step"]) for row in rows] == sorted(int(row["step"]) for row in rows)
    at = next(i for i, row in enumerate(rows) if (row["layer"], row["cut"], row["statistic"]) == (LOGITS, "3 groups", "greedy"))
    assert float(rows[at]["value"]) == found.story.rows[at][2].value
    with np.load(found.folder / "means.npz") as means:
        assert means["steps"].tolist() == found.story.steps
        assert means["stage1"].shape == (7, 36, 48)
    with open(found.folder / "times.csv", newline="", encoding="utf-8") as file:
        times = {(row["layer"], row["cut"], row["statistic"], row["time"]): row["step"] for row in csv.DictReader(file)}
    curve = values(found, LOGITS, "3 groups", "greedy")
    assert int(times[LOGITS, "3 groups", "greedy", "t90"]) == next(step for step, value in curve.items() if value >= 0.9 * curve[10])


def test_measured_moments_are_not_measured_again(run, found, monkeypatch):
    monkeypatch.setattr("hiercnn.recipe._dynamics.measure", None)
    again = dynamics_of_run(run, **OPTIONS)
    np.testing.assert_equal([row for *_, row in again.story.rows], [row for *_, row in found.story.rows])


@pytest.mark.long
def test_a_half_written_moment_and_other_options_are_measured_again(run, found, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    (copy.path / "dynamics" / "images-72-random-3" / "step-00000004.npz").write_bytes(b"half")
    again = dynamics_of_run(copy, **OPTIONS)
    np.testing.assert_equal([row for *_, row in again.story.rows], [row for *_, row in found.story.rows])
    wider = dynamics_of_run(copy, **OPTIONS | {"random": 5})
    row, before = (next(row for *_, row in each.story.rows if row[:3] == (LOGITS, "3 groups", "greedy")) for each in (wider, found))
    assert row.value == before.value
    assert row.random_mean != before.random_mean


@pytest.mark.long
def test_other_options_leave_what_was_measured(run, found, monkeypatch):
    dynamics_of_run(run, images=40, random=0, probes=False)
    monkeypatch.setattr("hiercnn.recipe._dynamics.measure", None)
    np.testing.assert_equal(dynamics_of_run(run, **OPTIONS).story.rows, found.story.rows)


@pytest.mark.long
def test_moments_of_other_weights_or_steps_are_measured_again(run, found, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    kept = copy.path / "dynamics" / "images-72-random-3"
    shutil.copy(kept / "step-00000001.npz", kept / "step-00000002.npz")
    os.utime(copy.checkpoints / "step-00000004.safetensors")
    changed = shutil.copy(copy.checkpoints / "step-00000008.safetensors", copy.checkpoints / "step-00000005.safetensors")
    os.utime(changed)
    again = dynamics_of_run(copy, **OPTIONS)
    assert again.story.steps == found.story.steps
    before, after = values(found, LOGITS, LEAF, "greedy"), values(again, LOGITS, LEAF, "greedy")
    assert {step for step in before if before[step] != after[step]} <= {5}
    assert after[5] == after[8]


def test_changed_images_are_refused(run, tmp_path, monkeypatch):
    from hiercnn.data import ImageSet

    monkeypatch.setattr(ImageSet, "digest", "another")
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    with pytest.raises(CheckpointError, match="the train and val and test images or labels of .* have changed since it began"):
        dynamics_of_run(copy, **OPTIONS)


def test_stray_files_and_folders(run, found, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    (copy.checkpoints / "step-abc.safetensors").write_bytes(b"")
    assert dynamics_of_run(copy, **OPTIONS).story.steps == found.story.steps
    shutil.rmtree(copy.path / "dynamics")
    (copy.path / "dynamics").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot make the folder"):
        dynamics_of_run(copy, **OPTIONS)


def test_probes_are_fitted_on_wish(run, found):
    assert not values(found, "stage0", "3 groups", "probe")
    train, test = looks(run, "last")
    rows = measure(train, test, run.hierarchy, [run.hierarchy.cut(groups=3)], random=0)
    probes = {(row.layer, row.cut): row.value for row in rows if row.statistic == "probe"}
    assert set(probes) == {(layer, cut) for layer in ("stage0", "stage1", LAST) for cut in (LEAF, "3 groups")}
    assert all(-1 < value <= 1 for value in probes.values())


def test_twins_are_looked_at_alike(run, tmp_path):
    from hiercnn.recipe._dynamics import images_to_look_at

    twin = hiercnn.fit(tiny("checkpoints.keep=log", "epochs=1"), run_dir=tmp_path / "twin")
    for one, other in zip(images_to_look_at(run, 50), images_to_look_at(twin, 50), strict=True):
        assert one.ids == other.ids
        assert len(one) == 50
    assert len(np.unique(images_to_look_at(run, 5)[0].labels)) == 36  # every class, even if fewer images are asked for


# ---- runs that have none


def test_runs_that_kept_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="no run in"):
        dynamics_of_run(Run(tmp_path / "nowhere"))
    run = hiercnn.fit(tiny("epochs=1"), run_dir=tmp_path / "run")
    with pytest.raises(CheckpointError, match="has kept weights of 0 moments; two are needed. Train it with checkpoints.keep=log, or with"):
        dynamics_of_run(run)


def test_a_vanished_moment_is_left_out(run, found, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    (copy.checkpoints / "step-00000004.safetensors").unlink()
    assert dynamics_of_run(copy, **OPTIONS).story.steps == [0, 1, 2, 5, 8, 10]


def test_a_cut_with_one_group(run):
    train, test = looks(run, "last")
    with pytest.raises(DataError, match="has one group, and there is nothing to tell apart; cut lower"):
        measure(train, test, run.hierarchy, [run.hierarchy.cut(depth=0)])


def test_data_that_were_objects(run, tmp_path):
    images = [(torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8), i % 4) for i in range(40)]
    recipe = {"epochs": 1, "model": {"backbone": "tiny_net"}, "checkpoints": {"keep": "log"}, "logging": {"display": "quiet"}}
    own = {"train": images, "classes": list("abcd"), "run_dir": tmp_path / "own"}
    flat = hiercnn.fit(recipe | {"data": {"batch_size": 8}}, **own)
    with pytest.raises(RecipeError, match="there is no cut between root and leaves; name one in dynamics.cuts"):
        dynamics_of_run(flat)
    own |= {"hierarchy": {"x": ["a", "b"], "y": ["c", "d"]}, "run_dir": tmp_path / "tree"}
    own = hiercnn.fit(recipe | {"data": {"batch_size": 8}}, **own)
    with pytest.raises(RecipeError, match="were objects; use hiercnn.dynamics.look and measure on your own loaders"):
        dynamics_of_run(own)
