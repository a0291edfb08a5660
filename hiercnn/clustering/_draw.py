"""A dendrogram as a picture."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hiercnn.clustering._dendrogram import Dendrogram
from hiercnn.errors import HierCNNError, ShapeError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # Okabe-Ito, taken in turn from left to right
ABOVE = "#888888"  # what joins groups
FORMATS = (".html", ".svg", ".png")
ROW = 15  # pixels a class


def dendrogram_figure(dendrogram: Dendrogram, names: Sequence[str], groups: int | None = None) -> "Figure":
    """Draw a dendrogram, classes from top to bottom, the height of merges to the left; one colour a group.

    Args:
        dendrogram: Of K classes; `ordered` puts near ones side by side.
        names: Of the classes [K].
        groups: Number of groups to colour; None colours none.
    """
    import plotly.graph_objects as go
    from scipy.cluster.hierarchy import dendrogram as layout

    if len(names) != dendrogram.num_classes:
        raise ShapeError(f"names: wanted {dendrogram.num_classes}, one a class, got {len(names)}")
    order, member = dendrogram.leaf_order(), dendrogram.groups(groups or 1)
    with _deep(4 * dendrogram.num_classes):  # scipy's layout calls itself once a merge
        drawn = layout(dendrogram.merges, no_plot=True)
    figure, places = go.Figure(), np.empty(dendrogram.num_classes)
    places[order] = 10.0 * np.arange(len(order)) + 5
    lines: dict[str, tuple[list, list]] = {}
    for ends, heights in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        below = {int(member[order[i]]) for i in range(round((ends[0] - 5) / 10), round((ends[-1] - 5) / 10) + 1)}
        colour = LINES[below.pop() % len(LINES)] if groups and len(below) == 1 else ABOVE
        xs, ys = lines.setdefault(colour, ([], []))
        xs += [*heights, None]
        ys += [*ends, None]
    for colour, (xs, ys) in lines.items():
        figure.add_scatter(x=xs, y=ys, mode="lines", line={"color": colour, "width": 1.5}, hoverinfo="skip", showlegend=False)
    labels = [str(names[leaf]) for leaf in order]
    figure.update_yaxes(
        tickvals=places[order],
        ticktext=labels,
        range=[10 * len(order), 0],
        side="right",
        showgrid=False,
        zeroline=False,
        ticklabelstandoff=4,
    )
    figure.update_xaxes(title_text="height of the merge", range=[1.02 * dendrogram.merges[:, 2].max(), 0])
    figure.update_layout(template="plotly_white", width=900, height=120 + ROW * len(order), margin={"l": 40, "t": 40, "b": 60})
    figure.update_layout(font={"family": "Arial, Helvetica, Liberation Sans, sans-serif", "size": 12, "color": "#333333"})
    return figure


@contextmanager
def _deep(calls: int) -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + calls)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def draw_dendrogram(path: str | Path, dendrogram: Dendrogram, names: Sequence[str], groups: int | None = None) -> None:
    """Write the figure as .html, which needs no network, or as .svg or .png, which need Chrome or Chromium.

    Raises:
        HierCNNError: Another ending; a file that cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise HierCNNError(f"{path}: pictures end in {', '.join(FORMATS)}")
    figure = dendrogram_figure(dendrogram, names, groups)
    try:
        figure.write_html(path) if path.suffix == ".html" else figure.write_image(path)
    except OSError as error:
        raise HierCNNError(f"cannot write {path}: {error.strerror or error}") from error
