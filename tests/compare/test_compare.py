"""What `compare` trains, what it reuses, and what it writes."""

import json
import os
import shutil
import signal

import pytest
from train.tiny import BRANCHES, Spy, tiny

import hiercnn.compare._runs as module
from hiercnn import Run, fit
from hiercnn.compare import compare, curve, epochs_to_target
from hiercnn.errors import CheckpointError, Interrupted, RecipeError, TrainingError
from hiercnn.hierarchy import builtin
from hiercnn.recipe import load_recipe

ANYTIME = ("schedule.name=constant", "train.ema=0.9", "epochs=4")
FLAT, HEADS = tiny(*ANYTIME), tiny(*ANYTIME, BRANCHES, "name=branches")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def result(out):
    """Two recipes, two seeds."""
    return compare([HEADS, FLAT], seeds=2, out=out)


def files(folder) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.stem != "compare"}


def test_trains_every_recipe_with_every_seed(result, out):
    folders = {"branches-seed0", "branches-seed1", "flat-seed0", "flat-seed1"}
    assert {path.name for path in out.iterdir()} == folders | {"compare.json", "compare.md", "compare.csv"}
    assert all(Run(path).finished for path in out.iterdir() if path.is_dir())
    assert Run(out / "flat-seed1").recipe == FLAT.model_copy(update={"seed": 1})


def test_is_written_as_returned(result, out):
    assert json.loads((out / "compare.json").read_text()) == result


def test_the_first_process_alone_writes_it(result, out, monkeypatch):
    monkeypatch.setattr("hiercnn.compare._compare.process_number", lambda: 1)
    monkeypatch.setattr("hiercnn.compare._compare._write", lambda *_: pytest.fail("written"))
    assert compare([HEADS, FLAT], seeds=2, out=out) == result


def test_says_everything_about_the_comparison(result):
    assert result["format"] == "hiercnn.compare/2"
    assert result["baseline"] == "flat"  # the first without heads, though it comes second
    assert result["measured_on"] == "test"
    assert result["convergence"] == "anytime"
    assert result["epochs"] == 4
    assert result["levels"] == ["3 groups", "9 groups", "leaf"]
    assert result["splits"] == {"train": 180, "val": 36, "test": 108}
    assert result["environment"]["versions"]["torch"]
    assert result["environment"]["device"]
    assert list(result["recipes"]) == ["branches", "flat"]
    assert result["recipes"]["branches"]["recipe"] == HEADS.plain()


def test_runs_are_told_one_by_one(result, out):
    for row in result["recipes"].values():
        assert [one["seed"] for one in row["runs"]] == [0, 1]
        for one in row["runs"]:
            run = Run(out / one["path"])
            assert one["accuracy"] == run.end["test"]["accuracy"]
            assert one["images"] == run.end["images"]
            assert one["parameters"] == sum(p.numel() for p in run.model.parameters())
            assert one["seconds"] == run.end["seconds"]
            assert one["epochs_to_target"] == epochs_to_target(curve(run), one["target"])


def test_targets_are_the_baselines_own_ends(result):
    flat, branches = result["recipes"]["flat"]["runs"], result["recipes"]["branches"]["runs"]
    assert [one["target"] for one in branches] == [one["target"] for one in flat]
    assert all(one["epochs_to_target"] <= 4 for one in flat)


def test_differences_are_those_of_pairs(result):
    for level in result["levels"]:
        ours, flat = ([one["accuracy"][level] for one in result["recipes"][name]["runs"]] for name in ("branches", "flat"))
        difference = result["recipes"]["branches"]["difference"][level]
        assert difference["mean"] == pytest.approx(sum(a - b for a, b in zip(ours, flat, strict=True)) / 2)
        assert difference["pairs"] == 2
        assert difference["interval"][0] <= difference["mean"] <= difference["interval"][1]
        assert result["recipes"]["flat"]["difference"][level] == {"mean": 0, "pairs": 2, "interval": [0, 0]}


def test_finished_runs_are_reused(result, out):
    before, told = files(out), []
    again = compare([HEADS, FLAT], seeds=2, out=out, tell=told.append)
    assert again == result
    assert files(out) == before
    assert told == [
        f"{name}, seed {seed}: finished already, in {out / f'{name}-seed{seed}'}" for seed in (0, 1) for name in ("branches", "flat")
    ]


def test_a_third_seed_trains_only_that(result, out, tmp_path):
    for name in ("flat-seed0", "flat-seed1"):
        shutil.copytree(out / name, tmp_path / name)
    before = files(tmp_path)
    more = compare([FLAT], seeds=3, out=tmp_path)
    assert [one["seed"] for one in more["recipes"]["flat"]["runs"]] == [0, 1, 2]
    assert {path: time for path, time in files(tmp_path).items() if path in before} == before


def test_seeds_are_counted_from_the_recipes_own(tmp_path):
    result = compare([tiny("seed=5", "epochs=1")], seeds=2, out=tmp_path)
    assert [(one["path"], one["seed"]) for one in result["recipes"]["flat"]["runs"]] == [("flat-seed5", 5), ("flat-seed6", 6)]
    assert Run(tmp_path / "flat-seed6").recipe.seed == 6


def test_an_unfinished_run_is_resumed(tmp_path):
    def stop(epoch, batch):
        if (epoch, batch) == (2, 2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        fit(tiny(), run_dir=tmp_path / "flat-seed0", display=Spy(stop))
    first, told = (tmp_path / "flat-seed0" / "metrics.jsonl").read_text().splitlines()[:2], []
    compare([tiny()], out=tmp_path, tell=told.append)
    assert told == ["flat, seed 0: resuming"]
    assert (tmp_path / "flat-seed0" / "metrics.jsonl").read_text().splitlines()[:2] == first


def test_stopping_says_to_give_the_same_command(tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise Interrupted("add --resume", signal.SIGTERM)

    monkeypatch.setattr(module, "fit", stop)
    with pytest.raises(Interrupted, match="stopped in flat, seed 0; everything is saved in .*Go on with the same command$") as caught:
        compare([tiny()], out=tmp_path)
    assert caught.value.signal == signal.SIGTERM


def test_finished_run_of_another_recipe_is_told(tmp_path):
    compare([tiny()], out=tmp_path)
    with pytest.raises(RecipeError, match=r"flat-seed0 was made with another recipe; these differ: 'optim\.lr'"):
        compare([tiny("optim.lr=0.2")], out=tmp_path)


def test_decaying_schedules_have_no_epochs_to_target(tmp_path):
    result = compare([tiny(), tiny("name=other", *ANYTIME[:2])], out=tmp_path)
    assert result["convergence"] == "budget"
    assert {row["epochs_to_target"] for row in result["recipes"].values()} == {None}


def test_runs_without_a_test_are_compared_on_val(tmp_path):
    result = compare([tiny("eval.test=false")], out=tmp_path)
    assert result["measured_on"] == "val"
    assert result["recipes"]["flat"]["runs"][0]["accuracy"] == Run(tmp_path / "flat-seed0").end["val"]["accuracy"]


@pytest.mark.long
def test_levels_that_not_all_report_are_left_out(tmp_path):
    result = compare(
        [tiny("hierarchy.cuts=[3]"), tiny("name=fine", "hierarchy.cuts=[3, 9]"), tiny("name=bare", "hierarchy=null")], out=tmp_path
    )
    assert result["levels"] == ["leaf"]
    assert compare([tiny("hierarchy.cuts=[3]"), tiny("name=fine", "hierarchy.cuts=[3, 9]")], out=tmp_path)["levels"] == ["3 groups", "leaf"]


def test_without_a_flat_recipe_the_first_is_the_baseline(tmp_path):
    other = tiny(BRANCHES, "name=other")
    assert compare([tiny(BRANCHES, "name=first"), other], out=tmp_path)["baseline"] == "first"


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ([tiny(), tiny("optim.lr=1")], "needs recipes of different names; got 'flat', 'flat'"),
        ([], "needs recipes"),
        (
            [tiny(), tiny("name=other", "data.val=2", "data.seed=1")],
            "flat and other cannot be compared.*differ in data.seed, data.val",
        ),
        ([tiny(), tiny("name=other", "seed=3")], "differ in seed"),
        ([tiny(), tiny("name=other", "eval.test=false")], "differ in eval.test"),
    ],
)
def test_what_cannot_be_compared(tmp_path, recipes, message):
    with pytest.raises(RecipeError, match=message):
        compare(recipes, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_other_images_or_classes_are_no_pair(tmp_path):
    with pytest.raises(RecipeError, match="other and flat cannot be compared: seed 0 has other val and test images"):
        compare([tiny(), tiny("name=other", "data.render_seed=1")], out=tmp_path)


def test_other_images_are_noticed_after_the_first_pair(tmp_path):
    told = []
    with pytest.raises(RecipeError, match="cannot be compared"):
        compare([tiny("epochs=1"), tiny("epochs=1", "name=other", "data.render_seed=1")], seeds=3, out=tmp_path, tell=told.append)
    assert told == ["flat, seed 0", "other, seed 0"]


@pytest.mark.long
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_diverging_run_does_not_stop_the_others(tmp_path, forked, jobs):
    wild = tiny("name=wild", "optim.lr=1e30")
    with pytest.raises(TrainingError, match=r"not finite in '.*wild-seed0'; the other runs are finished.*delete these folders, and call"):
        compare([wild, tiny()], out=tmp_path, jobs=jobs)
    assert Run(tmp_path / "flat-seed0").finished
    shutil.rmtree(tmp_path / "wild-seed0")
    told = []
    assert set(compare([tiny("name=wild"), tiny()], out=tmp_path, tell=told.append)["recipes"]) == {"wild", "flat"}
    assert "flat, seed 0: finished already" in told[0]


@pytest.mark.long
def test_a_comparison_of_other_runs_is_kept(tmp_path):
    first = compare([tiny("epochs=1"), tiny("epochs=1", "name=other")], out=tmp_path)
    compare([tiny("epochs=1"), tiny("epochs=1", "name=other")], seeds=2, out=tmp_path)  # more of the same takes its place
    assert not (tmp_path / "compare-1.json").exists()
    compare([tiny("epochs=1")], out=tmp_path)
    kept = json.loads((tmp_path / "compare-1.json").read_text())
    assert set(kept["recipes"]) == set(first["recipes"])
    assert (tmp_path / "compare-1.md").exists()
    compare([tiny("epochs=1"), tiny("epochs=1", "name=third")], out=tmp_path)
    assert not (tmp_path / "compare-2.json").exists()


@pytest.mark.parametrize("damage", ['["no object"]\n', '{"event": "start"}\n{"event": "end"}\n', b"\xff\xfe"])
def test_a_damaged_run_is_named(tmp_path, damage):
    compare([tiny("epochs=1")], out=tmp_path)
    file = tmp_path / "flat-seed0" / "metrics.jsonl"
    file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(CheckpointError, match=r"flat-seed0.*is damaged.*delete that folder to begin"):
        compare([tiny("epochs=1")], out=tmp_path)


def test_levels_with_other_groups_are_left_out(tmp_path):
    tree = builtin("synthetic")
    turned = {tree.names[0]: {f"g{i}": list(tree.classes[i::3]) for i in range(3)}}
    other = tiny("name=other", "hierarchy.cuts=[3]")
    other = load_recipe(other.plain() | {"hierarchy": {"nested": turned, "cuts": [3]}})
    assert compare([tiny("hierarchy.cuts=[3]"), other], out=tmp_path)["levels"] == ["leaf"]


def test_every_run_brings_its_environment(result):
    assert all(run["environment"]["device"] for row in result["recipes"].values() for run in row["runs"])
    assert result["recipes"]["branches"]["differs_in"] == ["model.heads"]
    assert result["recipes"]["flat"]["differs_in"] == []
