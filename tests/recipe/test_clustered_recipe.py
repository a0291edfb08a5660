"""`hierarchy: {cluster: …}`: heads and losses of a tree that is made from a finished run."""

import shutil

import numpy as np
import pytest
import torch
from train.tiny import tiny

import hiercnn
from hiercnn.errors import CheckpointError, DataError, RecipeError
from hiercnn.hierarchy import read_hierarchy, save_hierarchy, to_nested
from hiercnn.losses import LevelNLL
from hiercnn.recipe import Run, _cluster, build_data, build_source, build_trainer, charged_cost, load_recipe
from hiercnn.recipe._build import build_hierarchy

GROUPS = {"source": "weights", "linkage": "ward", "metric": "unit", "groups": [4, 9]}
HEADS = "model.heads=[{stage: early, cut: {depth: 1}}, {stage: late, cut: {depth: 2}}]"


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> Run:
    return hiercnn.fit(tiny("epochs=2"), run_dir=tmp_path_factory.mktemp("flat") / "flat")


def recipe(run: Run, *overrides: str, given: bool = True, **changes):
    """Heads on the clustered tree, beside the given one or alone."""
    raw = tiny("epochs=1", "name=clustered").plain()
    kept = raw["hierarchy"] if given else {}
    raw["hierarchy"] = kept | {"cluster": GROUPS | {"run": str(run.path)} | changes}
    return load_recipe(raw, [HEADS, *overrides])


def test_heads_are_of_the_clustered_tree_and_reports_of_the_given_one(flat, tmp_path):
    run = hiercnn.fit(recipe(flat), run_dir=tmp_path / "run")
    clustered = _cluster.cluster_run(flat, "weights", linkage="ward", metric="unit").hierarchy([4, 9])
    assert run.hierarchy == flat.hierarchy
    assert [cut.name for cut in run.cuts] == [cut.name for cut in flat.cuts]
    assert run.clustered == clustered.with_classes(run.hierarchy.classes)
    heads = Run(run.path).model.cuts
    for depth, cut in zip((1, 2), heads.values(), strict=True):
        np.testing.assert_array_equal(cut.groups, clustered.cut(depth=depth).groups)
    assert [len(cut) for cut in heads.values()] == [4, 9]
    assert not any(np.array_equal(cut.groups, head.groups) for cut in run.cuts for head in heads.values())


def test_alone_it_is_the_tree(flat, tmp_path):
    run = hiercnn.fit(recipe(flat, given=False), run_dir=tmp_path / "run")
    assert run.hierarchy == run.clustered
    assert [len(cut) for cut in run.cuts] == [4, 9]
    assert {"4 groups", "9 groups", "leaf"} <= set(run.end["test"]["accuracy"])


def test_a_loss_over_levels_reads_the_clustered_tree(flat, tmp_path):
    level = recipe(flat, "model.heads=[]", "loss.name=level_nll", "loss.levels=[{cut: {depth: 1}}]")
    data = build_data(level, build_source(level), build_hierarchy(level.hierarchy))
    trainer = build_trainer(level, data, Run(tmp_path / "run"))
    logits, labels = torch.randn(8, 36), torch.arange(8)
    clustered = _cluster.clustered_tree(level.hierarchy.cluster).with_classes(data.hierarchy.classes)
    wanted, given = (LevelNLL(tree, levels=[{"cut": {"depth": 1}}])(logits, labels) for tree in (clustered, data.hierarchy))
    found = trainer.task.loss(logits, labels)
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert not torch.equal(sum(found.values()), sum(given.values()))


def test_what_the_run_cost_goes_with_the_tree(flat, tmp_path):
    run = hiercnn.fit(recipe(flat), run_dir=tmp_path / "run")
    assert charged_cost(run) == {"seconds": flat.end["seconds"]["train"], "images": flat.end["images"]}
    assert charged_cost(flat) == {"seconds": 0.0, "images": 0}
    again = hiercnn.fit(recipe(run, source="features", linkage="average", metric=None), run_dir=tmp_path / "again")
    assert charged_cost(again)["images"] == flat.end["images"] + run.end["images"]


def test_a_tree_from_a_file_brings_its_cost(flat, tmp_path):
    save_hierarchy(_cluster.cluster_run(flat).hierarchy([4, 9]), tmp_path / "tree.json")
    run = hiercnn.fit(tiny("epochs=1", f"hierarchy={{file: {tmp_path / 'tree.json'}}}"), run_dir=tmp_path / "run")
    assert charged_cost(run)["images"] == flat.end["images"]


def test_a_run_goes_on_with_the_tree_it_began_with(flat, tmp_path, monkeypatch):
    settings = recipe(flat)
    run = hiercnn.fit(settings, run_dir=tmp_path / "run")
    data = build_data(settings, build_source(settings), build_hierarchy(settings.hierarchy))
    monkeypatch.setattr(_cluster, "clustered_tree", lambda _: pytest.fail("made anew"))
    assert build_trainer(settings, data, run).model.cuts.keys() == run.model.cuts.keys()


def test_it_goes_on_where_the_flat_run_is_gone(flat, tmp_path):
    for given in (True, False):
        folder, source = tmp_path / f"run-{given}", tmp_path / f"flat-{given}"
        shutil.copytree(flat.path, source)
        settings = recipe(Run(source), given=given)
        run = hiercnn.fit(settings, run_dir=folder)
        shutil.rmtree(source)
        assert hiercnn.fit(settings, run_dir=folder, resume=True).end == run.end
        metrics = folder / "metrics.jsonl"
        metrics.write_text("".join(line for line in metrics.read_text().splitlines(keepends=True) if '"end"' not in line))
        assert hiercnn.fit(settings, run_dir=folder, resume=True).end["test"]["accuracy"] == run.end["test"]["accuracy"]


def test_a_flat_run_that_was_moved_is_the_same(flat, tmp_path):
    shutil.copytree(flat.path, tmp_path / "moved")
    run = hiercnn.fit(recipe(flat), run_dir=tmp_path / "run")
    assert hiercnn.fit(recipe(Run(tmp_path / "moved")), run_dir=tmp_path / "run", resume=True).end == run.end


def test_another_flat_run_in_its_place_is_told(flat, tmp_path):
    hiercnn.fit(recipe(flat), run_dir=tmp_path / "run")
    other = hiercnn.fit(tiny("epochs=1", "seed=3"), run_dir=tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"run has a tree of another run than the one that is in .*other now; delete"):
        hiercnn.fit(recipe(other), run_dir=tmp_path / "run", resume=True)


def test_a_tree_left_behind_is_not_taken(flat, tmp_path):
    run = hiercnn.fit(recipe(flat), run_dir=tmp_path / "run")
    (tmp_path / "plain").mkdir()
    shutil.copy(run.clustered_file, tmp_path / "plain")
    plain = hiercnn.fit(tiny("epochs=1"), run_dir=tmp_path / "plain")
    assert plain.clustered is None
    assert charged_cost(plain)["images"] == 0


def test_an_unfinished_run_costs_what_it_has_done(flat, tmp_path):
    shutil.copytree(flat.path, tmp_path / "half")
    metrics = tmp_path / "half" / "metrics.jsonl"
    metrics.write_text("".join(line for line in metrics.read_text().splitlines(keepends=True) if '"end"' not in line))
    assert _cluster.cluster_run(Run(tmp_path / "half"), "weights").facts["cost"]["images"] == flat.end["images"]


def test_classes_without_data_are_pruned_from_the_given_tree(flat, tmp_path):
    nested = to_nested(flat.hierarchy)
    nested["ghosts"] = ["ghost"]
    raw = tiny("epochs=1", "name=clustered").plain()
    raw["hierarchy"] = {"nested": nested, "prune": True, "cluster": GROUPS | {"run": str(flat.path)}}
    run = hiercnn.fit(load_recipe(raw, [HEADS]), run_dir=tmp_path / "run")
    assert run.clustered.classes == run.hierarchy.classes == flat.hierarchy.classes


def test_weights_are_those_of_the_run_itself(flat):
    with pytest.raises(CheckpointError, match="weights: wanted last, best or step"):
        _cluster.cluster_run(flat, weights="../../other/checkpoints/last")


def test_the_model_loads_where_the_flat_run_is_gone(flat, tmp_path):
    shutil.copytree(flat.path, tmp_path / "flat")
    run = hiercnn.fit(recipe(Run(tmp_path / "flat")), run_dir=tmp_path / "run")
    shutil.rmtree(tmp_path / "flat")
    assert len(Run(run.path).model.heads) == 2


def test_the_tree_is_made_once(flat, tmp_path, monkeypatch):
    calls, made = [], _cluster.cluster_run
    monkeypatch.setattr(_cluster, "cluster_run", lambda *args, **kwargs: calls.append(args) or made(*args, **kwargs))
    _cluster._clustered_tree.cache_clear()
    hiercnn.fit(recipe(flat), run_dir=tmp_path / "run")
    assert len(calls) == 1


# ---- what can be wrong


def test_no_finished_run(flat, tmp_path):
    with pytest.raises(RecipeError, match=r"hierarchy\.cluster: no finished run in .*nowhere; train it first"):
        recipe(Run(tmp_path / "nowhere"))
    shutil.copytree(flat.path, tmp_path / "half")
    metrics = tmp_path / "half" / "metrics.jsonl"
    metrics.write_text("".join(line for line in metrics.read_text().splitlines(keepends=True) if '"end"' not in line))
    with pytest.raises(RecipeError, match=r"no finished run in .*half"):
        recipe(Run(tmp_path / "half"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": [1]}, "wanted numbers from 2 to 35"),
        ({"groups": [36]}, "wanted numbers from 2 to 35"),
        ({"groups": []}, "wanted numbers from 2 to 35"),
        ({"metric": "cosine"}, "ward linkage needs euclidean distances"),
        ({"source": "logits", "linkage": "average"}, "metric is for features and weights"),
        ({"stage": 0}, "stage is for features"),
        ({"split": "train"}, "split"),
        ({"weights": "step-7"}, "step-7"),
    ],
)
def test_options_that_do_not_fit_are_told_with_their_place(flat, changes, said):
    with pytest.raises(RecipeError, match=rf"hierarchy\.cluster: .*{said}"):
        recipe(flat, **changes)


@pytest.mark.parametrize("changes", [{"source": "test"}, {"split": "test"}, {"linkage": "median"}, {"weights": 3}, {"seeds": 3}])
def test_unknown_options_are_told_before_anything_is_read(flat, changes):
    with pytest.raises(RecipeError, match=r"hierarchy\.cluster\."):
        recipe(flat, **changes)


def test_a_cut_that_the_clustered_tree_has_not(flat):
    with pytest.raises(RecipeError, match=r"model\.heads\[0\]\.cut: .*at least 4"):
        recipe(flat, "model.heads=[{stage: early, cut: 2}]")


def test_a_number_of_groups_that_only_a_level_has():
    below = {"a": {"a0": 30, "a1": 2}, "b": {"b0": 2, "b1": 2}}
    nested = {top: {name: [f"{name}-{n}" for n in range(count)] for name, count in groups.items()} for top, groups in below.items()}
    with pytest.raises(RecipeError, match=r"cut: gives 3 groups; the level of the tree that has 4 is cut: {depth: 2}"):
        load_recipe(tiny().plain() | {"hierarchy": {"nested": nested}}, ["model.heads=[{stage: early, cut: 4}]"])


def test_classes_of_another_data_set(flat):
    raw = tiny("name=clustered").plain()
    raw["hierarchy"] = {"builtin": "cifar10", "cluster": GROUPS | {"run": str(flat.path)}}
    with pytest.raises(RecipeError, match=r"hierarchy\.cluster: "):
        load_recipe(raw)


def test_groups_as_labels_are_of_the_given_tree(flat):
    with pytest.raises(RecipeError, match=r"hierarchy\.cluster: cannot be taught by data\.coarse_labels"):
        recipe(flat, "data.coarse_labels={cut: 9, fine: 2}", "loss.name=level_nll", "loss.levels=[{cut: 4}]")


def test_a_tree_or_a_run_is_needed():
    with pytest.raises(RecipeError, match="or cluster"):
        tiny("hierarchy={cuts: [3]}")


def test_a_damaged_tree_is_told(flat, tmp_path):
    run = hiercnn.fit(recipe(flat), run_dir=tmp_path / "run")
    run.clustered_file.write_text("{")
    with pytest.raises((CheckpointError, DataError, hiercnn.errors.HierCNNError), match=r"clustered\.json"):
        _ = Run(run.path).model


def test_what_was_saved_is_the_tree_as_written(flat, tmp_path):
    run = hiercnn.fit(recipe(flat), run_dir=tmp_path / "run")
    assert read_hierarchy(run.path / "clustered.json").meta["run"] == str(flat.path)
