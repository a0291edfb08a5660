"""What all figures share: colours, panels, the room for titles and legends, and files."""

import asyncio
import os
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hiercnn.errors import CheckpointError, HierCNNError, did_you_mean, shorten
from hiercnn.files import atomic_file

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FORMATS = ("html", "svg", "png")

DARK = "#222222"
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # without black and yellow (too pale)

WIDTH = 1280  # pixels
PANEL = 380  # height of a row of panels
CHARACTER = 7.4  # width of an average character at the legend's size
TITLE_LINE, LEGEND_LINE = 25, 20  # heights of a line


class Saved(NamedTuple):
    """Files that were written, and one line about those that could not be (None: all were)."""

    paths: list[Path]
    left_out: str | None


def save_pictures(drawn: "Mapping[str, Figure]", folder: Path | str, formats: Sequence[str] = FORMATS) -> Saved:
    """Write figures as `<name>.<format>`; html pages share the plotly.min.js beside them and need no network.

    svg and png are drawn by Chrome, Chromium or a kin of theirs: that of the environment variable BROWSER_PATH, else the one kaleido finds.
    Without one they are left out, and the result says why.

    Args:
        drawn: Figures by name.
        folder: Made if it does not exist.
        formats: Some of html, svg, png.

    Raises:
        HierCNNError: An unknown format.
        CheckpointError: The folder cannot be made or written.
    """
    for wanted in formats:
        if wanted not in FORMATS:
            raise HierCNNError(f"formats: {wanted!r} is not one of {shorten(FORMATS)}{did_you_mean(wanted, FORMATS)}")
    folder = make_folder(folder)
    paths = _write(folder, _pages(drawn) if "html" in formats else {})
    images, left_out = _images(drawn, [wanted for wanted in formats if wanted != "html"])
    return Saved(paths + _write(folder, images), left_out)


def make_folder(folder: Path | str) -> Path:
    """The folder, made if it does not exist. Raises CheckpointError if it cannot be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {folder} for figures: {error}; name another") from error
    return Path(folder)


def panels(titles: Sequence[str], rows: int = 1, columns: int = 1) -> "Figure":
    """Subplots with titles, spaced for them."""
    from plotly.subplots import make_subplots

    spacing = {"horizontal_spacing": 0.18 / (columns + 1), "vertical_spacing": 0.44 / (rows + 1)}
    return make_subplots(rows, columns, subplot_titles=titles or None, **(spacing if titles else {}))


def finish(figure: "Figure", title: str, notes: Sequence[str], labels: Sequence[str], height: int) -> "Figure":
    """Title, notes below it and a legend at the bottom, each given the room that its text takes."""
    text = textwrap.wrap(" ".join(filter(None, notes)), 190, break_long_words=False, break_on_hyphens=False)
    entry = CHARACTER * max(map(len, labels)) + 10
    columns = max(1, int((WIDTH - 100) // (entry + 45)))
    top = 62 + TITLE_LINE * len(text) + (22 if figure.layout.annotations else 0)  # annotations: the titles of the panels
    bottom = 70 + LEGEND_LINE * -(-len(labels) // columns)
    total = height + top + bottom
    heading = f'{title}<br><span style="font-size:13px">{"<br>".join(text)}</span>'
    legend = {"orientation": "h", "traceorder": "normal", "entrywidth": entry, "x": 0, "y": 8 / total, "yref": "container"}
    figure.update_layout(
        template="plotly_white",
        font={"family": "Arial, Helvetica, Liberation Sans, sans-serif", "size": 13, "color": "#333333"},
        width=WIDTH,
        height=total,
        meta={"title": title, "notes": " ".join(filter(None, notes)), "top": 22 if figure.layout.annotations else 0},
        margin={"l": 75, "r": 25, "t": top, "b": bottom},
        title={"text": heading, "font": {"size": 19}, "x": 0.02, "y": 1 - 32 / total, "yanchor": "top"},
        hoverlabel={"namelength": -1},
        showlegend=True,
        legend=legend | {"yanchor": "bottom"},
    )
    figure.update_annotations(font={"size": 14})
    figure.update_xaxes(title_font={"size": 13})
    return figure.update_yaxes(title_font={"size": 13})


# ---- files


def _pages(drawn: "dict[str, Figure]") -> dict[str, bytes]:
    """The html files and the one script they share."""
    from plotly.offline import get_plotlyjs

    options = {"include_plotlyjs": "directory", "config": {"displaylogo": False}}
    pages = {f"{name}.html": figure.to_html(div_id=name, **options).encode() for name, figure in drawn.items()}
    return pages | {"plotly.min.js": get_plotlyjs().encode()}


def _images(drawn: "dict[str, Figure]", formats: Sequence[str]) -> tuple[dict[str, bytes], str | None]:
    """The svg and png files, or none and why."""
    if not formats:
        return {}, None
    from choreographer.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError, DevtoolsProtocolError

    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook has an event loop in its own
            return thread.submit(lambda: asyncio.run(_photograph(drawn, formats))).result(), None
    except ChromeNotFoundError:
        why = "none was found"
    except (BrowserFailedError, BrowserClosedError, DevtoolsProtocolError, TimeoutError) as error:
        why = f"the one found failed ({type(error).__name__})"
    path = os.environ.get("BROWSER_PATH")
    hint = f"BROWSER_PATH is {path}" if path else "the environment variable BROWSER_PATH can name one"
    return {}, f"{' and '.join(formats)} need Chrome or Chromium: {why}; {hint}"


async def _photograph(drawn: "dict[str, Figure]", formats: Sequence[str]) -> dict[str, bytes]:
    """All images from one browser, since starting it takes seconds."""
    from kaleido import Kaleido

    async with Kaleido(path=os.environ.get("BROWSER_PATH"), mathjax=False) as browser:  # MathJax would be fetched from the network
        return {
            f"{name}.{suffix}": await browser.calc_fig(figure, {"format": suffix, "scale": 2 if suffix == "png" else 1})
            for name, figure in drawn.items()
            for suffix in formats
        }


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, content in files.items():
        with atomic_file(folder / name) as scratch:
            scratch.write_bytes(content)
    return [folder / name for name in files]
