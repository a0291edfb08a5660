"""Run folders that were made rather than trained, and a browser."""

import re
from pathlib import Path

import pytest

from hiercnn.hierarchy import Hierarchy, from_edges

BENCH = Path(__file__).parents[2] / "tools" / "bench"
HOSTILE = ("<script>alert(1)</script>", "</script><b>", 'quote " and \\', "&lt;img src=x onerror=alert(2)&gt;", "{{data}}", "naïve 桜")


def three_levels() -> Hierarchy:
    """12 classes, uneven: two groups of groups, and one class below the root."""
    edges = [("root", "a"), ("root", "b"), ("root", "alone")]
    for number in range(5):
        parent = "a" if number < 3 else "b"
        edges += [(parent, f"{parent}{number}"), *((f"{parent}{number}", f"{parent}{number} {leaf}") for leaf in ("x", "y"))]
    edges.append(("b", "b last"))
    tree = from_edges(edges)
    return tree.with_classes(sorted(tree.classes))


@pytest.fixture(scope="session")
def bench():
    """tools/bench/bench_report.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        import bench_report

        yield bench_report


@pytest.fixture(scope="session")
def run(bench, tmp_path_factory):
    """A finished run of 12 classes with pictures and responses; leave it as it is."""
    return bench.made_run(tmp_path_factory.mktemp("made") / "flat", three_levels())


@pytest.fixture(scope="session")
def chromium(bench):
    """A browser of this session."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install hiercnn[dev])")
    program = bench.browser()
    if program is None:
        pytest.skip("needs Chromium (apt-get install chromium), or BROWSER_PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def shown(chromium):
    """Open a page and wait until its views are drawn; anything on the console, and any request, fails the test."""
    opened, said = [], []

    def show(path: Path, **options):
        page = chromium.new_context(viewport={"width": 1280, "height": 900}, **options).new_page()
        opened.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: re.match("file:|blob:|data:", request.url) or said.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=charts]")
        return page

    yield show
    for page in opened:
        page.context.close()
    assert said == []
