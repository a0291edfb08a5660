"""Recipes whose tree is clustered from another recipe of the comparison."""

import shutil

import pytest
from train.tiny import tiny

from hiercnn import Run
from hiercnn.compare import compare, markdown
from hiercnn.errors import CheckpointError, RecipeError
from hiercnn.hierarchy import save_hierarchy
from hiercnn.recipe import cluster_run, load_recipe

FLAT = tiny("epochs=2")
HEADS = "model.heads=[{stage: early, cut: {depth: 1}}]"


def clustered(*overrides: str, run: str = "runs/flat", **cluster):
    """As it is before its run exists."""
    raw = tiny("name=clustered", "epochs=2").plain()
    raw["hierarchy"]["cluster"] = {"run": run, "source": "weights", "groups": [4, 9]} | cluster
    return load_recipe(raw, [HEADS, *overrides], check=False)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def result(out, told):
    return compare([clustered(), FLAT], seeds=2, out=out, tell=told.append)


def test_each_seed_has_the_tree_of_its_own_flat_run(result, out, told):
    for seed in (0, 1):
        assert Run(out / f"clustered-seed{seed}").clustered.meta["run"] == str(out / f"flat-seed{seed}")
    assert told.index("flat, seed 1") < told.index("clustered, seed 0")  # in need of it, though it was named first
    assert list(result["recipes"]) == ["clustered", "flat"]


def test_the_flat_run_is_charged(result, out):
    for ours, flat in zip(result["recipes"]["clustered"]["runs"], result["recipes"]["flat"]["runs"], strict=True):
        own = Run(out / ours["path"]).end
        assert ours["charged"] == {"seconds": flat["seconds"]["train"], "images": flat["images"]}
        assert ours["seconds"]["train"] == pytest.approx(own["seconds"]["train"] + flat["seconds"]["train"])
        assert ours["images"] == own["images"] + flat["images"] == 2 * flat["images"]
        assert [row["images"] for row in ours["curve"]] == [row["images"] + flat["images"] for row in flat["curve"]]
        assert flat["charged"]["images"] == 0
    assert result["recipes"]["clustered"]["seconds_ratio"]["mean"] > 1
    text = markdown(result)
    assert "time and images of clustered include those of the run that the tree was clustered from" in text
    assert "not the same budget" in text


def test_accuracy_is_that_of_the_given_groups(result):
    assert result["levels"] == ["3 groups", "9 groups", "leaf"]
    assert result["recipes"]["clustered"]["differs_in"] == ["hierarchy.cluster", "model.heads"]


def test_a_second_call_trains_nothing(result, out):
    assert compare([clustered(), FLAT], seeds=2, out=out) == result


def test_epochs_to_target_count_the_flat_run(tmp_path):
    anytime = ("schedule.name=constant", "train.ema=0.5", "epochs=3")
    found = compare([tiny(*anytime), clustered(*anytime)], out=tmp_path)["recipes"]["clustered"]["runs"][0]
    assert found["epochs_to_target"] is None or 3 < found["epochs_to_target"] <= 6


def test_short_schedules_take_the_tree_of_the_complete_run(tmp_path):
    compare([FLAT, clustered()], out=tmp_path, budgets=[0.5])
    assert Run(tmp_path / "clustered-0.5E-seed0").clustered.meta["run"] == str(tmp_path / "flat-seed0")


@pytest.mark.long
def test_in_processes(forked, tmp_path):
    result = compare([clustered(), FLAT], out=tmp_path, jobs=2)
    assert result["recipes"]["clustered"]["runs"][0]["charged"]["images"] > 0


def test_mistakes_are_found_before_anything_is_trained(tmp_path):
    for wrong, said in [
        (clustered("model.heads=[{stage: early, cut: 2}]"), r"model\.heads\[0\]\.cut"),
        (clustered("model.heads=[{stage: seventh, cut: 4}]"), "stage"),
        (clustered("hierarchy.cuts=[2]"), r"hierarchy\.cuts"),
        (clustered(groups=[99]), "groups: wanted numbers from 2 to 35"),
        (clustered(run="runs/other"), "no finished run in runs/other"),
    ]:
        with pytest.raises(RecipeError, match=said):
            compare([FLAT, wrong], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tree_of_a_tree_is_refused(tmp_path):
    second = clustered("name=second", run="runs/clustered")
    with pytest.raises(RecipeError, match="second: clustered is clustered itself"):
        compare([FLAT, clustered(), second], out=tmp_path)


def test_a_search_needs_its_tree_beforehand(tmp_path):
    search = "search={trials: 2, space: {optim.lr: {low: 0.01, high: 0.1}}}"
    with pytest.raises(RecipeError, match="needs its tree beforehand"):
        compare([tiny("epochs=2", search), clustered(search)], out=tmp_path)


def test_without_a_given_tree_classes_are_known_when_data_are(tmp_path):
    bare = load_recipe(tiny().plain() | {"hierarchy": None, "name": "flat"})
    raw = tiny("name=clustered", "epochs=2").plain()
    raw["hierarchy"] = {"cluster": {"run": "runs/flat", "groups": [4]}}
    found = compare([bare, load_recipe(raw, [HEADS], check=False)], out=tmp_path)
    assert found["levels"] == ["leaf"]


@pytest.mark.long
def test_levels_are_common_only_if_they_are_in_every_seed(tmp_path):
    bare = load_recipe(tiny("epochs=2").plain() | {"hierarchy": None})
    first = compare([bare], out=tmp_path / "first")
    assert first["levels"] == ["leaf"]
    tree = tmp_path / "tree.json"
    save_hierarchy(cluster_run(Run(tmp_path / "first" / "flat-seed0"), "weights").hierarchy([3, 9]), tree)
    fixed = load_recipe(tiny("epochs=2").plain() | {"name": "fixed", "hierarchy": {"file": str(tree)}})
    raw = tiny("epochs=2", "name=own").plain() | {"hierarchy": {"cluster": {"run": "runs/fixed", "source": "weights", "groups": [3, 9]}}}
    found = compare([fixed, load_recipe(raw, check=False)], seeds=2, out=tmp_path / "second")
    assert found["levels"] == ["leaf"]  # equal for seed 0 alone
    assert found["recipes"]["own"]["difference"]["hd1"] is None  # heights in another tree
    assert found["recipes"]["own"]["hd1"] is None
    assert found["recipes"]["own"]["difference"]["leaf"]["mean"] == 0
    assert markdown(found)


@pytest.mark.long
def test_the_folder_may_be_spelt_otherwise_or_moved(result, out, tmp_path, monkeypatch):
    monkeypatch.chdir(out.parent)
    again = compare([clustered(), FLAT], seeds=2, out=out.name)
    assert again["recipes"]["clustered"]["runs"] == result["recipes"]["clustered"]["runs"]
    shutil.copytree(out, tmp_path / "moved")
    told = []
    compare([clustered(), FLAT], seeds=2, out=tmp_path / "moved", tell=told.append)
    assert all("finished already" in line for line in told)


def test_a_flat_run_that_was_trained_anew_makes_the_tree_stale(result, out, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "flat-seed1")
    with pytest.raises(CheckpointError, match=r"clustered-seed1 has a tree of another run than the one that is in .*flat-seed1 now"):
        compare([clustered(), FLAT], seeds=2, out=tmp_path / "out")
