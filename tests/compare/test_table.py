"""What compare.json holds as tables: in the terminal, in markdown, in CSV."""

import csv
import io

import pytest
from rich.console import Console

from hiercnn.compare import cells, csv_text, difference_cells, markdown, markdown_table, notes, table
from hiercnn.compare._table import budget_cells, search_cells

ENVIRONMENT = {"device": "a CPU, 4 cores", "precision": "float32", "git": "abc", "versions": {"torch": "2.9.0"}}
GROUPS = "3 groups"


def comparison(seeds: int = 1, convergence: str = "anytime") -> dict:
    """Flat at 50 % against heads at 60 % that reach the target, and slow ones at 40 % that do not."""

    def spread(mean, sd):
        return {"mean": mean, "sd": sd if seeds > 1 else None}

    def difference(mean, half):
        return {"mean": mean, "pairs": seeds, "interval": [mean - half, mean + half] if seeds > 1 else None}

    def run(seed, leaf):
        return {
            "path": f"run-seed{seed}",
            "seed": seed,
            "environment": ENVIRONMENT,
            "accuracy": {GROUPS: 0.9, "9 groups": 0.8, "leaf": leaf},
            "hd1": 0.75,
            "severity": None,
            "gap": 0.2,
            "auc": 0.45,
            "epochs_to_target": 4,
            "seconds": {"train": 12.5, "eval": 1.25},
            "images": 1600,
            "parameters": 9000,
            "peak_memory_mib": None,
        }

    def row(leaf, mean, epochs, differs_in=("model.heads",)):
        return {
            "runs": [run(seed, leaf) for seed in range(seeds)],
            "differs_in": list(differs_in),
            "epochs": 10,
            "images": 1600,
            "accuracy": {GROUPS: spread(0.9, 0.01), "leaf": spread(leaf, 0.02)},
            "difference": {
                GROUPS: difference(mean / 2, 0.05),
                "leaf": difference(mean, 0.105),
                "hd1": difference(-mean, 0.02),
                "severity": None,
            },
            "hd1": spread(0.75, 0.125),
            "severity": None,
            "gap": spread(mean + 0.05, 0.01),
            "gap_at_equal_nll": {"difference": difference(-0.25, 0.5)} if leaf > 0.4 else None,
            "auc": spread(0.45, 0.01),
            "epochs_to_target": epochs,
            "seconds": spread(12.3, 1),
            "seconds_ratio": spread(1.005, 0.1),
        }

    return {
        "baseline": "flat",
        "measured_on": "test",
        "convergence": convergence,
        "epochs": 10,
        "levels": [GROUPS, "leaf"],
        "environment": ENVIRONMENT,
        "recipes": {"flat": row(0.5, 0.0, 9.5, ()), "heads": row(0.6, 0.1, 4), "slow": row(0.4, -0.1, None)},
        "budgets": None,
        "search": None,
    }


def with_budgets(result: dict) -> dict:
    def points(*pairs):
        listed = zip((0.4, 0.75, 1.0), pairs, strict=True)
        return [
            {"share": share, "accuracy": {"mean": leaf, "sd": 0.02}, "difference": {"mean": mean, "interval": [mean - 0.1, mean + 0.1]}}
            for share, (leaf, mean) in listed
        ]

    return result | {
        "budgets": {
            "flat": points((0.3, -0.2), (0.4, -0.1), (0.5, 0.0)),
            "heads": points((0.4, -0.1), (0.55, 0.05), (0.6, 0.1)),
            "slow": points((0.2, -0.3), (0.3, -0.2), (0.4, -0.1)),
        }
    }


def with_search(result: dict) -> dict:
    values = [{}, {"optim.lr": 0.0123456, "optim.clip_norm": None}, {"optim.lr": 0.2, "optim.clip_norm": 1}]

    def record(chosen, *scores):
        trials = [{"values": value, "val": score} for value, score in zip(values, scores, strict=True)]
        return {"trials": trials, "chosen": chosen, "images": 12000, "seconds": 60.4}

    return result | {"search": {"flat": record(0, 0.5, None, 0.5), "heads": record(2, 0.5, 0.25, 0.75)}}


def text(result: dict, width: int = 200) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(table(result))
    return console.export_text()


def markdown_cells(text: str) -> list[list[str]]:
    """Every table line of a markdown text, as cells."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]


# ---- cells ----------------------------------------------------------------------------------------------------------


def test_cells_of_one_seed():
    columns = [GROUPS, "leaf", "leaf − baseline", "HD@1", "severity", "epochs to target", "AUC", "train–val gap", "train time"]
    assert cells(comparison()) == [
        ["recipe", *columns],
        ["flat", "90.0", "50.0", "baseline", "0.75", "–", "9.5", "45.0", "+5.0", "12 s"],
        ["heads", "90.0", "60.0", "+10.0", "0.75", "–", "4", "45.0", "+15.0", "12 s"],
        ["slow", "90.0", "40.0", "-10.0", "0.75", "–", "> 10", "45.0", "-5.0", "12 s"],
    ]


def test_cells_of_several_seeds_show_spread_and_interval():
    heads = cells(comparison(seeds=5))[2]
    assert heads[1:6] == ["90.0 ± 1.0", "60.0 ± 2.0", "+10.0 [-0.5, +20.5]", "0.75 ± 0.12", "–"]
    assert heads[7:9] == ["45.0 ± 1.0", "+15.0 ± 1.0"]


def test_budget_convergence_has_no_epochs_to_target():
    assert cells(comparison(convergence="budget"))[0][4:] == ["HD@1", "severity", "train–val gap", "train time"]
    assert cells(comparison(convergence="budget"))[2][4:] == ["0.75", "–", "+15.0", "12 s"]


def test_difference_cells():
    header, heads, slow = difference_cells(comparison(seeds=5))
    assert header == ["recipe", "Δ 3 groups", "Δ leaf", "Δ HD@1", "Δ severity", "Δ gap at equal train NLL", "time ÷ baseline"]
    assert heads == ["heads", "+5.0 [+0.0, +10.0]", "+10.0 [-0.5, +20.5]", "-0.100 [-0.120, -0.080]", "–", "-0.25 [-0.75, +0.25]", "1.00"]
    assert slow == ["slow", "-5.0 [-10.0, +0.0]", "-10.0 [-20.5, +0.5]", "+0.100 [+0.080, +0.120]", "–", "–", "1.00"]
    assert difference_cells(comparison())[1][:4] == ["heads", "+5.0", "+10.0", "-0.100"]


def test_budget_cells():
    assert budget_cells(with_budgets(comparison(seeds=2))) == [
        ["recipe", "0.4 E", "0.75 E", "1 E", "as good as the baseline at E"],
        ["flat", "30.0 ± 2.0 (-20.0 [-30.0, -10.0])", "40.0 ± 2.0 (-10.0 [-20.0, +0.0])", "50.0 ± 2.0", "1 E"],
        ["heads", "40.0 ± 2.0 (-10.0 [-20.0, +0.0])", "55.0 ± 2.0 (+5.0 [-5.0, +15.0])", "60.0 ± 2.0 (+10.0 [+0.0, +20.0])", "0.75 E"],
        ["slow", "20.0 ± 2.0 (-30.0 [-40.0, -20.0])", "30.0 ± 2.0 (-20.0 [-30.0, -10.0])", "40.0 ± 2.0 (-10.0 [-20.0, +0.0])", "–"],
    ]


def test_search_cells():
    assert search_cells(with_search(comparison())) == [
        ["candidate", "flat", "heads"],
        ["the recipe's own values", "50.0 ← chosen", "50.0"],
        ["optim.lr 0.0123, optim.clip_norm None", "not finite", "25.0"],
        ["optim.lr 0.2, optim.clip_norm 1", "50.0", "75.0 ← chosen"],
        ["cost of all trials", "12,000 images, 60 s", "12,000 images, 60 s"],
    ]


# ---- markdown -------------------------------------------------------------------------------------------------------


def test_markdown_table_puts_numbers_to_the_right():
    assert markdown_table([["recipe", "leaf"], ["flat", "50.0"]]) == "| recipe | leaf |\n|---|---:|\n| flat | 50.0 |"


def test_markdown_table_escapes_bars():
    assert markdown_table([["a|b", "c"], ["d", "|"]]).splitlines() == [r"| a\|b | c |", "|---|---:|", r"| d | \| |"]


def test_markdown_holds_every_table():
    result = with_search(with_budgets(comparison(seeds=2)))
    written = markdown(result)
    assert written.startswith("## test accuracy in %, 2 seeds, 10 epochs\n\n| recipe | ")
    expected = [*cells(result), *difference_cells(result), *budget_cells(result), *search_cells(result)]
    assert markdown_cells(written) == expected
    assert [line.removeprefix("- ") for line in written.splitlines() if line.startswith("- ")] == notes(result)


@pytest.mark.parametrize("alone", [{"seeds": 1}, {"seeds": 2, "only": "flat"}])
def test_differences_need_pairs(alone):
    only = alone.pop("only", None)
    result = comparison(**alone)
    if only:
        result["recipes"] = {only: result["recipes"][only]}
    assert markdown_cells(markdown(result)) == cells(result)
    assert "paired differences" not in text(result)


# ---- CSV ------------------------------------------------------------------------------------------------------------


def test_csv_has_a_row_a_run():
    result = comparison(seeds=2)
    result["recipes"]['odd, "name"'] = result["recipes"].pop("slow")
    rows = list(csv.DictReader(io.StringIO(csv_text(result))))
    assert [(row["recipe"], row["seed"]) for row in rows] == [(name, str(seed)) for name in result["recipes"] for seed in (0, 1)]
    assert rows[2] == {
        "recipe": "heads",
        "seed": "0",
        "accuracy 3 groups": "0.9",
        "accuracy leaf": "0.6",
        "hd1": "0.75",
        "severity": "",
        "gap": "0.2",
        "auc": "0.45",
        "epochs_to_target": "4",
        "images": "1600",
        "parameters": "9000",
        "peak_memory_mib": "",
        "train_seconds": "12.5",
        "eval_seconds": "1.25",
    }


# ---- notes ----------------------------------------------------------------------------------------------------------


def said(result: dict) -> str:
    return "\n".join(notes(result))


def test_notes_say_what_differs():
    assert "the recipes differ from flat in model.heads and nothing else" in notes(comparison())
    result = comparison()
    result["recipes"]["slow"]["differs_in"] = ["optim.lr", "epochs"]
    assert "the recipes differ from flat in epochs, model.heads, optim.lr and nothing else" in notes(result)
    result["recipes"] = {"flat": result["recipes"]["flat"]}
    assert "differ" not in said(result)


def test_notes_say_when_budgets_differ():
    result = comparison()
    assert "budget" not in said(result)
    result["recipes"]["slow"]["images"] = 3200
    assert "not the same budget; images seen in training: flat 1,600, heads 1,600, slow 3,200" in notes(result)


def test_notes_count_seeds():
    assert "1 seed is too few for a claim: use --seeds 5 or more" in notes(comparison())
    assert "± standard deviation" not in said(comparison())
    assert "4 seeds are too few for a claim: use --seeds 5 or more" in notes(comparison(seeds=4))
    assert "± standard deviation over seeds; [ ] 95 % t interval of the paired difference" in notes(comparison(seeds=4))
    assert "too few" not in said(comparison(seeds=5))


def test_notes_tell_the_target_of_anytime_curves():
    wanted = "target: the last val accuracy (median of 3) of flat, same seed; constant lr, averaged weights"
    assert wanted in notes(comparison())
    assert "target" not in said(comparison(convergence="budget"))


@pytest.mark.parametrize("what", ["device", "precision", "git"])
def test_notes_tell_environments(what):
    result = comparison(seeds=2)
    assert "environments" not in said(result)
    assert "a CPU, 4 cores, torch 2.9.0, float32" in notes(result)
    result["recipes"]["slow"]["runs"][1]["environment"] = ENVIRONMENT | {what: "other"}
    assert "the runs were made in 2 environments (device, precision, commit); compare.json has them all" in notes(result)


# ---- terminal -------------------------------------------------------------------------------------------------------


def test_terminal_shows_every_cell_and_note():
    result = with_search(with_budgets(comparison(seeds=2)))
    printed = text(result)
    assert "test accuracy in %, 2 seeds, 10 epochs" in printed
    assert "paired differences, 95 % t intervals; accuracy in points, gap in nats" in printed
    assert "leaf accuracy with complete schedules of a share of the epochs E" in printed
    assert "tuning, equal for all; leaf accuracy on val" in printed
    lines = [line.split() for line in printed.splitlines()]
    for row in [*cells(result), *difference_cells(result), *budget_cells(result), *search_cells(result)]:
        assert " ".join(row).split() in lines
    for note in notes(result):
        assert note in printed


@pytest.mark.parametrize("width", [40, 80])
def test_narrow_terminal_keeps_the_names(width):
    printed = text(comparison(seeds=5), width)
    assert all(name in printed for name in ("flat", "heads", "slow"))
