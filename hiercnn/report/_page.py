"""One HTML page that needs nothing beside it."""

import functools
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from hiercnn.report._pack import compressed, document

MARK = "<!-- hiercnn report -->"  # how a report is told from other files
PLACE = re.compile(r"\{\{(\w+)\}\}")


def page(
    *,
    title: str,
    lede: str,
    runs: Sequence[str],
    overview: str,
    footer: str,
    data: object,
    charts: Mapping[str, object],
    sheets: Sequence[str],
) -> str:
    """Fill the page.

    Args:
        title, lede, runs, footer: Texts; what is HTML in them is shown as it stands.
        overview: HTML.
        data: What page.js reads; see `hiercnn.report._report`.
        charts: Plotly figures of the overview, and of each run's learning.
        sheets: Pictures, in base64.
    """
    values = {
        "title": escape(title),
        "lede": escape(lede),
        "footer": escape(footer),
        "runs": "".join(f'<option value="{number}">{escape(name)}</option>' for number, name in enumerate(runs)),
        "overview": overview,
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "data": document(data),
        "charts": document(charts),
        "plotly": _plotly() if any(charts["overview"]) or any(charts["learning"]) else "",
        "sheets": "\n".join(f'<script type="application/octet-stream" class="sheet">{sheet}</script>' for sheet in sheets),
    }
    return PLACE.sub(lambda match: values[match[1]], _asset("page.html"))  # one pass: what is put in is not looked at again


def table(rows: Sequence[Sequence[str]], caption: str = "", kind: str = "") -> str:
    """A header and rows of texts as an HTML table."""
    head, *body = ([escape(cell) for cell in row] for row in rows)
    heading = f"<caption>{escape(caption)}</caption>" if caption else ""
    lines = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body]
    top = f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"
    return f'<div class="scroll"><table class="{kind}">{heading}<thead>{top}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def items(texts: Sequence[str], kind: str = "notes") -> str:
    """Texts as an HTML list; empty for none."""
    return f'<ul class="{kind}">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>' if texts else ""


def _asset(name: str) -> str:
    return (files("hiercnn.report") / name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return compressed(get_plotlyjs())
