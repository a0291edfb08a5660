"""What is read out of finished runs: gaps, convergence, mistakes, levels, environments."""

import csv
import io
import json
import shutil
from unittest.mock import ANY

import pytest
from train.tiny import BRANCHES, tiny

from hiercnn import Run, fit
from hiercnn.compare import cells, csv_text, difference_cells, markdown, paired_difference, summarise
from hiercnn.errors import RecipeError

ANYTIME = ("schedule.name=constant", "train.ema=0.9", "epochs=4")
FLAT, HEADS = tiny(*ANYTIME), tiny(*ANYTIME, BRANCHES, "name=branches")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of finished runs: two recipes, two seeds."""
    root = tmp_path_factory.mktemp("trained")
    for recipe in (FLAT, HEADS):
        for seed in (0, 1):
            fit(recipe, overrides=[f"seed={seed}"], run_dir=root / f"{recipe.name}-seed{seed}")
    return root


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of them, to be written in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return {name: [Run(tmp_path / f"{name}-seed{seed}") for seed in (0, 1)] for name in ("flat", "branches")}


def rewrite(run: Run, change) -> None:
    """Change the events of a finished run."""
    events = run.events
    for event in events:
        change(event)
    run.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in events))


def set_curve(run: Run, *points) -> None:
    """Give the epochs of a run (train NLL, val NLL, val leaf accuracy)."""
    left = list(points)

    def change(event):
        if event["event"] == "epoch":
            event["train_subset"]["nll"], event["val"]["nll"], event["val"]["accuracy"]["leaf"] = left.pop(0)

    rewrite(run, change)
    assert not left


def test_gap_at_equal_train_nll(runs):
    # both reach 1: flat halfway between its last two epochs, branches at its second
    for run in runs["flat"]:
        set_curve(run, (4, 4, 0), (3, 3, 0), (2, 3, 0), (0, 5, 0))  # val NLL 4 there, so 3 above
    for run, val in zip(runs["branches"], (2.0, 1.5), strict=True):
        set_curve(run, (3, 3, 0), (1, val, 0), (1.5, 9, 0), (2, 9, 0))
    row = summarise(runs, [FLAT, HEADS])["recipes"]["branches"]["gap_at_equal_nll"]
    assert row["own"]["mean"] == pytest.approx(0.75)  # 2 − 1 and 1.5 − 1
    assert row["baseline"]["mean"] == pytest.approx(3)
    assert row["difference"] == paired_difference([1.0, 0.5], [3.0, 3.0])


def test_gap_of_curves_that_do_not_meet(runs):
    result = summarise(runs, [FLAT, HEADS])["recipes"]["branches"]
    assert result["gap_at_equal_nll"] is not None
    set_curve(runs["flat"][1], (1, 1, 0), (0.8, 1, 0), (0.7, 1, 0), (0.6, 1, 0))
    set_curve(runs["branches"][1], (5, 5, 0), (4, 5, 0), (3, 5, 0), (2, 5, 0))  # never as low as flat starts
    result = summarise(runs, [FLAT, HEADS])
    assert result["recipes"]["branches"]["gap_at_equal_nll"] is None  # though the pair of seed 0 has one
    assert result["recipes"]["flat"]["gap_at_equal_nll"]["difference"]["mean"] == 0
    assert [row[-2] for row in difference_cells(result)] == ["Δ gap at equal train NLL", "–"]


def test_area_and_target_of_a_run(runs):
    set_curve(runs["flat"][0], (1, 1, 0.1), (1, 1, 0.2), (1, 1, 0.4), (1, 1, 0.3))  # medians of three 0.2, 0.3
    set_curve(runs["flat"][1], (1, 1, 0.1), (1, 1, 0.2), (1, 1, 0.4), (1, 1, 0.5))  # 0.2, 0.4
    set_curve(runs["branches"][0], (1, 1, 0.5), (1, 1, 0.3), (1, 1, 0.3), (1, 1, 0.3))  # 0.3, 0.3
    set_curve(runs["branches"][1], (1, 1, 0.1), (1, 1, 0.3), (1, 1, 0.5), (1, 1, 0.6))  # 0.3, 0.5
    result = summarise(runs, [FLAT, HEADS])
    assert result["convergence"] == "anytime"
    flat, branches = result["recipes"]["flat"], result["recipes"]["branches"]
    assert [one["auc"] for one in flat["runs"]] == pytest.approx([(0.15 + 0.3 + 0.35) / 3, (0.15 + 0.3 + 0.45) / 3])
    assert branches["auc"]["mean"] == pytest.approx(((0.4 + 0.3 + 0.3) / 3 + (0.2 + 0.4 + 0.55) / 3) / 2)
    assert [one["target"] for one in flat["runs"] + branches["runs"]] == [0.3, 0.4, 0.3, 0.4]  # each pair has its own
    assert [one["epochs_to_target"] for one in branches["runs"]] == [3, 4]
    assert branches["epochs_to_target"] == 3.5
    set_curve(runs["branches"][1], *[(1, 1, 0.2)] * 4)
    assert summarise(runs, [FLAT, HEADS])["recipes"]["branches"]["epochs_to_target"] is None  # one seed does not reach it


@pytest.mark.parametrize(
    "other", [("epochs=3",), ("epochs=4", "eval.every=2"), ("epochs=4", "train.ema=null"), ("epochs=4", "schedule.name=cosine")]
)
def test_anytime_only_where_epochs_agree(runs, other):
    alike = tiny(*ANYTIME, "name=other", "optim.lr=0.02")
    assert summarise(runs | {"other": runs["flat"]}, [FLAT, HEADS, alike])["convergence"] == "anytime"
    unlike = tiny(*ANYTIME, "name=other", *other)
    result = summarise(runs | {"other": runs["flat"]}, [FLAT, HEADS, unlike])
    assert result["convergence"] == "budget"
    assert all(one["target"] is one["epochs_to_target"] is None for row in result["recipes"].values() for one in row["runs"])


def test_mistakes_are_those_of_test(runs):
    result = summarise(runs, [FLAT, HEADS])
    for name in ("hd1", "severity"):
        own, flat = ([run.end["test"][name] for run in runs[which]] for which in ("branches", "flat"))
        assert [one[name] for one in result["recipes"]["branches"]["runs"]] == own
        assert result["recipes"]["branches"][name]["mean"] == pytest.approx(sum(own) / 2)
        assert result["recipes"]["branches"]["difference"][name] == paired_difference(own, flat)


def test_old_runs_have_no_mistakes(runs):
    def older(event):
        for split in ("val", "test"):
            for name in ("hd1", "severity"):
                event.get(split, {}).pop(name, None)

    rewrite(runs["flat"][1], older)
    result = summarise(runs, [FLAT, HEADS])
    for name in ("hd1", "severity"):
        assert result["recipes"]["flat"][name] is None
        assert result["recipes"]["branches"][name] is not None
        assert result["recipes"]["branches"]["difference"][name] is None  # there is no pair to take it from
    assert [row[5:7] for row in cells(result)] == [["HD@1", "severity"], ["–", "–"], ANY]
    assert "–" not in cells(result)[2]
    assert difference_cells(result)[1][-4:-2] == ["–", "–"]
    table = list(csv.DictReader(io.StringIO(csv_text(result))))
    assert [row["hd1"] == "" for row in table] == [False, True, False, False]


def test_on_val_where_a_run_has_no_test(runs):
    def untested(event):
        event.pop("test", None)

    for run in (*runs["flat"], *runs["branches"]):
        rewrite(run, untested)
    result = summarise(runs, [FLAT, HEADS])
    assert result["measured_on"] == "val"
    assert result["recipes"]["flat"]["runs"][0]["accuracy"] == runs["flat"][0].end["val"]["accuracy"]


def test_every_run_has_its_environment(runs):
    path = runs["branches"][1].path / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "another machine"}))
    result = summarise(runs, [FLAT, HEADS])
    assert [one["environment"]["device"] for one in result["recipes"]["branches"]["runs"]][1] == "another machine"
    assert "the runs were made in 2 environments" in markdown(result)
    assert result["environment"] == result["recipes"]["flat"]["runs"][0]["environment"]


def test_a_baseline_can_be_named(runs):
    assert summarise(runs, [FLAT, HEADS])["baseline"] == "flat"
    result = summarise(runs, [FLAT, HEADS], baseline="branches")
    assert result["baseline"] == "branches"
    assert result["recipes"]["branches"]["difference"]["leaf"]["mean"] == 0
    ours, theirs = ([run.end["test"]["accuracy"]["leaf"] for run in runs[name]] for name in ("flat", "branches"))
    assert result["recipes"]["flat"]["difference"]["leaf"] == paired_difference(ours, theirs)
    assert result["recipes"]["flat"]["differs_in"] == ["model.heads"]


def test_seconds_are_compared_pair_by_pair(runs):
    for name, seconds in (("flat", (10, 20)), ("branches", (20, 30))):
        for run, one in zip(runs[name], seconds, strict=True):
            rewrite(run, lambda event, one=one: event.get("event") == "end" and event["seconds"].update(train=one))
    ratio = summarise(runs, [FLAT, HEADS])["recipes"]["branches"]["seconds_ratio"]
    assert ratio["mean"] == pytest.approx((2 + 1.5) / 2)


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_images_are_no_pair(runs, split):
    rewrite(runs["branches"][1], lambda event: event.get("digests", {}).update({split: "other"}))
    with pytest.raises(RecipeError, match=f"branches and flat cannot be compared: seed 1 has other {split} images in .*branches-seed1 and"):
        summarise(runs, [FLAT, HEADS])


def test_other_images_of_a_shorter_run_are_no_pair(runs, tmp_path):
    shutil.copytree(runs["flat"][0].path, tmp_path / "flat-0.5E-seed0")
    short = Run(tmp_path / "flat-0.5E-seed0")
    one = {"flat": runs["flat"][:1]}
    listed = {("flat", 1.0): one["flat"], ("flat", 0.5): [short]}
    assert [point["share"] for point in summarise(one, [FLAT], short=listed)["budgets"]["flat"]] == [0.5, 1.0]
    rewrite(short, lambda event: event.get("digests", {}).update(test="other"))
    with pytest.raises(RecipeError, match="seed 0 has other test images in .*flat-0.5E-seed0 and"):
        summarise(one, [FLAT], short=listed)
