"""The page in a real browser: what is drawn, how the views are linked, every filter, light and dark. See `shown`: silence is tested too."""

from itertools import pairwise

import numpy as np
import pytest
from report.conftest import HOSTILE, three_levels

from hiercnn.dynamics import channel_relevance
from hiercnn.hierarchy import from_edges
from hiercnn.metrics import node_counts
from hiercnn.report import write_report
from hiercnn.report._blocks import confusion_of, view
from hiercnn.report._figures import view_figures

pytestmark = pytest.mark.browser

CLICK = """([id, x, y, kind]) => {
  const box = document.getElementById(id).getBoundingClientRect(), at = { clientX: box.left + x, clientY: box.top + y, bubbles: true };
  document.getElementById(id).dispatchEvent(new MouseEvent(kind, at));
}"""
IMAGES = "Number(document.getElementById('matrix').dataset.images)"


@pytest.fixture(scope="module")
def run(bench, tmp_path_factory):
    return without_charts(bench.made_run(tmp_path_factory.mktemp("made") / "flat", three_levels()))


def without_charts(run):
    """The run before its end, of which there is no table and no chart: a page that loads in no time."""
    run.keep_events(1 + len(run.metrics))
    return run


@pytest.fixture(scope="module")
def shown_run(run):
    return view(run, images=10)


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    return write_report([run.path], tmp_path_factory.mktemp("page") / "report.html").path


@pytest.fixture
def page(shown, report):
    return shown(report)


def click(page, canvas: str, x: float, y: float, kind: str = "click") -> None:
    page.evaluate(CLICK, [canvas, x, y, kind])


def click_node(page, name: str, kind: str = "click") -> None:
    find = f"(() => {{ const names = hiercnn.run().tree.names; return hiercnn.boxes().find((box) => names[box.node] === '{name}'); }})()"
    box = page.evaluate(find)
    click(page, "tree", box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, kind)


def click_cell(page, row: int, column: int, classes: int) -> None:
    """A cell by ranks, in a view of so many classes."""
    side = page.evaluate("hiercnn.size.matrix") / classes
    click(page, "matrix", (column + 0.5) * side, (row + 0.5) * side)


def choose(page, name: str, value: str) -> None:
    page.select_option(f"#{name}", value)


def shown_classes(page) -> set[str]:
    return {
        text.strip() for text in page.evaluate("[...document.querySelectorAll('.group h4')].map((title) => title.firstChild.textContent)")
    }


def ink(page, canvas: str) -> str:
    """What a canvas shows."""
    return page.evaluate(f"document.getElementById('{canvas}').toDataURL()")


def test_the_views_are_drawn_soon(page, shown_run):
    assert page.title() == "made-flat"
    assert page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") < 3000
    for canvas in ("tree", "matrix", "responses"):
        assert len(ink(page, canvas)) > 3000  # an empty one is some hundred letters
    errors = int((shown_run.last.labels != shown_run.last.predicted).sum())
    assert page.evaluate(IMAGES) == errors
    assert page.inner_text("#selection") == f"All classes: {errors} errors"


def test_a_node_selects_its_rows_its_images_and_its_channels(page, shown_run):
    click_node(page, "a")
    tree, last = shown_run.tree, shown_run.last
    below = set(tree.leaves(tree.node("a")).tolist())
    assert page.evaluate("[...hiercnn.state.rows]") == [int(leaf in below) for leaf in range(tree.num_classes)]
    wrong = [leaf for leaf in last.labels[last.labels != last.predicted] if leaf in below]
    assert page.inner_text("#selection") == f"a: {len(wrong)} errors"
    assert shown_classes(page) == {tree.classes[leaf] for leaf in wrong}
    areas = channel_relevance(shown_run.responses["penultimate"], np.isin(np.arange(tree.num_classes), list(below)))
    found = page.evaluate("hiercnn.areas()")
    np.testing.assert_allclose(found, areas, atol=0.05)  # responses are kept in 256 steps
    order = page.evaluate("hiercnn.channels()")
    assert all(found[a] >= found[b] for a, b in pairwise(order))
    assert f"{sum(area > 0.95 for area in found)} of 512 channels tell these classes" in page.inner_text("#channels")
    click_node(page, "a")
    assert page.evaluate("hiercnn.state.rows") is None


def test_shares_of_nodes_are_those_of_the_library(page, shown_run):
    counts = node_counts(confusion_of(shown_run.last, shown_run.tree), shown_run.tree)
    for what in ("recall", "precision", "f1"):
        choose(page, "colour", what)
        found = page.evaluate("Array.from(hiercnn.run().tree.names, (_, node) => hiercnn.nodeShare(node))")
        np.testing.assert_allclose(np.array(found, dtype=float), getattr(counts, what))


def test_a_cell_selects_its_images_and_one_of_them_its_paths(page, shown_run):
    last, order = shown_run.last, shown_run.tree.leaf_order
    wrong = np.flatnonzero(last.labels != last.predicted)
    rank = {leaf: number for number, leaf in enumerate(order)}
    actual, predicted = last.labels[wrong[0]], last.predicted[wrong[0]]
    click_cell(page, rank[actual], rank[predicted], len(order))
    number = int(((last.labels == actual) & (last.predicted == predicted)).sum())
    names = [shown_run.tree.classes[leaf] for leaf in (actual, predicted)]
    assert page.inner_text("#selection") == f"{names[0]} → {names[1]}: {number} error{'s' if number > 1 else ''}"
    page.click(".tile")
    detail = page.inner_text("#detail")
    assert "Labelled" in detail
    assert f"sure of {names[1]}" in detail
    assert page.locator("#detail .step").count() == sum(len(shown_run.tree.ancestors(shown_run.tree.node(name))) - 1 for name in names)
    assert "test/0000" in detail
    page.keyboard.press("Escape")
    assert page.evaluate("hiercnn.state.cell") is None
    assert page.inner_text("#detail") == ""


def test_a_channel_selects_the_classes_that_answer(page, shown_run):
    click(page, "responses", 1, 1)
    channel = page.evaluate("hiercnn.state.channel")
    responses = shown_run.responses["penultimate"][:, channel]
    strong = (responses - responses.mean()) / responses.std() >= 1.01
    found = page.evaluate("[...hiercnn.state.rows]")
    assert all(found[leaf] for leaf in np.flatnonzero(strong))
    assert sum(found) <= strong.sum() + 1
    assert page.inner_text("#selection").startswith(f"Classes that answer strongly in channel {channel} of penultimate")


def test_each_filter_acts(page, shown_run):
    confusion = confusion_of(shown_run.last, shown_run.tree)
    errors = confusion * ~np.eye(len(confusion), dtype=bool)
    assert page.evaluate(IMAGES) == errors.sum()
    page.uncheck("#diagonal")
    assert page.evaluate(IMAGES) == confusion.sum()
    page.fill("#least", "3")
    assert page.evaluate(IMAGES) == confusion[confusion >= 3].sum()
    page.fill("#least", "1")
    page.check("#diagonal")
    groups = shown_run.cuts[0].groups
    choose(page, "within", "0")
    assert page.evaluate(IMAGES) == errors[groups[:, None] != groups].sum()
    choose(page, "within", "")
    choose(page, "beyond", "3")
    assert page.evaluate(IMAGES) == (shown_run.last.place >= 3).sum()
    assert page.inner_text("#selection") == f"All classes: {(shown_run.last.place >= 3).sum()} errors"
    choose(page, "beyond", "0")
    page.check("#right")
    assert page.inner_text("#selection") == f"All classes: {confusion.sum()} images"
    before = ink(page, "matrix")
    page.uncheck("#outlines")
    assert ink(page, "matrix") != before


def test_images_by_predicted_class(page, shown_run):
    choose(page, "by", "predicted")
    wrong = shown_run.last.labels != shown_run.last.predicted
    listed = sorted(np.bincount(shown_run.last.predicted[wrong]), reverse=True)
    assert page.inner_text(".group:first-child h4 span").split()[-1] == str(listed[0])


@pytest.mark.long
def test_the_slider_goes_through_training(page, shown_run):
    assert page.is_disabled("#epoch")
    choose(page, "split", "val")
    assert page.inner_text("#epoch-text") == "epoch 6"
    page.evaluate("document.getElementById('epoch').value = 0")
    page.dispatch_event("#epoch", "input")
    assert page.inner_text("#epoch-text") == "epoch 1"
    first = shown_run.evaluations[0]
    assert page.evaluate(IMAGES) == (first.labels != first.predicted).sum()
    page.click(".tile")
    assert "kept for the last evaluation" in page.inner_text("#detail")
    page.click("#play")
    assert page.inner_text("#play") == "❚❚"
    page.wait_for_selector("#play:text-is('▶')")  # at the end it stops
    assert page.inner_text("#epoch-text") == "epoch 6"


def test_the_order_of_logit_correlation(page, shown_run):
    before = page.evaluate(IMAGES)
    choose(page, "order", "logits")
    assert page.evaluate(IMAGES) == before
    order = page.evaluate("[...hiercnn.run().orders.logits]")
    assert sorted(order) == list(range(12))
    click_cell(page, 0, 1, 12)
    assert page.evaluate("hiercnn.state.cell") == order[:2]


def test_looking_into_a_node(page, shown_run):
    click_node(page, "b", "dblclick")
    tree = shown_run.tree
    node = tree.node("b")
    assert page.evaluate("[hiercnn.state.from, hiercnn.state.to]") == [tree.starts[node], tree.stops[node]]
    click_cell(page, 0, 0, int(tree.stops[node] - tree.starts[node]))
    assert page.evaluate("hiercnn.state.cell")[0] == tree.leaves(node)[0]
    page.click("#whole")
    assert page.evaluate("[hiercnn.state.from, hiercnn.state.to]") == [0, 12]
    page.fill("#find", "a1")
    page.dispatch_event("#find", "change")
    assert page.inner_text("#selection").startswith("a1: ")


def test_what_the_pointer_is_on(page):
    page.locator("#matrix").scroll_into_view_if_needed()
    page.hover("#matrix", position={"x": 3, "y": 3})
    assert "images, " in page.inner_text("#tip")
    page.hover("#tree", position={"x": 3, "y": 30})
    assert "recall" in page.inner_text("#tip")
    page.hover("#responses", position={"x": 3, "y": 3})
    assert "sd" in page.inner_text("#tip")
    page.hover("h1")
    assert page.is_hidden("#tip")


def test_dark_and_light(shown, report):
    page = shown(report, color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor"), ink(page, "matrix")
    page.click("#theme")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor"), ink(page, "matrix")
    assert dark[0] == "rgb(20, 23, 27)"
    assert light[0] == "rgb(251, 250, 247)"
    assert dark[1] != light[1]


@pytest.mark.long
def test_hostile_names_are_text_and_charts_are_drawn_when_they_come_near(shown, bench, tmp_path):
    tree = from_edges([("root", "group"), ("root", "rest"), *(("group", name) for name in HOSTILE), ("rest", "leaf"), ("rest", "<i>")])
    run = bench.made_run(tmp_path / "run", tree.with_classes(sorted(tree.classes)), epochs=3, cuts=[{"depth": 1}], name="made-flat")
    page = shown(write_report([run.path], tmp_path / "report.html").path)
    click_node(page, "group")
    assert shown_classes(page) & set(HOSTILE)
    page.click(".tile")
    page.hover("#matrix", position={"x": 5, "y": 5})
    page.wait_for_selector("#overview-charts [data-drawn]")
    assert page.evaluate("document.querySelectorAll('main script, main img, .group b').length") == 0
    assert page.locator("#overview-charts .chart").count() >= 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_class_that_is_never_predicted(shown, bench, tmp_path):
    tree = three_levels()
    run = without_charts(bench.made_run(tmp_path / "run", tree, epochs=1, images=False))
    with np.load(run.predictions / "test.npz") as arrays:
        columns = dict(arrays)
    columns["logits"][:, 3] = -50
    np.savez(run.predictions / "test.npz", **columns)
    page = shown(write_report([run.path], tmp_path / "report.html").path)
    leaf = tree.leaf_nodes[3]
    assert page.evaluate(f"[hiercnn.nodeShare({leaf}, 'precision'), hiercnn.nodeShare({leaf}, 'recall')].map(String)") == ["NaN", "0"]
    assert "No pictures of run" in page.inner_text("#pictures")
    choose(page, "colour", "precision")


def test_a_run_without_predictions(shown, bench, tmp_path):
    run = without_charts(bench.made_run(tmp_path / "run", three_levels(), epochs=2, images=False))
    for file in run.predictions.iterdir():
        file.unlink()
    page = shown(write_report([run.path], tmp_path / "report.html").path)
    assert "No predictions yet" in page.inner_text("#notes")
    assert page.is_hidden("#matrix")
    assert page.is_hidden("#tools")
    assert "call hiercnn diagnose" in page.inner_text("#faults")


def test_another_run_is_shown_in_all_views(shown, bench, tmp_path):
    head = [{"stage": "early", "cut": 3, "weight": 0.5}]
    for name, heads in (("flat", None), ("heads", head)):
        without_charts(bench.made_run(tmp_path / "runs" / name, three_levels(), name=name, epochs=4, heads=heads, responses=not heads))
    folder = tmp_path / "runs" / "heads" / "diagnose" / "test"
    folder.mkdir(parents=True)
    finding = 'rank,score,split,image,label,predicted,other_image,sentence\n1,0.9,test,test/000001.png,a,b,,"said ""so"""\n'
    (folder / "mislabel.csv").write_text(finding)
    (folder / "subset_class.csv").write_text(finding.splitlines()[0] + "\n1,0.123456,,,a,b,,a in b\n")
    page = shown(write_report([tmp_path / "runs"], tmp_path / "report.html").path)
    assert page.is_visible("#responses")
    choose(page, "run", "1")
    assert page.is_hidden("#responses")
    assert "No response map" in page.inner_text("#notes")
    assert 'said "so"' in page.inner_text("#faults-lists")
    assert page.evaluate("[...document.querySelectorAll('.finding')].map((row) => row.children.length)") == [4, 3]  # no picture of classes
    assert page.inner_text(".finding.classes").split() == ["1", "0.123", "a", "in", "b"]
    with page.expect_download() as download:
        page.click("#faults-lists button")
    assert download.value.path().read_text() == finding


@pytest.mark.long
def test_a_thousand_classes(shown, bench, tmp_path):
    tree = bench.balanced_tree((10, 10, 10))
    run = without_charts(bench.made_run(tmp_path / "run", tree, epochs=1, per_class=(1, 2), images=False, responses=False))
    report = write_report([run.path], tmp_path / "report.html")
    assert report.size < 40e6
    page = shown(report.path)
    assert page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") < 3000
    assert "dots of about" in page.inner_text("#matrix-scale")
    middle = page.evaluate("hiercnn.size.matrix") / 2
    page.evaluate("window.counted = hiercnn.counts()")
    click(page, "matrix", middle / 20, middle / 20)
    assert page.evaluate("hiercnn.state.cell.length") == 2
    click_node(page, "group b 00042", "dblclick")
    assert page.evaluate("hiercnn.state.to - hiercnn.state.from") == 10
    assert "dots" not in page.inner_text("#matrix-scale")


def test_stills_are_made_of_the_same_numbers(shown_run):
    drawn = view_figures(shown_run)
    assert drawn["confusion"].data[0].customdata.sum() == (shown_run.last.labels != shown_run.last.predicted).sum()
    assert drawn["tree"].data[0].values[0] == 12
