"""compare.json as pictures: accuracy by epoch and by seconds, the gap, paired differences, steps down the tree, budgets.

To add a picture, write a function `result → Figure` like the six below and name it in `figures`.
"""

import textwrap
from collections.abc import Sequence
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hiercnn.compare._statistics import paired_difference, spread
from hiercnn.errors import shorten
from hiercnn.pictures import DARK, FORMATS, OKABE_ITO, PANEL, Saved, finish, panels, save_pictures

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SEPARATORS = "-_./ "  # a prefix that names share ends in one of these

BASELINE = DARK
DASHES = (("solid", "circle"), ("dash", "diamond"), ("dot", "square"))  # line and marker of colours' first, second, third use
DOTTED = {"color": "#777777", "dash": "dot", "width": 1.5}
LEVEL_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")  # from the leaf up


def figures(result: dict[str, Any]) -> "dict[str, Figure]":
    """Draw a comparison from what compare.json holds.

    Args:
        result: What `compare` returns.

    Returns:
        Figures by name: `accuracy-by-epoch` (by images seen if the recipes' epochs cannot be set side by side), `accuracy-by-seconds`,
        `gap`, `differences` if there is a recipe besides the baseline, `steps` down the tree if there are several levels too, `budgets` if
        some were trained.
    """
    drawn = {"accuracy-by-epoch": _accuracy_by_epoch(result), "accuracy-by-seconds": _accuracy_by_seconds(result), "gap": _gap(result)}
    if len(result["recipes"]) > 1:
        drawn["differences"] = _differences(result)
        if len(result["levels"]) > 1:
            drawn["steps"] = _steps(result)
    if result.get("budgets"):
        drawn["budgets"] = _budgets(result)
    return drawn


def save_figures(result: dict[str, Any], folder: Path | str, formats: Sequence[str] = FORMATS) -> Saved:
    """Write every figure of a comparison (what `compare` returns) into a folder; see `save_pictures`."""
    return save_pictures(figures(result), folder, formats)


# ---- the pictures


def _accuracy_by_epoch(result: dict[str, Any]) -> "Figure":
    key, label = _progress(result)
    if key == "epoch":
        return _accuracy(result, key, label, "Val accuracy by epoch", "")
    why = "By images, since the recipes differ in their evaluated epochs or in the images of an epoch."
    return _accuracy(result, key, label, "Val accuracy by training images seen", why)


def _accuracy_by_seconds(result: dict[str, Any]) -> "Figure":
    note = "Each evaluation stands at its mean time over the seeds." if _seeds(result) > 1 else ""
    return _accuracy(result, "seconds", "training seconds", "Val accuracy by training time", note)


def _accuracy(result: dict[str, Any], key: str, label: str, title: str, note: str) -> "Figure":
    """Val accuracy against `key` of the evaluations: a panel a level, a line a recipe."""
    levels, looks = result["levels"], _looks(result)
    rows = -(-len(levels) // 4)
    columns = -(-len(levels) // rows)
    figure = panels([_literal(level) for level in levels], rows, columns)
    for number, level in enumerate(levels):
        place = {"row": 1 + number // columns, "col": 1 + number % columns}
        for name, look in looks.items():
            evaluations = _evaluations(result["recipes"][name])
            accuracy = [spread([100 * one["val"][level] for one in seeds]) for seeds in evaluations]
            _line(figure, look, _means(evaluations, key), accuracy, legend=number == 0, **place)
        figure.update_xaxes(title_text=label, **place)
    figure.update_xaxes(hoverformat=",.0f")
    figure.update_yaxes(hoverformat=".1f")
    figure.update_yaxes(title_text="val accuracy in %", col=1)
    notes = [_spread_note(result, "Line and band: mean ± sd"), note, _prefix_note(result)]
    return finish(figure, title, notes, [look.name for look in looks.values()], PANEL * rows)


def _gap(result: dict[str, Any]) -> "Figure":
    """Left the gap in leaf accuracy as training goes on; right val NLL against train NLL, where it is read at one train NLL."""
    looks, (key, label) = _looks(result), _progress(result)
    figure = panels(["train accuracy − val accuracy, leaf", "val NLL against train NLL, leaf"], columns=2)
    for name, look in looks.items():
        evaluations = _evaluations(result["recipes"][name])
        gap = [spread([100 * (one["train_accuracy"] - one["val"]["leaf"]) for one in seeds]) for seeds in evaluations]
        val = [{"mean": mean, "sd": None} for mean in _means(evaluations, "val_nll")]
        _line(figure, look, _means(evaluations, key), gap, row=1, col=1)
        _line(figure, look, _means(evaluations, "train_nll"), val, legend=False, row=1, col=2)
    seen = [nll for trace in figure.select_traces(row=1, col=2) for nll in trace.x]
    ends = [min(seen), max(seen)] if seen else []
    figure.add_scatter(x=ends, y=ends, mode="lines", line=DOTTED, hoverinfo="skip", showlegend=False, row=1, col=2)
    figure.update_xaxes(title_text=label, hoverformat=",.0f", col=1)
    figure.update_yaxes(title_text="gap in points", hoverformat=".1f", col=1)
    figure.update_xaxes(title_text="train NLL in nats (training goes to the right)", hoverformat=".3f", autorange="reversed", col=2)
    figure.update_yaxes(title_text="val NLL in nats", hoverformat=".3f", col=2)
    notes = [
        "Train is a fixed, unaugmented subset.",
        _spread_note(result, "Left mean ± sd, right mean,"),
        "Right: the gap is the height above the dotted line (val = train); of two lines at one train NLL, the lower overfits less.",
        _prefix_note(result),
    ]
    return finish(figure, "Train–val gap", notes, [look.name for look in looks.values()], PANEL)


def _differences(result: dict[str, Any]) -> "Figure":
    """A row a recipe, a marker a level: mean paired difference and interval."""
    looks, levels, measured_on = _looks(result), result["levels"], result["measured_on"]
    base = looks.pop(result["baseline"]).label
    figure = panels([])
    for number, level in enumerate(levels):
        found = [result["recipes"][name]["difference"][level] for name in looks]
        rows = [row + 0.7 * ((number + 0.5) / len(levels) - 0.5) for row in range(len(looks))]
        points = {"x": [100 * one["mean"] for one in found], "y": rows, "error_x": _interval_bars(found), "name": _literal(level)}
        text = [f"{looks[name].label}: {_points(one)}{_differs(result, name)}" for name, one in zip(looks, found, strict=True)]
        figure.add_scatter(**points, text=text, hoverinfo="text+name", mode="markers", marker=_level_marker(number, len(levels)))
    for edge in range(1, len(looks)):
        figure.add_hline(y=edge - 0.5, line={"color": "#dddddd", "width": 1}, layer="below")
    names = {"tickvals": list(range(len(looks))), "ticktext": [look.wrapped(40) for look in looks.values()], "ticklabelstandoff": 8}
    figure.update_yaxes(**names, range=[len(looks) - 0.5, -0.5], automargin=True, showgrid=False, zeroline=False)
    figure.update_xaxes(title_text=f"{measured_on} accuracy minus that of {base}, in points", tickformat="+~f")
    figure.update_xaxes(range=_differences_range(result), zeroline=True, zerolinecolor=BASELINE, zerolinewidth=1.5)
    notes = [_pairs_note(result), f"Right of the line is better than {base}.", _prefix_note(result)]
    height = 60 + len(looks) * (16 + 16 * len(levels))
    return finish(figure, f"Difference from {base} in {measured_on} accuracy", notes, levels, height)


def _steps(result: dict[str, Any]) -> "Figure":
    """A row a recipe, a panel a level: paired difference of the accuracy given that the level above is right."""
    looks, levels = _looks(result), result["levels"]
    base = looks.pop(result["baseline"]).label
    above = [None, *levels]
    titles = [_literal(level if coarser is None else f"{level}, given {coarser}") for level, coarser in zip(levels, above, strict=False)]
    figure = panels(titles, columns=len(levels))
    ends = [0.0]
    for number, (level, coarser) in enumerate(zip(levels, above, strict=False)):
        theirs = _step(result, result["baseline"], level, coarser)
        found = [paired_difference(_step(result, name, level, coarser), theirs) for name in looks]
        ends += [100 * end for one in found for end in one["interval"] or [one["mean"]]]
        for row, (look, one) in enumerate(zip(looks.values(), found, strict=True)):
            marker = {"mode": "markers", "marker": {"color": look.colour, "symbol": look.symbol, "size": 9}, "showlegend": False}
            point = {"x": [100 * one["mean"]], "y": [row], "error_x": _interval_bars([one]), "text": [f"{look.label}: {_points(one)}"]}
            figure.add_scatter(**point, **marker, hoverinfo="text", row=1, col=number + 1)
    names = {"tickvals": list(range(len(looks))), "ticktext": [look.wrapped(30) for look in looks.values()], "ticklabelstandoff": 8}
    figure.update_yaxes(range=[len(looks) - 0.5, -0.5], showgrid=False, zeroline=False, showticklabels=False)
    figure.update_yaxes(**names, showticklabels=True, automargin=True, col=1)
    air = 0.05 * (max(ends) - min(ends)) or 1.0
    scale = {"range": [min(ends) - air, max(ends) + air], "zeroline": True, "zerolinecolor": BASELINE, "zerolinewidth": 1.5}
    figure.update_xaxes(title_text=f"difference from {base}, points", tickformat="+~f", **scale)
    notes = [
        f"{result['measured_on'].capitalize()} accuracy at a level among the images right at the level to its left, minus {base}'s.",
        "All panels have one scale.",
        _pairs_note(result),
        _prefix_note(result),
    ]
    return finish(figure, "Where on the way down the tree a recipe gains", notes, levels, 100 + 34 * len(looks))


def _step(result: dict[str, Any], name: str, level: str, coarser: str | None) -> list[float]:
    """Accuracy of each seed at a level among the images that are right at the coarser one."""
    accuracies = [run["accuracy"] for run in result["recipes"][name]["runs"]]
    return [one[level] / (1 if coarser is None else max(one[coarser], 1e-9)) for one in accuracies]


def _budgets(result: dict[str, Any]) -> "Figure":
    """Leaf accuracy of complete, shorter schedules, beside the baseline's full one."""
    budgets, base, measured_on = result["budgets"], result["baseline"], result["measured_on"]
    looks = {name: look for name, look in _looks(result).items() if budgets.get(name)}
    figure = panels([])
    for number, (name, look) in enumerate(looks.items()):
        points, aside = budgets[name], 0.4 * (number - (len(looks) - 1) / 2)  # so that error bars do not hide each other
        x, y = [100 * point["share"] + aside for point in points], [100 * point["accuracy"]["mean"] for point in points]
        sd = [point["accuracy"]["sd"] for point in points]
        bars = None if None in sd else {"array": [100 * one for one in sd], "thickness": 1.5, "width": 3}
        text = [
            f"{point['epochs']} epochs: {mean:.1f} %<br>{_points(point['difference'])} from the baseline's full schedule"
            for point, mean in zip(points, y, strict=True)
        ]
        figure.add_scatter(x=x, y=y, error_y=bars, text=text, hoverinfo="text+name", **look.trace)
    figure.add_hline(y=100 * result["recipes"][base]["accuracy"]["leaf"]["mean"], line=DOTTED, layer="below")
    shares = sorted({point["share"] for points in budgets.values() for point in points})
    ticks = {"tickvals": [100 * share for share in shares], "ticktext": [f"{100 * share:g}" for share in shares]}
    figure.update_xaxes(title_text="share of the full schedule in %", **ticks)
    figure.update_yaxes(title_text=f"{measured_on} accuracy in %, leaf")
    baseline = _looks(result)[base].label
    notes = [
        _spread_note(result, "Mean ± sd"),
        f"Every point is a complete schedule of its own (recipes are drawn a little side by side). Dotted: {baseline}, full schedule.",
        _prefix_note(result),
    ]
    return finish(figure, f"Leaf accuracy on {measured_on} by budget", notes, [look.name for look in looks.values()], PANEL + 60)


# ---- what the pictures share


class _Look(NamedTuple):
    """How a recipe is called and drawn in every picture."""

    name: str
    colour: str
    dash: str = "solid"
    symbol: str = "circle"

    @property
    def label(self) -> str:
        return _literal(self.name)

    def wrapped(self, width: int) -> str:
        """The label on as many lines as it needs."""
        return "<br>".join(_literal(part) for part in textwrap.wrap(self.name, width))

    @property
    def trace(self) -> dict[str, Any]:
        """Keywords of a scatter trace."""
        line, marker = {"color": self.colour, "dash": self.dash, "width": 2}, {"color": self.colour, "symbol": self.symbol, "size": 5}
        return {"name": self.label, "legendgroup": self.name, "mode": "lines+markers", "line": line, "marker": marker}

    @property
    def band(self) -> dict[str, Any]:
        """Keywords of the filled trace behind the line."""
        red, green, blue = bytes.fromhex(self.colour[1:])
        colours = {"fillcolor": f"rgba({red},{green},{blue},0.14)", "line": {"width": 0}}
        return {"fill": "toself", "mode": "lines", "hoverinfo": "skip", "showlegend": False, "legendgroup": self.name, **colours}


def _looks(result: dict[str, Any]) -> dict[str, _Look]:
    """The baseline first, in black, then the others in their order, each in the same colour in every figure."""
    base, cut = result["baseline"], len(_common_prefix(list(result["recipes"])))
    looks = {base: _Look(base[cut:], BASELINE)}
    for number, name in enumerate(name for name in result["recipes"] if name != base):
        again, colour = divmod(number, len(OKABE_ITO))
        looks[name] = _Look(name[cut:], OKABE_ITO[colour], *DASHES[again % len(DASHES)])
    return looks


def _common_prefix(names: list[str]) -> str:
    """What all names begin with, up to a separator; empty if nothing would be left of one."""
    if len(names) == 1:
        return ""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in alike)
    while common and (common[-1] not in SEPARATORS or common in names):
        common = common[:-1]
    return common


def _literal(text: str) -> str:
    """Text that plotly shows as it is, not as HTML."""
    return escape(text, quote=False)


def _evaluations(row: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """For every epoch at which all seeds were evaluated, the point of each seed's curve."""
    curves = [{point["epoch"]: point for point in run["curve"]} for run in row["runs"]]
    return [[curve[epoch] for curve in curves] for epoch in curves[0] if all(epoch in curve for curve in curves)]


def _means(evaluations: list[list[dict[str, Any]]], key: str) -> list[float]:
    return [spread([one[key] for one in seeds])["mean"] for seeds in evaluations]


def _progress(result: dict[str, Any]) -> tuple[str, str]:
    """Key and axis title of the progress that sets all recipes side by side: epochs, or images if the epochs or their images differ."""
    seen = {tuple((point["epoch"], point["images"]) for point in run["curve"]) for row in result["recipes"].values() for run in row["runs"]}
    return ("epoch", "epoch") if len(seen) == 1 else ("images", "training images seen")


def _seeds(result: dict[str, Any]) -> int:
    return len(result["recipes"][result["baseline"]]["runs"])


def _spread_note(result: dict[str, Any], several: str) -> str:
    return f"{several} over {_seeds(result)} seeds." if _seeds(result) > 1 else "One seed, so no spread."


def _prefix_note(result: dict[str, Any]) -> str:
    prefix = _common_prefix(list(result["recipes"]))
    return f"Names are shown without “{_literal(prefix)}”." if prefix else ""


def _pairs_note(result: dict[str, Any]) -> str:
    rows = [row for name, row in result["recipes"].items() if name != result["baseline"]]
    pairs = sorted({row["difference"][level]["pairs"] for row in rows for level in result["levels"]})
    if pairs == [1]:
        return "One pair of runs with the same seed, so no interval."
    return f"Mean difference of {' or '.join(map(str, pairs))} pairs of runs with the same seed, and its 95 % t interval."


def _differs(result: dict[str, Any], name: str) -> str:
    keys = result["recipes"][name]["differs_in"]
    return f"<br>differs from the baseline in {_literal(shorten(keys))}" if keys else ""


def _points(difference: dict[str, Any]) -> str:
    """A difference as text: `+1.2 [-0.3, +2.7] points`."""
    interval = "" if difference["interval"] is None else " [{:+.1f}, {:+.1f}]".format(*(100 * end for end in difference["interval"]))
    return f"{100 * difference['mean']:+.1f}{interval} points"


# ---- plotly


def _line(figure: "Figure", look: _Look, x: list[float], y: list[dict[str, Any]], *, legend: bool = True, **place: int) -> None:
    """A line of means and, where there is a spread, a band of mean ± sd."""
    means = [one["mean"] for one in y]
    if y and y[0]["sd"] is not None:
        upper, lower = ([one["mean"] + sign * one["sd"] for one in y] for sign in (1, -1))
        figure.add_scatter(x=[*x, *reversed(x)], y=[*upper, *reversed(lower)], **look.band, **place)
    figure.add_scatter(x=x, y=means, showlegend=legend, **look.trace, **place)


def _interval_bars(found: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Error bars from the mean to both ends of its interval."""
    if any(one["interval"] is None for one in found):
        return None
    below, above = ([100 * abs(one["interval"][end] - one["mean"]) for one in found] for end in (0, 1))
    return {"array": above, "arrayminus": below, "symmetric": False, "thickness": 1.5, "width": 4}


def _differences_range(result: dict[str, Any]) -> list[float]:
    """From the lowest end of an interval to the highest, zero among them, and some air."""
    found = [row["difference"][level] for row in result["recipes"].values() for level in result["levels"]]
    ends = [0.0, *(100 * end for one in found for end in one["interval"] or [one["mean"]])]
    air = 0.05 * (max(ends) - min(ends)) or 1.0
    return [min(ends) - air, max(ends) + air]


def _level_marker(number: int, levels: int) -> dict[str, Any]:
    """Dark for the leaf, lighter for coarser levels."""
    from plotly.colors import sample_colorscale

    above = levels - 1 - number
    (colour,) = sample_colorscale("Viridis", 0.1 + 0.7 * above / max(1, levels - 1))
    return {"color": colour, "symbol": LEVEL_SYMBOLS[above % len(LEVEL_SYMBOLS)], "size": 9}
