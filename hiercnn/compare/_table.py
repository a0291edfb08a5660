"""compare.json as a table in the terminal."""

from typing import Any


def cells(result: dict[str, Any]) -> list[list[str]]:
    """The table of a compare.json as texts: a header row, then a row a recipe."""
    header = ["recipe", *result["levels"], "leaf − baseline", "epochs to target", "train–val gap", "train time"]
    rows = []
    for name, row in result["recipes"].items():
        accuracies = [_percent(row["accuracy"][level]) for level in result["levels"]]
        seconds = f"{row['seconds']['mean']:.0f} s"
        rows.append([name, *accuracies, _difference(name, row, result), _epochs(row, result), _points(row["gap"]), seconds])
    return [header, *rows]


def table(result: dict[str, Any]):
    """Return a rich renderable of what `compare` found."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    seeds = len(result["recipes"][result["baseline"]]["runs"])
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold", title=_title(result, seeds))
    (first, *columns), *rows = cells(result)
    grid.add_column(first, no_wrap=True)
    for column in columns:
        grid.add_column(column, justify="right")
    for row in rows:
        grid.add_row(*row)
    return Group(grid, *(Text(line, style="dim") for line in _notes(result, seeds)))


def _title(result: dict[str, Any], seeds: int) -> str:
    return f"{result['measured_on']} accuracy in %, {seeds} seed{'s' if seeds > 1 else ''}, {result['epochs']} epochs"


def _percent(values: dict[str, Any]) -> str:
    sd = "" if values["sd"] is None else f" ± {100 * values['sd']:.1f}"
    return f"{100 * values['mean']:.1f}{sd}"


def _points(values: dict[str, Any]) -> str:
    return ("+" if values["mean"] >= 0 else "") + _percent(values)


def _difference(name: str, row: dict[str, Any], result: dict[str, Any]) -> str:
    if name == result["baseline"]:
        return "baseline"
    leaf = row["difference"]["leaf"]
    low_high = "" if leaf["interval"] is None else f" [{100 * leaf['interval'][0]:+.1f}, {100 * leaf['interval'][1]:+.1f}]"
    return f"{100 * leaf['mean']:+.1f}{low_high}"


def _epochs(row: dict[str, Any], result: dict[str, Any]) -> str:
    if result["convergence"] != "anytime":
        return "–"
    return f"> {result['epochs']}" if row["epochs_to_target"] is None else f"{row['epochs_to_target']:g}"


def _notes(result: dict[str, Any], seeds: int) -> list[str]:
    environment, notes = result["environment"], []
    others = {key for row in result["recipes"].values() for key in row["differs_in"]}
    if others:
        notes.append(f"the recipes differ from {result['baseline']} in {', '.join(sorted(others))} and nothing else")
    places = [run["environment"] for row in result["recipes"].values() for run in row["runs"]]
    made = {(place["device"], place["precision"], place["git"]) for place in places}
    if len(made) > 1:
        notes.append(f"the runs were made in {len(made)} environments (device, precision, commit); compare.json has them all")
    if result["convergence"] == "anytime":
        notes.append(f"target: the last val accuracy (median of 3) of {result['baseline']}, same seed; constant lr, averaged weights")
    else:
        notes.append("epochs to target: – with a decaying schedule; compare full schedules of several lengths instead")
    if seeds > 1:
        notes.append("± standard deviation over seeds; [ ] 95 % t interval of the paired difference")
    if seeds < 5:
        notes.append(f"{seeds} seed{'s are' if seeds > 1 else ' is'} too few for a claim: use --seeds 5 or more")
    notes.append(f"{environment['device']}, torch {environment['versions']['torch']}, {environment['precision']}")
    return notes
