"""Equal tuning: the same candidates for all, chosen on val, before anything is compared."""

import json
import math
import signal

import pytest
from compare.children import comparable, odd
from train.tiny import BRANCHES, tiny

import hiercnn.compare._runs as module
from hiercnn import Run, fit
from hiercnn.compare import compare
from hiercnn.compare._search import SEARCH_SEED, draw_candidates
from hiercnn.errors import Interrupted, RecipeError, TrainingError
from hiercnn.recipe import Recipe, load_recipe

SPACE = {"optim.lr": {"low": 0.001, "high": 0.3, "log": True}, "loss.label_smoothing": [0.0, 0.1]}


def searching(recipe: Recipe, trials: int = 3, space: dict | None = None, **more) -> Recipe:
    search = {"trials": trials, "space": space or SPACE, **more}
    return load_recipe(recipe.plain() | {"search": search}, trust_imports=True)


FLAT, HEADS = searching(tiny()), searching(tiny(BRANCHES, "name=branches", "optim.lr=0.02"))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def result(out):
    """Two recipes, three trials each, two seeds."""
    return compare([FLAT, HEADS], seeds=2, out=out)


def value_at(recipe: Recipe, key: str):
    value = recipe.plain()
    for part in key.split("."):
        value = value[part]
    return value


# ---- candidates -----------------------------------------------------------------------------------------------------


def test_draws_lie_in_the_space():
    first, *drawn = draw_candidates(searching(tiny(), trials=40))
    assert first == {}
    rates = [values["optim.lr"] for values in drawn]
    assert len(set(rates)) == 39
    assert 0.001 <= min(rates) < 0.002  # even on a log scale: evenly drawn, the least of 39 would be near 0.008
    assert 0.15 < max(rates) <= 0.3
    assert {values["loss.label_smoothing"] for values in drawn} == {0.0, 0.1}


def test_no_candidate_is_drawn_twice():
    candidates = draw_candidates(searching(tiny(), trials=20, space={"optim.lr": [0.1, 0.2]}))
    assert candidates[0] == {}
    assert sorted(values["optim.lr"] for values in candidates[1:]) == [0.1, 0.2]


def test_draws_depend_on_the_search_section_alone():
    more = draw_candidates(searching(tiny("seed=7", BRANCHES), trials=6))
    assert more[:3] == draw_candidates(FLAT)
    assert draw_candidates(searching(tiny(), seed=1))[1:] != draw_candidates(FLAT)[1:]


def test_every_recipe_tries_the_same_values(result, out):
    candidates = draw_candidates(FLAT)
    for recipe in (FLAT, HEADS):
        record = result["search"][recipe.name]
        assert [trial["values"] for trial in record["trials"]] == candidates
        for number, values in enumerate(candidates):
            tried = Run(out / "search" / f"{recipe.name}-trial{number}").recipe
            for key in SPACE:
                assert value_at(tried, key) == values.get(key, value_at(recipe, key))  # those of trial 0 are its own
            assert tried.seed == SEARCH_SEED
    assert sorted(path.name for path in (out / "search").iterdir()) == [
        f"{name}-trial{number}" for name in ("branches", "flat") for number in range(3)
    ]


# ---- the choice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scores", "chosen"), [((0.1, 0.5, 0.3), 1), ((0.1, 0.2, 0.3), 2), ((0.3, 0.1, 0.3), 0)])
def test_the_best_on_val_is_trained(tmp_path, monkeypatch, scores, chosen):
    def scored(recipe, *, run_dir, **options):
        run = fit(recipe, run_dir=run_dir, **options)
        if "trial" in run_dir.name:
            first, *events = run.metrics_file.read_text().splitlines()
            end = json.loads(events[-1])
            end["val"]["accuracy"]["leaf"] = scores[int(run_dir.name[-1])]
            end["best_val"] = 1 - end["val"]["accuracy"]["leaf"]
            run.metrics_file.write_text("\n".join([first, *events[:-1], json.dumps(end)]) + "\n")
        return run

    monkeypatch.setattr(module, "fit", scored)
    record = compare([FLAT], out=tmp_path, overrides=["epochs=1"])["search"]["flat"]
    assert [trial["val"] for trial in record["trials"]] == list(scores)
    assert record["chosen"] == chosen
    trained, values = Run(tmp_path / "flat-seed0").recipe, draw_candidates(FLAT)[chosen]
    for key in SPACE:
        assert value_at(trained, key) == values.get(key, value_at(FLAT, key))


def test_all_seeds_get_what_was_chosen(result, out):
    for recipe in (FLAT, HEADS):
        record = result["search"][recipe.name]
        ends = [Run(out / "search" / f"{recipe.name}-trial{number}").end for number in range(3)]
        scores = [end["val"]["accuracy"]["leaf"] for end in ends]
        assert [trial["val"] for trial in record["trials"]] == scores
        assert scores[record["chosen"]] == max(scores)
        assert record["images"] == sum(end["images"] for end in ends) == 3 * 2 * 160
        assert record["seconds"] == pytest.approx(sum(end["seconds"]["train"] for end in ends))
        values = draw_candidates(FLAT)[record["chosen"]]
        for seed in (0, 1):
            trained = Run(out / f"{recipe.name}-seed{seed}").recipe
            assert all(value_at(trained, key) == values.get(key, value_at(recipe, key)) for key in SPACE)
            assert trained.search is None
        assert value_at(load_recipe(result["recipes"][recipe.name]["recipe"]), "optim.lr") == value_at(trained, "optim.lr")


def test_trials_do_not_read_test(result, out):
    for path in (out / "search").iterdir():
        run = Run(path)
        assert "test" not in run.end
        assert not list(run.predictions.iterdir())
    assert "test" in Run(out / "flat-seed0").end
    assert result["measured_on"] == "test"


def test_trials_are_validated_on_other_images(result, out):
    trial, run = (Run(out / name).events[0]["digests"] for name in ("search/flat-trial0", "flat-seed0"))
    assert trial["val"] != run["val"]
    assert trial["test"] == run["test"]


def test_what_was_tuned_is_told_as_a_difference(result):
    own = [result["search"][name]["chosen"] for name in ("flat", "branches")]
    tuned = result["recipes"]["branches"]["differs_in"]
    assert ("optim.lr" in tuned) == (own[0] != own[1] or own == [0, 0])
    assert "search" not in tuned
    assert "model.heads" in tuned


# ---- again ----------------------------------------------------------------------------------------------------------


def test_a_second_call_trains_nothing(result, out):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")}
    told = []
    assert compare([FLAT, HEADS], seeds=2, out=out, tell=told.append) == result
    assert {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")} == before
    assert len(told) == 6 + 4
    assert all("finished already" in line for line in told)
    assert told[1] == f"flat-trial1, seed {SEARCH_SEED}: finished already, in {out / 'search' / 'flat-trial1'}"


@pytest.mark.long
def test_more_trials_go_on_from_those_that_are_there(tmp_path):
    told = []
    compare([FLAT], out=tmp_path, tell=told.append)
    more = compare([searching(tiny(), trials=4)], out=tmp_path, tell=told.append)
    assert [line for line in told[4:] if "finished" not in line and "trial" in line] == [f"flat-trial3, seed {SEARCH_SEED}"]
    assert len(more["search"]["flat"]["trials"]) == 4


@pytest.mark.long
def test_processes_search_alike(result, tmp_path, forked):
    again = compare([FLAT], out=tmp_path, jobs=2)
    assert comparable(again["search"]["flat"]) == comparable(result["search"]["flat"])
    assert comparable(again["recipes"]["flat"]["runs"][0]) == comparable(result["recipes"]["flat"]["runs"][0])
    assert len(forked.started) == 3 + 1


@pytest.mark.long
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_trial_that_diverges_is_given_up_and_never_chosen(tmp_path, forked, jobs):
    recipe, told = searching(tiny(), trials=2, space={"optim.lr": [1e30]}), []
    result = compare([recipe], out=tmp_path, jobs=jobs, tell=told.append)
    (own, diverged), record = result["search"]["flat"]["trials"], result["search"]["flat"]
    assert (own["val"] > 0, diverged["val"], record["chosen"]) == (True, None, 0)
    assert any(line.startswith(f"flat-trial1, seed {SEARCH_SEED}: given up") for line in told)
    assert record["images"] == Run(tmp_path / "search" / "flat-trial0").end["images"]
    before = Run(tmp_path / "search" / "flat-trial1").events
    assert comparable(compare([recipe], out=tmp_path, jobs=jobs)) == comparable(result)
    assert Run(tmp_path / "search" / "flat-trial1").events == before  # not tried again


def test_trials_that_all_diverge(tmp_path):
    recipe = searching(tiny("optim.lr=1e30"), trials=1)
    with pytest.raises(TrainingError, match="no trial of flat has a finite loss; lower the rates in search.space"):
        compare([recipe], out=tmp_path)


def test_a_compared_run_that_diverges_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="the loss"):
        compare([tiny("optim.lr=1e30")], out=tmp_path)


def test_stopping_in_a_trial(tmp_path):
    recipe, told = searching(odd("seed=3", stop=True), trials=2, space={"optim.lr": [0.1]}), []
    seed = SEARCH_SEED + 3
    compare_it = lambda: compare([recipe], out=tmp_path, trust_imports=True, tell=told.append)  # noqa: E731
    message = f"stopped in flat-trial0, seed {seed}; everything is saved in .*flat-trial0. Go on with the same command$"
    with pytest.raises(Interrupted, match=message) as caught:
        compare_it()
    assert caught.value.signal == signal.SIGTERM
    with pytest.raises(Interrupted, match="stopped in flat-trial1"):
        compare_it()
    assert told == [
        f"flat-trial{end}"
        for end in (
            f"0, seed {seed}",
            f"0, seed {seed}: resuming",
            f"1, seed {seed}",
        )
    ]


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_train_uses_the_recipes_own_values(tmp_path):
    run = fit(FLAT, run_dir=tmp_path / "run")
    assert run.recipe == FLAT
    assert run.recipe.optim.lr == 0.05


def test_without_a_search_section_nothing_is_searched(tmp_path):
    assert compare([tiny()], out=tmp_path)["search"] is None
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize("other", [tiny("name=other"), searching(tiny("name=other"), trials=4), searching(tiny("name=other"), seed=1)])
def test_unequal_search(tmp_path, other):
    with pytest.raises(RecipeError, match="flat and other search differently; equal tuning needs the same search: section in both"):
        compare([FLAT, other], out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optim.momentm": [0.5]}, "optim.momentm: unknown key; did you mean 'momentum'?"),
        ({"optim.lr": ["fast"]}, "optim.lr: should be a valid number.*got 'fast'"),
        ({"schedule.warmup_epochs": {"low": 0, "high": 3}}, "schedule.warmup_epochs: should be a valid integer"),
        ({"model.heads.0.weight": [0.5]}, "'0' is no item of a list of 0"),
        ({"optim.lr.low": [1]}, "there is nothing below the value 0.05"),
        ({"seed": [1, 2]}, "search.space cannot have 'seed': all runs of a comparison have that in common"),
        ({"data.val": [1, 2], "name": ["a"]}, "search.space cannot have 'data.val', 'name'"),
        ({"eval.test": [False]}, "search.space cannot have 'eval.test'"),
    ],
)
def test_space_that_a_recipe_does_not_take(tmp_path, space, message):
    with pytest.raises(RecipeError, match=message):
        compare([searching(tiny(), space=space)], out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"trials": 2, "space": {}}, "search.space: Dictionary should have at least 1 item"),
        ({"trials": 2, "space": {"optim.lr": []}}, "search.space.optim.lr: List should have at least 1 item"),
        ({"trials": 2, "space": {"optim.lr": {"low": 0.3, "high": 0.1}}}, "search.space.optim.lr: should have low < high"),
        ({"trials": 2, "space": {"optim.lr": {"low": 0, "high": 1, "log": True}}}, "search.space.optim.lr: .*low > 0 with log: true"),
        ({"trials": 2, "space": {"optim.lr": {"low": 0, "high": math.inf}}}, "search.space.optim.lr.high: should be a finite number"),
        ({"trials": 2, "space": {"optim.lr": 0.1}}, "search.space.optim.lr: should be a valid dictionary"),
        ({"trials": 0, "space": SPACE}, "search.trials: should be greater than or equal to 1"),
        ({"space": SPACE}, "search.trials: is missing"),
        ({"trials": 2, "space": SPACE, "sampler": "tpe"}, "search.sampler: unknown key"),
    ],
)
def test_search_section_that_is_no_search(search, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny().plain() | {"search": search})
