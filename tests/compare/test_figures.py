"""The pictures, from what compare.json holds: every value they show against a plain loop."""

import copy
import os
import shutil
from html import unescape
from math import sqrt

import numpy as np
import pytest

from hiercnn.compare._figures import BASELINE, figures, save_figures
from hiercnn.errors import CheckpointError, HierCNNError
from hiercnn.pictures import WIDTH

LEVELS = ["3 groups", "leaf"]
EPOCHS = (2, 4, 6)


def run(seed: int, better: float, images: int = 100) -> dict:
    """A run whose numbers tell seed, recipe and epoch apart."""

    def point(epoch):
        leaf = 0.1 * epoch + 0.01 * seed * epoch + better
        return {
            "epoch": epoch,
            "images": images * epoch,
            "seconds": 10.0 * epoch + seed,
            "val": {"3 groups": leaf + 0.1, "leaf": leaf},
            "val_nll": 3 - leaf,
            "train_accuracy": leaf + 0.02 * epoch * (1 + seed),
            "train_nll": 3 - 1.5 * leaf,
        }

    curve = [point(epoch) for epoch in EPOCHS]
    return {"seed": seed, "accuracy": curve[-1]["val"], "curve": curve}


def mean_sd(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def recipe(better: float, seeds: int) -> dict:
    several = seeds > 1
    return {
        "runs": [run(seed, better) for seed in range(seeds)],
        "accuracy": {level: {"mean": 0.6 + better, "sd": 0.02 if several else None} for level in LEVELS},
        "difference": {
            "3 groups": {"mean": better / 2, "pairs": seeds, "interval": [better / 2 - 0.03, better / 2 + 0.03] if several else None},
            "leaf": {"mean": better, "pairs": seeds, "interval": [better - 0.04, better + 0.05] if several else None},
        },
        "differs_in": ["model.heads"] if better else [],
    }


def comparison(seeds: int = 2, names: tuple[str, ...] = ("flat", "heads")) -> dict:
    """The first recipe is the baseline; each of the others is 0.01 better than the one before."""
    facts = {"baseline": names[0], "levels": LEVELS, "measured_on": "test", "convergence": "budget", "epochs": 6}
    return facts | {"recipes": {name: recipe(0.01 * number, seeds) for number, name in enumerate(names)}}


def with_budgets(result: dict) -> dict:
    def points(better):
        accuracy = {share: {"mean": 0.6 * share + better, "sd": 0.02} for share in (0.5, 1.0)}
        return [
            {"share": s, "epochs": int(6 * s), "accuracy": a, "difference": {"mean": -0.1, "pairs": 2, "interval": [-0.2, 0.0]}}
            for s, a in accuracy.items()
        ]

    return result | {"budgets": {name: points(0.01 * number) for number, name in enumerate(result["recipes"])}}


def lines(figure, axis: str = "x") -> list:
    """The traces with a legend group on one x axis that are no bands."""
    return [trace for trace in figure.data if trace.xaxis == axis and trace.legendgroup and trace.fill is None]


def bands(figure, axis: str = "x") -> list:
    return [trace for trace in figure.data if trace.xaxis == axis and trace.fill == "toself"]


def title(figure) -> str:
    return figure.layout.title.text


@pytest.mark.parametrize(("name", "axis_title"), [("accuracy-by-epoch", "epoch"), ("accuracy-by-seconds", "training seconds")])
def test_lines_are_means_and_bands_mean_and_sd_over_seeds(name, axis_title):
    result = comparison()
    figure = figures(result)[name]
    assert [note.text for note in figure.layout.annotations] == LEVELS
    for level, axis in zip(LEVELS, ("x", "x2"), strict=True):
        assert [trace.name for trace in lines(figure, axis)] == ["flat", "heads"]
        for line, band, row in zip(lines(figure, axis), bands(figure, axis), result["recipes"].values(), strict=True):
            curves = [one["curve"] for one in row["runs"]]
            expected = [mean_sd([100 * curve[i]["val"][level] for curve in curves]) for i in range(len(EPOCHS))]
            if name == "accuracy-by-epoch":
                assert line.x == EPOCHS
            else:
                assert line.x == pytest.approx([sum(curve[i]["seconds"] for curve in curves) / len(curves) for i in range(len(EPOCHS))])
            assert line.y == pytest.approx([mean for mean, _ in expected])
            assert band.x == pytest.approx([*line.x, *reversed(line.x)])
            assert band.y == pytest.approx([mean + sd for mean, sd in expected] + [mean - sd for mean, sd in reversed(expected)])
    assert figure.layout.xaxis.title.text == axis_title
    assert figure.layout.yaxis.title.text == "val accuracy in %"
    assert "mean ± sd over 2 seeds" in title(figure)


def test_each_recipe_stands_in_the_legend_once_and_has_one_colour_everywhere():
    result = with_budgets(comparison(names=("flat", *(f"heads{number}" for number in range(9)))))
    seen = {}
    drawn = figures(result)
    for name in ("accuracy-by-epoch", "accuracy-by-seconds", "gap", "budgets"):
        figure = drawn[name]
        assert [trace.name for trace in figure.data if trace.showlegend is not False] == list(result["recipes"])
        assert figure.layout.legend.traceorder == "normal"
        for trace in figure.data:
            if trace.legendgroup and trace.fill is None:
                seen.setdefault(trace.name, set()).add((trace.line.color, trace.line.dash, trace.marker.symbol))
    assert {len(looks) for looks in seen.values()} == {1}
    assert len(set.union(*seen.values())) == len(result["recipes"])
    assert next(iter(seen["flat"]))[0] == BASELINE


def test_baseline_is_drawn_first_wherever_it_stands():
    result = comparison(names=("flat", "heads", "late"))
    figure = figures(result | {"baseline": "heads"})["accuracy-by-epoch"]
    assert [trace.name for trace in lines(figure)] == ["heads", "flat", "late"]
    assert lines(figure)[0].line.color == BASELINE


def test_one_seed_has_no_bands_bars_or_intervals():
    drawn = figures(comparison(seeds=1))
    assert not any(trace.fill for figure in drawn.values() for trace in figure.data)
    assert all(trace.error_x.array is None for trace in drawn["differences"].data)
    assert "One seed, so no spread." in title(drawn["accuracy-by-epoch"])
    assert "One pair of runs with the same seed, so no interval." in title(drawn["differences"])


def other_epochs(result: dict) -> None:
    for one in result["recipes"]["heads"]["runs"]:
        one["curve"] = one["curve"][1:]


def other_images(result: dict) -> None:
    result["recipes"]["heads"]["runs"] = [run(seed, 0.01, images=150) for seed in (0, 1)]


@pytest.mark.long
@pytest.mark.parametrize(("change", "expected"), [(other_epochs, (400, 600)), (other_images, (300, 600, 900))])
def test_epochs_that_cannot_be_set_side_by_side_give_way_to_images(change, expected):
    result = comparison()
    change(result)
    for name in ("accuracy-by-epoch", "gap"):
        figure = figures(result)[name]
        assert [trace.x for trace in lines(figure)] == [(200, 400, 600), expected]
        assert figure.layout.xaxis.title.text == "training images seen"
    assert "by training images seen" in title(figures(result)["accuracy-by-epoch"])


def test_only_evaluations_of_all_seeds_are_averaged():
    result = comparison()
    result["recipes"]["heads"]["runs"][1]["curve"].pop()
    assert [len(trace.x) for trace in lines(figures(result)["accuracy-by-epoch"])] == [3, 2]


def test_gap_and_nll():
    result = comparison()
    figure = figures(result)["gap"]
    for line, band, nll, row in zip(lines(figure), bands(figure), lines(figure, "x2"), result["recipes"].values(), strict=True):
        points = [[one["curve"][i] for one in row["runs"]] for i in range(len(EPOCHS))]
        expected = [mean_sd([100 * (point["train_accuracy"] - point["val"]["leaf"]) for point in seeds]) for seeds in points]
        assert line.y == pytest.approx([mean for mean, _ in expected])
        assert band.y[: len(EPOCHS)] == pytest.approx([mean + sd for mean, sd in expected])
        assert nll.x == pytest.approx([sum(point["train_nll"] for point in seeds) / 2 for seeds in points])
        assert nll.y == pytest.approx([sum(point["val_nll"] for point in seeds) / 2 for seeds in points])
    (diagonal,) = [trace for trace in figure.data if trace.hoverinfo == "skip" and trace.fill is None]
    assert diagonal.x == diagonal.y
    assert set(diagonal.x) == {end(x for line in lines(figure, "x2") for x in line.x) for end in (min, max)}
    assert figure.layout.xaxis2.autorange == "reversed"


def test_differences_leave_the_baseline_out_and_show_intervals_in_points():
    figure = figures(comparison(names=("flat", "heads", "late")))["differences"]
    assert figure.layout.yaxis.ticktext == ("heads", "late")
    assert [trace.name for trace in figure.data] == LEVELS
    leaf = figure.data[1]
    assert leaf.x == pytest.approx([1.0, 2.0])
    assert leaf.error_x.array == pytest.approx([5.0, 5.0])
    assert leaf.error_x.arrayminus == pytest.approx([4.0, 4.0])
    assert not leaf.error_x.symmetric
    assert leaf.text[0] == "heads: +1.0 [-3.0, +6.0] points<br>differs from the baseline in 'model.heads'"
    low, high = figure.layout.xaxis.range
    assert low < -3.0
    assert high > 7.0
    assert figure.layout.xaxis.zeroline
    assert "2 pairs of runs with the same seed" in title(figure)
    assert "test accuracy" in title(figure)


def test_markers_of_a_row_stay_in_it():
    figure = figures(comparison(names=("flat", "heads", "late")))["differences"]
    assert all(abs(y - row) < 0.5 for trace in figure.data for row, y in enumerate(trace.y))
    assert len({trace.y for trace in figure.data}) == len({trace.marker.color for trace in figure.data}) == len(LEVELS)


def test_steps_are_differences_of_shares_given_the_level_above():
    result = comparison(seeds=3)
    shares = {
        name: np.array([[run["accuracy"]["3 groups"], run["accuracy"]["leaf"] / run["accuracy"]["3 groups"]] for run in row["runs"]])
        for name, row in result["recipes"].items()
    }
    drawn = figures(result)["steps"].data
    assert len(drawn) == 2
    for step, bar in enumerate(drawn):
        mean, sd = mean_sd(100 * (shares["heads"] - shares["flat"])[:, step])
        assert bar.x[0] == pytest.approx(mean)
        assert bar.error_x.array[0] == pytest.approx(4.302653 * sd / 3**0.5)  # Student's t with two degrees of freedom


def test_steps_have_one_scale():
    layout = figures(comparison(seeds=3))["steps"].layout
    assert layout.xaxis.range == layout.xaxis2.range
    assert layout.xaxis.range[0] < 0 < layout.xaxis.range[1]


def test_one_level_has_no_steps():
    result = comparison()
    result["levels"] = ["leaf"]
    assert "steps" not in figures(result)


def test_one_recipe_alone_has_no_differences():
    assert list(figures(comparison(names=("flat",)))) == ["accuracy-by-epoch", "accuracy-by-seconds", "gap"]


@pytest.mark.parametrize("absent", [{}, {"budgets": None}])
def test_budgets_only_where_there_are_some(absent):
    assert "budgets" not in figures(comparison() | absent)


def test_budgets():
    figure = figures(with_budgets(comparison()))["budgets"]
    for number, trace in enumerate(figure.data):
        assert trace.x == pytest.approx([50, 100], abs=0.5)
        assert trace.y == pytest.approx([30 + number, 60 + number])
        assert trace.error_y.array == pytest.approx([2, 2])
    (full,) = figure.layout.shapes
    assert full.y0 == full.y1 == pytest.approx(60)
    assert full.line.dash == "dot"
    assert figure.layout.xaxis.ticktext == ("50", "100")


def test_names_are_shown_as_they_are_called_and_never_as_html():
    result = with_budgets(comparison(names=("a<b>x", "y</b>&amp;")))
    result["levels"] = ["<i>3", "leaf"]
    for row in result["recipes"].values():
        row["difference"]["<i>3"] = row["difference"].pop("3 groups")
        for one in row["runs"]:
            one["accuracy"] = one["accuracy"] | {"<i>3": 0.5}
            one["curve"] = [point | {"val": point["val"] | {"<i>3": 0.5}} for point in one["curve"]]
    drawn = figures(result)
    assert [trace.name for trace in lines(drawn["accuracy-by-epoch"])] == ["a&lt;b&gt;x", "y&lt;/b&gt;&amp;amp;"]
    assert drawn["accuracy-by-epoch"].layout.annotations[0].text == "&lt;i&gt;3"
    assert drawn["differences"].layout.yaxis.ticktext == ("y&lt;/b&gt;&amp;amp;",)
    assert drawn["differences"].data[0].name == "&lt;i&gt;3"
    assert "Difference from a&lt;b&gt;x in" in title(drawn["differences"])
    assert not any(bad in figure.to_json() for figure in drawn.values() for bad in ("<b>", "</b>", "<i>"))


@pytest.mark.parametrize(
    ("names", "shown", "prefix"),
    [
        (("set-flat", "set-fat"), ["flat", "fat"], "“set-”"),
        (("a-b-x", "a-b-y", "a-c"), ["b-x", "b-y", "c"], "“a-”"),
        (("a-b-", "a-b-x"), ["b-", "b-x"], "“a-”"),
        (("flat", "flatter"), ["flat", "flatter"], None),
        (("set-flat",), ["set-flat"], None),
    ],
)
def test_what_all_names_begin_with_is_said_once(names, shown, prefix):
    figure = figures(comparison(names=names))["accuracy-by-epoch"]
    assert [trace.name for trace in lines(figure)] == shown
    assert ("Names are shown without" in title(figure)) == (prefix is not None)
    assert prefix is None or prefix in title(figure)


@pytest.mark.long
def test_long_names_get_the_room_they_need():
    names = ("flat", *(f"{number}-{'very-' * 14}long" for number in range(9)))
    short, long = (figures(comparison(names=some)) for some in (("flat", "heads"), names))
    for name in short:
        assert long[name].layout.width == WIDTH
    assert long["gap"].layout.margin.b >= short["gap"].layout.margin.b + 9 * 20
    assert all("<br>" in text for text in long["differences"].layout.yaxis.ticktext)


def test_drawing_leaves_the_result_alone():
    result = with_budgets(comparison())
    before = copy.deepcopy(result)
    figures(result)
    assert result == before


def test_pages_need_no_network(tmp_path):
    saved = save_figures(with_budgets(comparison()), tmp_path / "new" / "figures", ["html"])
    assert saved.left_out is None
    names = {
        "accuracy-by-epoch.html",
        "accuracy-by-seconds.html",
        "gap.html",
        "steps.html",
        "differences.html",
        "budgets.html",
        "plotly.min.js",
    }
    assert {path.name for path in saved.paths} == {path.name for path in (tmp_path / "new" / "figures").iterdir()} == names
    page = (tmp_path / "new" / "figures" / "gap.html").read_text(encoding="utf-8")
    assert 'src="plotly.min.js"' in page
    assert "http" not in page


def test_a_stale_plotly_js_is_replaced(tmp_path):
    (tmp_path / "plotly.min.js").write_text("of an older plotly")
    save_figures(comparison(), tmp_path, ["html"])
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000


def test_unknown_format(tmp_path):
    with pytest.raises(HierCNNError, match=r"'pgn' is not one of 'html', 'svg', 'png'; did you mean 'png'\?"):
        save_figures(comparison(), tmp_path / "figures", ["pgn"])
    assert not (tmp_path / "figures").exists()


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(CheckpointError, match="cannot make the folder"):
        save_figures(comparison(), tmp_path / "figures", ["html"])


@pytest.mark.parametrize(
    ("path", "why"), [("nowhere", "none was found"), (shutil.which("false"), "the one found failed (BrowserFailedError)")]
)
def test_without_a_browser_the_pages_are_there_and_the_images_are_excused(tmp_path, monkeypatch, path, why):
    monkeypatch.setenv("BROWSER_PATH", path)
    saved = save_figures(comparison(), tmp_path)
    assert {path.suffix for path in saved.paths} == {path.suffix for path in tmp_path.iterdir()} == {".html", ".js"}
    assert saved.left_out == f"svg and png need Chrome or Chromium: {why}; BROWSER_PATH is {path}"


def browser() -> str | None:
    from choreographer.browsers.chromium import Chromium

    return os.environ.get("BROWSER_PATH") or Chromium.find_browser(skip_local=False)


@pytest.mark.long
def test_images(tmp_path):
    if not browser():
        pytest.skip("needs Chrome or Chromium (apt install chromium, or kaleido_get_chrome)")
    saved = save_figures(comparison(names=("flat", "a<b>x")), tmp_path, ("svg", "png"))
    assert saved.left_out is None
    assert {path.name for path in saved.paths} == {path.name for path in tmp_path.iterdir()}
    assert len(saved.paths) == 2 * 5
    png = (tmp_path / "gap.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(png[16:20], "big") == 2 * WIDTH
    svg = (tmp_path / "gap.svg").read_text(encoding="utf-8")
    assert f'width="{WIDTH}"' in svg
    assert ">a<b>x</text>" in unescape(svg)
