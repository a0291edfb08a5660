"""The same recipe with complete, shorter schedules, and how they are set beside the whole one."""

import pytest
from train.tiny import BRANCHES, tiny

from hiercnn import Run
from hiercnn.compare import compare, paired_difference, shortened
from hiercnn.errors import RecipeError
from hiercnn.train import weight_at

LONG = tiny("epochs=20", "schedule.warmup_epochs=5")


# ---- a shorter recipe -----------------------------------------------------------------------------------------------


def test_nothing_but_the_length_is_changed():
    short = shortened(LONG, 0.4)
    assert (short.epochs, short.schedule.warmup_epochs) == (8, 2)
    assert shortened(short, 1.0) == short
    assert short.model_copy(update={"epochs": 20, "schedule": LONG.schedule}) == LONG


def test_the_whole_share_is_the_recipe_itself():
    constant = tiny("schedule.name=constant")
    assert shortened(constant, 1) == constant


def test_linear_weights_run_their_whole_course():
    head = "{stage: 0, cut: 3, weight: {linear: {start: 1, end: 0.2, epochs: 10}}}"
    recipe = tiny("epochs=20", f"model.heads=[{head}]", "loss.weight={linear: {start: 0, end: 1, epochs: 20}}")
    short = shortened(recipe, 0.4)
    for one, other in ((short.model.heads[0].weight, recipe.model.heads[0].weight), (short.loss.weight, recipe.loss.weight)):
        assert [weight_at(one, epoch) for epoch in range(0, 9, 2)] == pytest.approx([weight_at(other, epoch) for epoch in range(0, 21, 5)])
    assert (short.model.heads[0].stage, short.model.heads[0].cut) == (0, 3)


def test_steps_come_at_their_share_of_the_epochs():
    recipe = tiny(
        "epochs=20", "model.heads=[{stage: 0, cut: 3, weight: {steps: {0: 0.5, 10: 0.1, 15: 0}}}, {stage: 1, cut: 9, weight: 0.3}]"
    )
    heads = shortened(recipe, 0.4).model.heads
    assert heads[0].weight.steps == {0: 0.5, 4: 0.1, 6: 0}
    assert heads[1].weight == 0.3


def test_a_short_recipe_has_at_least_one_epoch():
    head = "{stage: 0, cut: 3, weight: {linear: {start: 1, end: 0, epochs: 2}}}"
    short = shortened(tiny(f"model.heads=[{head}]"), 0.01)
    assert short.epochs == 1
    assert short.model.heads[0].weight.linear.epochs == 1


@pytest.mark.parametrize("share", [0, -0.5, 1.01, 40, float("nan"), float("inf")])
def test_share_out_of_range(share):
    with pytest.raises(RecipeError, match="a budget is a share of the epochs, 0 < share <= 1; got"):
        shortened(LONG, share)


@pytest.mark.parametrize("name", ["constant", "step", "multistep"])
def test_schedules_that_do_not_end_with_training(name):
    with pytest.raises(RecipeError, match=f"flat: budgets need a schedule that ends with training \\(cosine, poly, tanh\\), not {name}"):
        shortened(tiny(f"schedule.name={name}"), 0.5)


# ---- compare --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("budgets")


@pytest.fixture(scope="module")
def result(out):
    """Two recipes of four epochs, two seeds, half and three quarters of the epochs as well."""
    return compare([tiny("epochs=4"), tiny("epochs=4", BRANCHES, "name=branches")], seeds=2, out=out, budgets=[0.75, 0.5, 1, 0.5])


def test_every_budget_has_folders_of_its_own(result, out):
    wanted = {
        f"{name}{share}-seed{seed}": epochs
        for name in ("flat", "branches")
        for share, epochs in (("", 4), ("-0.5E", 2), ("-0.75E", 3))
        for seed in (0, 1)
    }
    assert {path.name: Run(path).end["epochs"] for path in out.iterdir() if path.is_dir()} == wanted


def test_short_runs_are_complete(result, out):
    for share, epochs in ((0.5, 2), (0.75, 3)):
        run, whole = Run(out / f"branches-{share}E-seed1"), Run(out / "branches-seed1")
        assert run.metrics[-1]["lr"] < 0.2 * run.recipe.optim.lr
        assert run.metrics[-1]["lr"] != whole.metrics[epochs - 1]["lr"]
        assert (run.recipe.seed, run.recipe.name) == (1, "branches")


def test_budgets_are_paired_with_the_baselines_whole_runs(result, out):
    def leaf(folder: str) -> list[float]:
        return [Run(out / f"{folder}-seed{seed}").end["test"]["accuracy"]["leaf"] for seed in (0, 1)]

    assert list(result["budgets"]) == ["flat", "branches"]
    for name, points in result["budgets"].items():
        assert [(point["share"], point["epochs"]) for point in points] == [(0.5, 2), (0.75, 3), (1.0, 4)]
        for point, folder in zip(points, (f"{name}-0.5E", f"{name}-0.75E", name), strict=True):
            assert point["runs"] == [f"{folder}-seed0", f"{folder}-seed1"]
            assert point["accuracy"]["mean"] == pytest.approx(sum(leaf(folder)) / 2)
            assert point["difference"] == paired_difference(leaf(folder), leaf("flat"))
            seconds = [Run(out / run).end["seconds"]["train"] for run in point["runs"]]
            assert point["seconds"]["mean"] == pytest.approx(sum(seconds) / 2)
    assert result["budgets"]["flat"][-1]["difference"] == {"mean": 0, "pairs": 2, "interval": [0, 0]}


def test_the_main_table_is_of_whole_runs(result):
    assert result["epochs"] == 4
    assert [run["path"] for run in result["recipes"]["branches"]["runs"]] == ["branches-seed0", "branches-seed1"]
    assert result["recipes"]["branches"]["images"] == 4 * 160


def test_budgets_are_reused(result, out):
    told = []
    again = compare([tiny("epochs=4")], out=out, budgets=[0.5], tell=told.append)
    assert len(told) == 2
    assert all("finished already" in line for line in told)
    assert [point["share"] for point in again["budgets"]["flat"]] == [0.5, 1.0]


@pytest.mark.parametrize("budgets", [[], [1], [1.0]])
def test_without_shorter_ones_there_are_no_budgets(tmp_path, budgets):
    assert compare([tiny("epochs=1")], out=tmp_path, budgets=budgets)["budgets"] is None
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["flat-seed0"]


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ([tiny(), tiny("name=other", "schedule.name=constant")], "other: budgets need a schedule that ends with training"),
        ([tiny("epochs=10", "loss.weight={steps: {0: 0, 9: 1}}")], "loss.weight: ends at 0; the last phase must train the leaf"),
        ([tiny(), tiny("name=flat-0.4E")], "two runs would share '.*/flat-0.4E-seed0'; rename a recipe, or take other budgets"),
    ],
)
def test_impossible_budgets_are_told_before_anything_is_trained(tmp_path, recipes, message):
    with pytest.raises(RecipeError, match=message):
        compare(recipes, out=tmp_path / "new", budgets=[0.4])
    assert not (tmp_path / "new").exists()


@pytest.mark.long
def test_budgets_in_processes(result, tmp_path, forked):
    short = compare([tiny("epochs=4")], seeds=2, out=tmp_path, budgets=[0.5], jobs=2)["budgets"]["flat"]
    for one, other in zip(short, (result["budgets"]["flat"][0], result["budgets"]["flat"][2]), strict=True):
        assert one | {"seconds": None} == other | {"seconds": None}
    assert len(forked.started) == 4
