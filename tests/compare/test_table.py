"""The table in the terminal, from what compare.json holds."""

import pytest
from rich.console import Console

from hiercnn.compare import table

ENVIRONMENT = {"device": "a CPU, 4 cores", "precision": "float32", "git": "abc", "versions": {"torch": "2.9.0"}}


def comparison(seeds: int = 1, convergence: str = "anytime") -> dict:
    """Flat at 50 % against heads at 60 % that reach the target or do not."""

    def row(leaf, difference, epochs):
        several = seeds > 1
        return {
            "runs": [{"environment": ENVIRONMENT}] * seeds,
            "differs_in": [] if epochs == 9.5 else ["model.heads"],
            "accuracy": {
                "3 groups": {"mean": 0.9, "sd": 0.01 if several else None},
                "leaf": {"mean": leaf, "sd": 0.02 if several else None},
            },
            "difference": {"leaf": {"mean": difference, "interval": [-0.005, 0.205] if several else None}},
            "gap": {"mean": 0.2, "sd": None},
            "epochs_to_target": epochs,
            "seconds": {"mean": 12.3},
        }

    recipes = {"flat": row(0.5, 0.0, 9.5), "heads": row(0.6, 0.1, 4), "slow": row(0.4, -0.1, None)}
    facts = {"baseline": "flat", "measured_on": "test", "convergence": convergence, "epochs": 10, "levels": ["3 groups", "leaf"]}
    return facts | {"environment": ENVIRONMENT, "recipes": recipes}


def text(result: dict) -> str:
    console = Console(record=True, width=160, file=open("/dev/null", "w"))  # noqa: SIM115  rich keeps the text
    with console.file:
        console.print(table(result))
    return console.export_text()


def line(printed: str, start: str) -> list[str]:
    return next(cells for cells in map(str.split, printed.splitlines()) if cells[:1] == [start])


def test_what_the_recipes_differ_in_is_said():
    assert "the recipes differ from flat in model.heads and nothing else" in text(comparison())


def test_one_seed():
    printed = text(comparison())
    assert "test accuracy in %, 1 seed, 10 epochs" in printed
    assert line(printed, "flat") == ["flat", "90.0", "50.0", "baseline", "9.5", "+20.0", "12", "s"]
    assert line(printed, "heads") == ["heads", "90.0", "60.0", "+10.0", "4", "+20.0", "12", "s"]
    assert "1 seed is too few for a claim" in printed
    assert "a CPU, 4 cores, torch 2.9.0, float32" in printed


def test_target_that_was_not_reached():
    assert "> 10" in " ".join(line(text(comparison()), "slow"))


def test_several_seeds_show_spread_and_interval():
    printed = text(comparison(seeds=5))
    assert "5 seeds" in printed
    assert "60.0 ± 2.0" in printed
    assert "+10.0 [-0.5, +20.5]" in printed
    assert "95 % t interval" in printed
    assert "too few" not in printed


def test_decaying_schedule_has_no_epochs():
    printed = text(comparison(convergence="budget"))
    assert line(printed, "heads")[4] == "–"
    assert "compare full schedules of several lengths" in printed


@pytest.mark.parametrize("width", [40, 80])
def test_narrow_terminal_keeps_the_names(width):
    console = Console(record=True, width=width, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(table(comparison(seeds=5)))
    printed = console.export_text()
    assert all(name in printed for name in ("flat", "heads", "slow"))
