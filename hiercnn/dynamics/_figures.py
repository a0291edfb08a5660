"""Pictures of what was learnt when and where.

To add one, write a function `Story → Figure` like those below and name it in `figures`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hiercnn.clustering import cluster, dendrogram_figure, vector_distances
from hiercnn.dynamics._embedding import aligned_path
from hiercnn.dynamics._hypernyms import first_reaching
from hiercnn.dynamics._measure import LEAF, LOGITS, TREE, Row
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.pictures import DARK, OKABE_ITO, PANEL, finish, panels

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLLAPSE = {
    "nc1": "NC1: within ÷ between, tr(Σ_W Σ_B⁺) / K",
    "trace_ratio": "NC1: tr Σ_W / tr Σ_B",
    "equinorm": "NC2: spread of norms of class means",
    "w_equinorm": "NC2: spread of norms of classifier rows",
    "equiangular": "NC2: spread of cosines",
    "max_angle": "NC2: distance of cosines from −1 / (K − 1)",
    "nc3": "NC3: classifier against class means",
    "nc4": "NC4: classifier ≠ nearest class mean (unseen)",
}
BAND_NOTE = "Dashed line and band: mean and 5–95 % of random partitions of the same group sizes."


class Story(NamedTuple):
    """What figures are drawn from.

    Attributes:
        rows: (epoch, step, row) in order of time.
        means: {layer: class means [T, K, F]}.
        steps: Updates done at each moment [T].
        per_epoch: Updates of an epoch.
        tree, cuts: The hierarchy, and its cuts but the leaf, coarse first.
        split: What accuracy was measured on: test or val.
    """

    rows: Sequence[tuple[int, int, Row]]
    means: Mapping[str, np.ndarray]
    steps: Sequence[int]
    per_epoch: int
    tree: Hierarchy
    cuts: Sequence[Cut]
    split: str = "test"

    @property
    def epochs(self) -> list[float]:
        """Moments in epochs."""
        return [step / self.per_epoch for step in self.steps]

    @property
    def layers(self) -> list[str]:
        return list(self.means)

    def curve(self, layer: str, cut: str, statistic: str) -> dict[str, list[float]]:
        """{field of a row: [T]} over time, NaN at moments where it was not measured; empty if it never was."""
        rows = {step: row for _, step, row in self.rows if row[:3] == (layer, cut, statistic)}
        missing = Row(layer, cut, statistic, float("nan"))
        return {field: [getattr(rows.get(step, missing), field) for step in self.steps] for field in Row._fields[3:]} if rows else {}


def figures(story: Story) -> "dict[str, Figure]":
    """Figures by name: accuracy, lift, times, trees, collapse, path, a dendrogram-step-… of some moments, and separability and blocks where
    there are random partitions to compare with."""
    drawn = {"accuracy": _accuracy(story), "lift": _lift(story), "times": _times(story)}
    if any(row.statistic == "trace_ratio" and np.isfinite(row.random_mean) for *_, row in story.rows):
        drawn |= {"separability": _separability(story), "blocks": _blocks(story)}
    return drawn | {"trees": _trees(story), "collapse": _collapse(story), "path": _path(story)} | _dendrograms(story)


def _accuracy(story: Story) -> "Figure":
    """Greedy accuracy as it is, above chance, and relative to its end."""
    titles = {
        "greedy": "right groups, in %",
        "corrected": "above chance, in % of what is above it",
        "relative": "relative to the last, in %",
    }
    figure = panels(list(titles.values()), columns=3)
    for column, statistic in enumerate(titles, start=1):
        for cut, colour in _colours(story, leaf=True).items():
            _line(figure, story, story.curve(LOGITS, cut, statistic), cut, colour, scale=100, legend=column == 1, row=1, col=column)
    _over_epochs(figure)
    return finish(
        figure, "Hypernyms before hyponyms", [f"Groups of the predicted classes on {story.split}. {BAND_NOTE}"], _names(story, True), PANEL
    )


def _lift(story: Story) -> "Figure":
    figure = panels(["right groups among wrong classes, in %", "the same ÷ what evenly drawn errors give"], columns=2)
    for column, statistic in enumerate(("residual", "lift"), start=1):
        for cut, colour in _colours(story).items():
            scale = 100 if statistic == "residual" else 1
            _line(figure, story, story.curve(LOGITS, cut, statistic), cut, colour, scale=scale, legend=column == 1, row=1, col=column)
    figure.add_hline(y=1, line={"color": "#777777", "dash": "dot", "width": 1}, row=1, col=2)
    _over_epochs(figure)
    note = f"Where a class is wrong, how often is its group right? {BAND_NOTE}"
    return finish(figure, "Errors that stay in the group", [note], _names(story), PANEL)


def _times(story: Story) -> "Figure":
    """Epoch at which so much of the last accuracy is reached, against the number of groups."""
    titles = {"greedy": "of accuracy", "corrected": "of accuracy above chance"}
    figure = panels(list(titles.values()), columns=2)
    counts = [*(len(cut) for cut in story.cuts), story.tree.num_classes]
    for column, statistic in enumerate(titles, start=1):
        for share, colour in zip((0.5, 0.8, 0.9), OKABE_ITO, strict=False):
            reached = [_reached(story, cut, statistic, share) for cut in _names(story, True)]
            look = {"line": {"color": colour, "width": 2}, "marker": {"color": colour, "size": 8}, "mode": "lines+markers"}
            name = f"{100 * share:.0f} %"
            figure.add_scatter(x=counts, y=reached, name=name, legendgroup=name, showlegend=column == 1, **look, row=1, col=column)
    figure.update_xaxes(type="log", title_text="groups", tickvals=counts, ticktext=[str(count) for count in counts])
    figure.update_yaxes(title_text="epoch", rangemode="tozero")
    note = "First kept moment at which that share of the last value is reached; the rightmost point is the leaf."
    return finish(figure, "When a share of the last accuracy is there", [note], ["50 %"] * 3, PANEL)


def _reached(story: Story, cut: str, statistic: str, share: float) -> float | None:
    curve = story.curve(LOGITS, cut, statistic)
    at = first_reaching(np.array(curve["value"]), share)
    return None if at is None else story.epochs[at]


def _separability(story: Story) -> "Figure":
    note = "tr Σ_W / tr Σ_B of the true groups ÷ mean of random partitions of the same sizes: the lower, the further apart they are."
    ratio = _tables(story, "trace_ratio", lambda row: row.value / row.random_mean)
    return _heatmaps(story, ratio, "Which layer holds groups apart, and when", note, "Viridis_r")


def _blocks(story: Story) -> "Figure":
    note = "Mean similarity of class responses inside groups − between groups, less that of random partitions: the higher, the clearer."
    above = _tables(story, "block_strength", lambda row: row.value - row.random_mean)
    return _heatmaps(story, above, "Blocks in class similarity", note, "Viridis")


def _tables(story: Story, statistic: str, value: Callable[[Row], float]) -> dict[str, list[list[float]]]:
    """{cut: [layers, T]}."""
    return {
        cut.name: [[value(row) for *_, row in story.rows if row[:3] == (layer, cut.name, statistic)] for layer in story.layers]
        for cut in story.cuts
    }


def _heatmaps(story: Story, tables: Mapping[str, list[list[float]]], title: str, note: str, colours: str) -> "Figure":
    """A panel a cut with a scale of its own, layers from bottom to top, moments from left to right."""
    figure = panels(list(tables), columns=len(tables))
    moments = [f"{epoch:.3g}" for epoch in story.epochs]
    for column, table in enumerate(tables.values(), start=1):
        place = figure.get_subplot(1, column).xaxis.domain
        bar = {"x": place[1] + 0.01, "thickness": 12, "len": 1, "tickfont": {"size": 11}}
        figure.add_heatmap(z=table, x=moments, y=story.layers, colorscale=colours, colorbar=bar, row=1, col=column)
        figure.update_yaxes(showticklabels=column == 1, row=1, col=column)
    figure.update_xaxes(type="category", title_text="epoch (kept moments)")
    finish(figure, title, [note], [""], PANEL)
    return figure.update_layout(margin={"l": 100, "r": 60})


def _trees(story: Story) -> "Figure":
    figure = panels(["with the given tree (Pearson)", "with the last moment's own tree"], columns=2)
    for column, statistic in enumerate(("pearson", "r_final"), start=1):
        for layer, colour in zip(story.layers, _scale(len(story.layers)), strict=True):
            _line(figure, story, story.curve(layer, TREE, statistic), layer, colour, legend=column == 1, row=1, col=column)
    _over_epochs(figure)
    note = "Heights of merges of each layer's class means (cosine, average linkage), against distances in the tree, over pairs of classes."
    return finish(figure, "The learnt tree", [note], story.layers, PANEL)


def _collapse(story: Story) -> "Figure":
    figure = panels(list(COLLAPSE.values()), rows=2, columns=4)
    for number, statistic in enumerate(COLLAPSE):
        place = {"row": 1 + number // 4, "col": 1 + number % 4}
        for cut, colour in _colours(story, leaf=True).items():
            _line(figure, story, story.curve(story.layers[-1], cut, statistic), cut, colour, legend=not number, **place)
        if statistic in ("nc1", "trace_ratio"):
            figure.update_yaxes(type="log", dtick="D2", **place)
    _over_epochs(figure)
    return finish(figure, f"Neural collapse of {story.layers[-1]} features", [BAND_NOTE], _names(story, True), 2 * PANEL)


def _path(story: Story) -> "Figure":
    """Class means before the classifier in one plane, with a slider over the moments."""
    import plotly.graph_objects as go

    path, cut = aligned_path(list(story.means[story.layers[-1]])), story.cuts[0]
    colours = [OKABE_ITO[group % len(OKABE_ITO)] for group in cut.groups]
    symbols = [("circle", "square", "diamond", "cross", "triangle-up")[group // len(OKABE_ITO) % 5] for group in cut.groups]
    texts = [f"{name} ({cut.names[group]})" for name, group in zip(story.tree.classes, cut.groups, strict=True)]

    def points(moment: int) -> Any:
        marker = {"color": colours, "symbol": symbols, "size": 10, "line": {"width": 0.5, "color": "white"}}
        x, y = path[moment].T
        return go.Scatter(x=x, y=y, mode="markers", marker=marker, text=texts, hoverinfo="text", showlegend=False)

    names = [f"{epoch:.3g}" for epoch in story.epochs]
    figure = go.Figure(points(len(path) - 1), frames=[go.Frame(data=[points(t)], name=name) for t, name in enumerate(names)])
    reach = 1.1 * float(np.quantile(np.abs(path).max((1, 2)), 0.8))  # a few early moments have one class far off
    steps = [{"args": [[name], {"mode": "immediate", "frame": {"duration": 0}}], "label": name, "method": "animate"} for name in names]
    slider = {"steps": steps, "active": len(names) - 1, "currentvalue": {"prefix": "epoch "}, "pad": {"t": 45}}
    figure.update_xaxes(range=[-reach, reach], showticklabels=False)
    figure.update_yaxes(range=[-reach, reach], showticklabels=False, scaleanchor="x")
    note = f"Principal axes of each moment, turned onto those of the next; colours and shapes: {cut.name}."
    finish(figure, "The path of the class means", [note], [""], 2 * PANEL)
    figure.update_layout(sliders=[slider])
    figure.update_layout(margin_b=figure.layout.margin.b + 70, height=figure.layout.height + 70)
    return figure


def _dendrograms(story: Story) -> "dict[str, Figure]":
    """Of the class means before the classifier, at the first moment, in the middle and at the end."""
    import torch

    drawn, names = {}, [story.tree.classes[i] for i in range(story.tree.num_classes)]
    for moment in dict.fromkeys((0, len(story.steps) // 2, len(story.steps) - 1)):
        distances = vector_distances(torch.from_numpy(story.means[story.layers[-1]][moment]), "cosine", names)
        figure = dendrogram_figure(cluster(distances, "average").ordered(distances), names, len(story.cuts[-1]))
        drawn[f"dendrogram-step-{story.steps[moment]}"] = figure.update_layout(
            title_text=f"Classes after {story.epochs[moment]:.3g} epochs"
        )
    return drawn


# ---- parts


def _line(
    figure: "Figure",
    story: Story,
    curve: Mapping[str, list[float]],
    name: str,
    colour: str,
    *,
    scale: float = 1,
    legend: bool,
    **place: int,
) -> None:
    """A curve over the epochs, and mean and band of random partitions where there are some."""
    if not curve:
        return
    x = story.epochs
    mean, low, high, value = (scale * np.array(curve[key]) for key in ("random_mean", "random_low", "random_high", "value"))
    if np.isfinite(low).any():
        band = {"mode": "lines", "fill": "toself", "fillcolor": colour, "opacity": 0.15, "line": {"width": 0}}
        band |= {"hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=[*x, *reversed(x)], y=[*high, *reversed(low)], legendgroup=name, **band, **place)
    if np.isfinite(mean).any():
        dashed = {"line": {"color": colour, "dash": "dash", "width": 1}, "mode": "lines", "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=x, y=mean, legendgroup=name, **dashed, **place)
    solid = {"line": {"color": colour, "width": 2}, "marker": {"size": 5}, "mode": "lines+markers", "showlegend": legend}
    figure.add_scatter(x=x, y=value, name=name, legendgroup=name, **solid, **place)


def _colours(story: Story, *, leaf: bool = False) -> dict[str, str]:
    """{cut: colour}, coarse first; the leaf is dark."""
    colours = dict(zip((cut.name for cut in story.cuts), cycle(OKABE_ITO), strict=False))
    return colours | ({LEAF: DARK} if leaf else {})


def _names(story: Story, leaf: bool = False) -> list[str]:
    return list(_colours(story, leaf=leaf))


def _scale(count: int) -> list[str]:
    """Colours from the first layer to the last."""
    from plotly.colors import sample_colorscale

    return sample_colorscale("Viridis", [0.95 * i / max(1, count - 1) for i in range(count)])


def _over_epochs(figure: "Figure") -> None:
    figure.update_xaxes(title_text="epoch")
