"""What is said of runs, and which runs may stand in one table."""

import re

import numpy as np
import pytest
from report.conftest import three_levels

from hiercnn.errors import RecipeError
from hiercnn.hierarchy import builtin, from_edges
from hiercnn.recipe import load_recipe
from hiercnn.report._overview import blocks_sentences, check_same_classes, comparison, role, sentences


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("cifar100/flat", "flat"),
        ("cifar100/branches", "branches"),
        ("cifar100/deep_supervision", "deep supervision"),
        ("cifar100/random_groups", "random groups"),
        ("cifar100/late_head", "late heads"),
        ("cifar100/level_nll", "hierarchical loss"),
    ],
)
def test_roles_of_the_shipped_recipes(recipe, wanted):
    assert role(load_recipe(recipe, check=False).plain()) == wanted


def found(branches: list[float], flat: list[float], control: list[float] | None = None, interval: bool = True) -> dict:
    """What `summarise` returns of made accuracies, as far as sentences read it."""

    def difference(ours: list[float]) -> dict:
        apart = np.array(ours) - flat
        half = 2 * apart.std(ddof=1) if interval else 0
        return {"mean": apart.mean(), "pairs": len(apart), "interval": [apart.mean() - half, apart.mean() + half] if interval else None}

    def row(name: str, ours: list[float]) -> dict:
        recipe = load_recipe(f"cifar100/{name}", check=False).plain()
        runs = [{"accuracy": {"leaf": value}} for value in ours]
        return {"recipe": recipe, "runs": runs, "difference": {"leaf": difference(ours)}, "gap_at_equal_nll": None}

    rows = {"flat": row("flat", flat), "branches": row("branches", branches)}
    rows |= {"control": row("deep_supervision", control)} if control else {}
    return {"recipes": rows, "baseline": "flat", "levels": ["leaf"], "convergence": "budget"}


FLAT = [0.50, 0.51, 0.50, 0.52, 0.51]


def said(result: dict) -> list[str]:
    return [f"{each.tone}: {each.text}" for each in sentences(result)]


def test_a_gain_without_controls_is_not_credited():
    lines = said(found([x + 0.02 + 0.001 * i for i, x in enumerate(FLAT)], FLAT))
    assert lines[0].startswith("yes: branches is ahead of flat at the leaf: +2.2 [")
    assert any(line.startswith("open: No control") for line in lines)
    assert not any("too few" in line for line in lines)


def test_a_gain_that_a_control_shares_is_not_credited():
    branches = [x + 0.02 + 0.001 * i for i, x in enumerate(FLAT)]
    lines = said(found(branches, FLAT, control=[x + 0.001 * (-1) ** i for i, x in enumerate(branches)]))
    (line,) = (line for line in lines if "its control" in line)
    assert line.startswith("open: branches is not told apart from its control control (deep supervision) at the leaf")
    assert line.endswith("5 pairs; the control explains as much.")


def test_a_loss_and_a_difference_that_is_none():
    assert said(found([x - 0.02 - 0.001 * i for i, x in enumerate(FLAT)], FLAT))[0].startswith("no: branches is behind flat")
    assert said(found([x + 0.02 * (-1) ** i for i, x in enumerate(FLAT)], FLAT))[0].startswith("open: branches is not told apart from flat")


def test_one_pair_supports_nothing():
    lines = said(found([0.6], [0.5], interval=False))
    assert lines[0] == "open: branches stands beside flat at the leaf: +10.0 points, one pair of runs, so no interval."
    assert lines[-1] == "open: 1 seed: too few for a claim; five or more are needed."


def test_blocks_are_told_from_random_groups():
    tree, rng = builtin("cifar100"), np.random.default_rng(0)
    cut = tree.cut(groups=20)
    same = cut.groups[:, None] == cut.groups
    evenly = rng.poisson(1.0, (100, 100)) * ~np.eye(100, dtype=bool)
    (even,) = blocks_sentences(evenly, tree, [cut])
    (blocks,) = blocks_sentences(evenly * (1 + 9 * same), tree, [cut])
    assert (even.tone, blocks.tone) == ("no", "yes")
    assert re.search(r"20 groups 2\d % of the time, [67]\.\d times as often", blocks.text)
    assert blocks_sentences(np.eye(100), tree, [cut])[0].text == "There is no error, so no pattern in errors."


def test_only_finished_runs_of_common_seeds_are_compared(bench, tmp_path):
    tree = three_levels()
    made = {(name, seed): bench.made_run(tmp_path / f"{name}{seed}", tree, name=name, seed=seed, epochs=4, images=False)
            for name, seed in (("flat", 0), ("flat", 1), ("other", 0))}  # fmt: skip
    half = bench.made_run(tmp_path / "half", tree, name="half", epochs=4, images=False)
    half.keep_events(3)
    compared = comparison([*made.values(), half])
    assert {name: [run.path.name for run in runs] for name, runs in compared.runs.items()} == {"flat": ["flat0"], "other": ["other0"]}
    assert compared.notes == ["Not finished, so in no table: half.", "Their seed is not that of every recipe, so in no table: flat1."]
    assert comparison([half]).result is None
    with pytest.raises(RecipeError, match="flat0 and .*flat1 are both 'flat' with seed 0; name one of them"):
        comparison([made["flat", 0], bench.made_run(tmp_path / "more" / "flat1", tree, name="flat", epochs=1, images=False)])


def test_different_trees_of_the_same_classes_share_their_levels(bench, tmp_path):
    tree = three_levels()
    flat = from_edges([("top", "rest"), *(("rest", name) for name in tree.classes[1:]), ("top", tree.classes[0])]).with_classes(
        tree.classes
    )
    runs = [bench.made_run(tmp_path / "one", tree, name="one", epochs=4, images=False),
            bench.made_run(tmp_path / "two", flat, name="two", epochs=4, images=False, cuts=[{"depth": 1}])]  # fmt: skip
    for run in runs:  # the same images
        text = run.metrics_file.read_text().replace(tree.digest, "same").replace(flat.digest, "same")
        run.metrics_file.write_text(text)
    check_same_classes(runs)
    compared = comparison(runs)
    assert compared.result["levels"] == ["leaf"]
    assert compared.notes == ["The runs have different trees; accuracy is compared at the levels that they share."]


def test_other_classes_cannot_share_a_report(run, bench, tmp_path):
    other = bench.made_run(tmp_path / "other", bench.balanced_tree((2, 2)), epochs=1, cuts=[{"depth": 1}], images=False)
    with pytest.raises(
        RecipeError, match=r"other cannot share a report, they have other classes: only one of them has .*; make one for each"
    ):
        check_same_classes([run, other])
