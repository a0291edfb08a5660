"""compare.json as tables: in the terminal, in markdown, and a row a run in CSV."""

import csv
import io
from collections.abc import Callable
from typing import Any

Cells = list[list[str]]


def cells(result: dict[str, Any]) -> Cells:
    """The main table as texts: a header row, then a row a recipe."""
    columns = _columns(result)
    return [["recipe", *columns], *([name, *(show(name, row) for show in columns.values())] for name, row in result["recipes"].items())]


def difference_cells(result: dict[str, Any]) -> Cells:
    """Paired differences to the baseline, with intervals, of everything that is compared; no row for the baseline."""
    header = [
        "recipe",
        *(f"Δ {level}" for level in result["levels"]),
        "Δ HD@1",
        "Δ severity",
        "Δ gap at equal train NLL",
        "time ÷ baseline",
    ]
    rows = []
    for name, row in result["recipes"].items():
        if name != result["baseline"]:
            difference, gap = row["difference"], row["gap_at_equal_nll"]
            accuracies = [_interval(difference[level], 100, 1) for level in result["levels"]]
            mistakes = [_interval(difference[key], 1, 3) for key in ("hd1", "severity")]
            ratio = row["seconds_ratio"]
            rows.append([name, *accuracies, *mistakes, _interval(gap and gap["difference"], 1, 2), f"{ratio['mean']:.2f}"])
    return [header, *rows]


def budget_cells(result: dict[str, Any]) -> Cells:
    """Leaf accuracy at each share of the epochs, and from which share on the mean is at least the baseline's at the whole budget."""
    shares = [point["share"] for point in next(iter(result["budgets"].values()))]
    rows = []
    for name, points in result["budgets"].items():
        itself = [name == result["baseline"] and point["share"] == 1 for point in points]
        texts = [
            _percent(point["accuracy"]) + ("" if same else f" ({_interval(point['difference'], 100, 1)})")
            for point, same in zip(points, itself, strict=True)
        ]
        enough = next((f"{point['share']:g} E" for point in points if point["difference"]["mean"] >= 0), "–")
        rows.append([name, *texts, enough])
    return [["recipe", *(f"{share:g} E" for share in shares), "as good as the baseline at E"], *rows]


def table(result: dict[str, Any]):
    """Return a rich renderable of what `compare` found."""
    from rich.console import Group
    from rich.text import Text

    grids = [_grid(cells(result), title(result))]
    if len(result["recipes"]) > 1 and seeds(result) > 1:
        grids.append(_grid(difference_cells(result), "paired differences, 95 % t intervals; accuracy in points, gap in nats"))
    if result["budgets"]:
        grids.append(_grid(budget_cells(result), "leaf accuracy with complete schedules of a share of the epochs E"))
    if result.get("search"):
        grids.append(_grid(search_cells(result), "tuning, equal for all; leaf accuracy on val in %"))
    return Group(*grids, *(Text(line, style="dim") for line in notes(result)))


def markdown(result: dict[str, Any]) -> str:
    """All tables of a comparison, and their conditions."""
    parts = [f"## {title(result)}", markdown_table(cells(result))]
    if len(result["recipes"]) > 1 and seeds(result) > 1:
        parts += ["Paired differences with 95 % t intervals (accuracy in points, gap in nats):", markdown_table(difference_cells(result))]
    if result["budgets"]:
        parts += ["Leaf accuracy with complete schedules of a share of the epochs E:", markdown_table(budget_cells(result))]
    if result.get("search"):
        parts += ["Tuning, equal for all; leaf accuracy on val in %:", markdown_table(search_cells(result))]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in notes(result))]) + "\n"


def search_cells(result: dict[str, Any]) -> Cells:
    """The trials of the search: a row a candidate, a column a recipe, the chosen one marked; then what they cost."""
    names = list(result["search"])
    rows = []
    for number, trial in enumerate(result["search"][names[0]]["trials"]):
        values = ", ".join(f"{key} {_value(value)}" for key, value in trial["values"].items()) or "the recipe's own values"
        rows.append([values, *(_score(record, number) for record in result["search"].values())])
    cost = [f"{record['images']:,} images, {record['seconds']:.0f} s" for record in result["search"].values()]
    return [["candidate", *names], *rows, ["cost of all trials", *cost]]


def csv_text(result: dict[str, Any]) -> str:
    """A row a run: recipe, seed, accuracy per level, mistakes, gaps, convergence, cost."""
    keys = ["hd1", "severity", "gap", "auc", "epochs_to_target", "images", "parameters", "peak_memory_mib"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["recipe", "seed", *(f"accuracy {level}" for level in result["levels"]), *keys, "train_seconds", "eval_seconds"])
    for name, row in result["recipes"].items():
        for one in row["runs"]:
            accuracies = [one["accuracy"][level] for level in result["levels"]]
            seconds = [one["seconds"][part] for part in ("train", "eval")]
            writer.writerow([name, one["seed"], *accuracies, *("" if one[key] is None else one[key] for key in keys), *seconds])
    return file.getvalue()


def title(result: dict[str, Any]) -> str:
    """What the main table shows."""
    count = seeds(result)
    return f"{result['measured_on']} accuracy in %, {count} seed{'s' if count > 1 else ''}, {epochs(result)} epochs"


def epochs(result: dict[str, Any]) -> str:
    """Number of epochs of all recipes, or from the fewest to the most."""
    counts = sorted({row["epochs"] for row in result["recipes"].values()})
    return f"{counts[0]}–{counts[-1]}" if len(counts) > 1 else str(counts[0])


def seeds(result: dict[str, Any]) -> int:
    """Number of seeds of a comparison."""
    return len(result["recipes"][result["baseline"]]["runs"])


def notes(result: dict[str, Any]) -> list[str]:
    """What one must know to read the tables."""
    environment, count, baseline, lines = result["environment"], seeds(result), result["baseline"], []
    others = {key for row in result["recipes"].values() for key in row["differs_in"]}
    if others:
        lines.append(f"the recipes differ from {baseline} in {', '.join(sorted(others))} and nothing else")
    if len({row["images"] for row in result["recipes"].values()}) > 1:
        images = ", ".join(f"{name} {row['images']:,}" for name, row in result["recipes"].items())
        lines.append(f"not the same budget; images seen in training: {images}")
    charged = [name for name, row in result["recipes"].items() if any(run.get("charged", {}).get("images") for run in row["runs"])]
    if charged:
        lines.append(f"time and images of {', '.join(charged)} include those of the run that the tree was clustered from")
    places = [run["environment"] for row in result["recipes"].values() for run in row["runs"]]
    made = {(place["device"], place["precision"], place["git"]) for place in places}
    if len(made) > 1:
        lines.append(f"the runs were made in {len(made)} environments (device, precision, commit); compare.json has them all")
    if result["convergence"] == "anytime":
        lines.append(f"target: the last val accuracy (median of 3) of {baseline}, same seed; constant lr, averaged weights")
    lines.append("HD@1: mean LCA height between label and prediction; severity: the same over mistakes alone")
    lines.append("gap at equal train NLL: val NLL − train NLL in nats where both runs of a pair have the lowest train NLL that both reach")
    if count > 1:
        lines.append("± standard deviation over seeds; [ ] 95 % t interval of the paired difference")
    if count < 5:
        lines.append(f"{count} seed{'s are' if count > 1 else ' is'} too few for a claim: use --seeds 5 or more")
    lines.append(f"{environment['device']}, torch {environment['versions']['torch']}, {environment['precision']}")
    return lines


def markdown_table(rows: Cells) -> str:
    """A header and rows of texts as a markdown table, numbers to the right."""
    header, *body = ([text.replace("|", "\\|") for text in row] for row in rows)
    return "\n".join([f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1), *(f"| {' | '.join(row)} |" for row in body)])


# ---- parts ----------------------------------------------------------------------------------------------------------


def _columns(result: dict[str, Any]) -> dict[str, Callable[[str, dict[str, Any]], str]]:
    """How each column of the main table reads a recipe's row."""
    columns: dict[str, Callable[[str, dict[str, Any]], str]] = {}
    for level in result["levels"]:
        columns[level] = lambda name, row, level=level: _percent(row["accuracy"][level])
    columns["leaf − baseline"] = lambda name, row: (
        "baseline" if name == result["baseline"] else _interval(row["difference"]["leaf"], 100, 1)
    )
    columns["HD@1"] = lambda name, row: _number(row["hd1"])
    columns["severity"] = lambda name, row: _number(row["severity"])
    if result["convergence"] == "anytime":
        columns["epochs to target"] = lambda name, row: _epochs(row)
        columns["AUC"] = lambda name, row: _percent(row["auc"])
    columns["train–val gap"] = lambda name, row: ("+" if row["gap"]["mean"] >= 0 else "") + _percent(row["gap"])
    columns["train time"] = lambda name, row: f"{row['seconds']['mean']:.0f} s"
    return columns


def _grid(rows: Cells, heading: str):
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold", title=heading)
    (first, *columns), *body = rows
    grid.add_column(first, no_wrap=True)
    for column in columns:
        grid.add_column(column, justify="right")
    for row in body:
        grid.add_row(*row)
    return grid


def _percent(values: dict[str, Any]) -> str:
    sd = "" if values["sd"] is None else f" ± {100 * values['sd']:.1f}"
    return f"{100 * values['mean']:.1f}{sd}"


def _number(values: dict[str, Any] | None) -> str:
    if values is None:
        return "–"
    sd = "" if values["sd"] is None else f" ± {values['sd']:.2f}"
    return f"{values['mean']:.2f}{sd}"


def _interval(difference: dict[str, Any] | None, scale: float, digits: int) -> str:
    if difference is None:
        return "–"
    text = _signed(scale * difference["mean"], digits)
    if difference["interval"] is None:
        return text
    low, high = (_signed(scale * end, digits) for end in difference["interval"])
    return f"{text} [{low}, {high}]"


def _signed(value: float, digits: int) -> str:
    """+1.2, -0.3; -0.0 is a little below nothing, and nothing itself +0.0."""
    return f"{value + 0.0:+.{digits}f}"


def _epochs(row: dict[str, Any]) -> str:
    return f"> {row['epochs']}" if row["epochs_to_target"] is None else f"{row['epochs_to_target']:.3g}"


def _score(record: dict[str, Any], number: int) -> str:
    val = record["trials"][number]["val"]
    score = "not finite" if val is None else f"{100 * val:.1f}"
    return f"{score} ← chosen" if record["chosen"] == number else score


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
