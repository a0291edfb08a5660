"""Charts of the report: on the page, which themes them, and as files."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from html import escape, unescape
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hiercnn.compare import figures as compare_figures
from hiercnn.dynamics import figures as dynamics_figures
from hiercnn.files import atomic_file
from hiercnn.metrics import node_counts
from hiercnn.pictures import DARK, OKABE_ITO, PANEL, Saved, finish, panels, save_pictures
from hiercnn.recipe import Dynamics, Run
from hiercnn.report._blocks import View, confusion_of, standardised

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FIRST = ("accuracy-by-epoch", "gap-by-level", "differences", "steps", "gap")  # on the page, in this order; then what else there is
MOST_NAMED = 200  # classes of a dendrogram on the page


def overview_figures(result: Mapping[str, Any], runs: Mapping[str, Sequence[Run]]) -> "dict[str, Figure]":
    """Those of `hiercnn compare`, and the train–val gap of every level."""
    drawn = compare_figures(dict(result)) | {"gap-by-level": gap_by_level(runs, result["levels"], result["baseline"])}
    return {name: drawn[name] for name in (*FIRST, *drawn) if name in drawn}


def learning_figures(dynamics: Dynamics) -> "dict[str, Figure]":
    """Those of `hiercnn dynamics`; no dendrograms of more classes than can be named."""
    drawn = dynamics_figures(dynamics.story)
    small = dynamics.story.tree.num_classes <= MOST_NAMED
    return {name: figure for name, figure in drawn.items() if small or not name.startswith("dendrogram")}


def gap_by_level(runs: Mapping[str, Sequence[Run]], levels: Sequence[str], baseline: str) -> "Figure":
    """Accuracy on the fixed train subset minus that on val, a panel a level, a line a recipe."""
    figure = panels(list(levels), columns=len(levels))
    colours = cycle(OKABE_ITO)
    for name, listed in runs.items():
        colour = DARK if name == baseline else next(colours)
        curves = [{event["epoch"]: event for event in run.metrics} for run in listed]
        epochs = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)]
        for column, level in enumerate(levels, start=1):
            gaps = [[_gap(curve[epoch], level) for curve in curves] for epoch in epochs]
            look = {"line": {"color": colour, "width": 2}, "marker": {"color": colour, "size": 5}, "mode": "lines+markers"}
            legend = {"name": _literal(name), "legendgroup": name, "showlegend": column == 1}
            figure.add_scatter(x=epochs, y=[100 * float(np.mean(gap)) for gap in gaps], **look, **legend, row=1, col=column)
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="gap in points", hoverformat=".1f", col=1)
    note = "Train is a fixed, unaugmented subset. Mean over seeds." if max(map(len, runs.values())) > 1 else "Train is a fixed subset."
    return finish(figure, "Train accuracy − val accuracy, by level", [note], list(runs), PANEL)


def view_figures(view: View) -> "dict[str, Figure]":
    """The linked views as still pictures: tree, confusions of the last evaluation, responses of every layer."""
    if view.last is None:
        return {}
    drawn = {"confusion": _confusion(view), "tree": _tree(view)}
    return drawn | {f"responses-{layer}": _responses(layer, values, view) for layer, values in view.responses.items()}


def _confusion(view: View) -> "Figure":
    import plotly.graph_objects as go

    order = view.tree.leaf_order
    confusion = confusion_of(view.last, view.tree)
    counts = (confusion * ~np.eye(len(confusion), dtype=bool))[np.ix_(order, order)]
    names = [view.tree.titles[view.tree.leaf_nodes[leaf]] for leaf in order]
    shown = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan)
    ticks = [10**power for power in range(int(np.log10(max(counts.max(), 1))) + 1)]
    bar = {"title": "images", "tickvals": np.log10(ticks), "ticktext": [f"{tick:,}" for tick in ticks]}
    where = {"x": list(range(len(names))), "y": list(range(len(names)))}
    figure = go.Figure(go.Heatmap(z=shown, **where, customdata=counts, colorscale="Blues", colorbar=bar))
    for cut in view.cuts:
        for node in cut.nodes:
            ends = {f"{axis}{end}": bound[node] - 0.5 for axis in "xy" for end, bound in enumerate((view.tree.starts, view.tree.stops))}
            figure.add_shape(**ends, line={"color": "#777777", "width": 1})
    figure.update_yaxes(autorange="reversed", title_text="actual", tickvals=where["y"], ticktext=names, tickfont={"size": 6})
    figure.update_xaxes(title_text="predicted", showticklabels=False, scaleanchor="y", constrain="domain")
    note = (
        f"{view.last.split}, after {view.last.epoch} epochs. The diagonal is left out; colours are logarithmic; frames: groups of the tree."
    )
    return finish(figure, "Confusions in the order of the tree", [note], [""], 1000).update_layout(showlegend=False)


def _tree(view: View) -> "Figure":
    import plotly.graph_objects as go

    tree, counts = view.tree, node_counts(confusion_of(view.last, view.tree), view.tree)
    parents = ["" if parent < 0 else str(parent) for parent in tree.parents]
    texts = [f"recall {r:.2f}, precision {p:.2f}, F1 {f:.2f}" for r, p, f in zip(counts.recall, counts.precision, counts.f1, strict=True)]
    colours = {"colors": counts.f1, "colorscale": "RdBu", "cmin": 0, "cmax": 1, "colorbar": {"title": "F1"}, "showscale": True}
    values = {"values": tree.stops - tree.starts, "branchvalues": "total"}
    labels = [_literal(title) for title in tree.titles]
    nodes = {"ids": [str(node) for node in range(tree.num_nodes)], "labels": labels, "parents": parents, "text": texts}
    figure = go.Figure(go.Icicle(**nodes, **values, marker=colours, tiling={"orientation": "h"}, hoverinfo="label+text", sort=False))
    note = f"{view.last.split}, after {view.last.epoch} epochs. Height: classes of a node."
    return finish(figure, "Recall and precision down the tree", [note], [""], 1000).update_layout(showlegend=False)


def _responses(layer: str, values: np.ndarray, view: View) -> "Figure":
    import plotly.graph_objects as go

    shown, order = standardised(values), view.tree.leaf_order
    names = [view.tree.titles[view.tree.leaf_nodes[leaf]] for leaf in order]
    bar = {"title": "sd"}
    figure = go.Figure(go.Heatmap(z=shown[order], colorscale="RdBu", zmid=0, zmin=-3, zmax=3, colorbar=bar))
    figure.update_yaxes(autorange="reversed", title_text="class", tickvals=list(range(len(names))), ticktext=names, tickfont={"size": 6})
    figure.update_xaxes(title_text="channel")
    note = "Mean response of each class in each channel, in standard deviations over the classes."
    return finish(figure, f"Responses of {layer}", [note], [""], 1000).update_layout(showlegend=False)


def _gap(event: Mapping[str, Any], level: str) -> float:
    return event["train_subset"]["accuracy"][level] - event["val"]["accuracy"][level]


def _literal(text: str) -> str:
    return escape(text, quote=False)


# ---- on the page and in files


def on_page(figure: "Figure") -> dict[str, Any]:
    """Title, notes and what plotly.js draws; the page has the title and takes the width it has."""
    plain = json.loads(figure.to_json())
    layout = plain["layout"]
    meta = layout.pop("meta", None) or {"title": (layout.get("title") or {}).get("text", ""), "notes": "", "top": 0}
    for key in ("title", "width", "template"):
        layout.pop(key, None)
    margin = layout.setdefault("margin", {})
    lower = max(0, margin.get("t", 60) - 24 - meta["top"])
    margin["t"] = margin.get("t", 60) - lower
    layout["height"] = layout.get("height", 450) - lower
    words = {key: unescape(meta[key]) for key in ("title", "notes")}  # the page shows text, plotly a kind of HTML
    return {**words, "data": plain["data"], "layout": layout, "frames": plain.get("frames", [])}


def save_figures(drawn: "Mapping[str, Figure]", folder: Path) -> Saved:
    """Every figure as SVG, PNG and CSV."""
    saved = save_pictures(drawn, folder, ("svg", "png"))
    paths = list(saved.paths)
    for name, figure in drawn.items():
        with atomic_file(folder / f"{name}.csv") as scratch:
            scratch.write_text(figure_csv(figure), encoding="utf-8")
        paths.append(folder / f"{name}.csv")
    return Saved(paths, saved.left_out)


def figure_csv(figure: "Figure") -> str:
    """What a figure shows, a row a point: trace, panel, x, y, value; a table's own counts where it has them, no bands."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["trace", "panel", "x", "y", "value"])
    for trace in figure.data:
        panel = getattr(trace, "xaxis", None) or "x"
        if trace.type == "heatmap":
            table = trace.z if trace.customdata is None else trace.customdata
            xs, ys = (range(length) if axis is None else axis for axis, length in ((trace.x, len(table[0])), (trace.y, len(table))))
            for row, at in zip(table, ys, strict=True):
                writer.writerows(["", panel, x, at, _cell(value)] for x, value in zip(xs, row, strict=True))
        elif trace.type == "icicle":
            writer.writerows([label, panel, "", "", text] for label, text in zip(trace.labels, trace.text, strict=True))
        elif trace.fill is None and trace.x is not None:
            writer.writerows([trace.name or "", panel, x, y, ""] for x, y in zip(trace.x, trace.y, strict=True))
    return file.getvalue()


def _cell(value: object) -> object:
    return "" if isinstance(value, float) and np.isnan(value) else value
