"""Pictures of dynamics: every number of the rows is drawn where it belongs, and nothing of them is changed."""

import numpy as np
import pytest

from hiercnn.dynamics import LAST, LEAF, LOGITS, TREE, Row, Story, figures
from hiercnn.hierarchy import builtin

TREE36 = builtin("synthetic")
CUTS = [TREE36.cut(groups=3), TREE36.cut(groups=9)]
STEPS = [0, 1, 2, 4, 8, 16]
LAYERS = ["stage0", "stage1", LAST]
OF_LOGITS = ("greedy", "corrected", "relative", "residual", "lift")
OF_LAYERS = ("trace_ratio", "block_strength", "nc1", "equinorm", "equiangular", "max_angle")
OF_LAST = ("nc3", "nc4", "w_equinorm")


def story(seed: int = 0) -> Story:
    """Six moments of eight updates an epoch, every number drawn at random."""
    rng, rows = np.random.default_rng(seed), []

    def add(step: int, layer: str, cut: str, statistic: str, band: bool) -> None:
        value, mean, low, high = sorted(rng.random(4) + 0.1)
        rows.append((-(-step // 8), step, Row(layer, cut, statistic, value, *((mean, low, high) if band else ()))))

    for step in STEPS:
        for cut in CUTS:
            for statistic in OF_LOGITS:
                add(step, LOGITS, cut.name, statistic, band=statistic != "relative")
            for layer in LAYERS:
                for statistic in (*OF_LAYERS, *(OF_LAST if layer == LAST else ())):
                    add(step, layer, cut.name, statistic, band=True)
        for statistic in ("greedy", "corrected", "relative"):
            add(step, LOGITS, LEAF, statistic, band=False)
        for statistic in ("nc1", "trace_ratio", *OF_LAST):
            add(step, LAST, LEAF, statistic, band=False)
        for layer in LAYERS:
            for statistic in ("pearson", "r_final"):
                add(step, layer, TREE, statistic, band=False)
    means = {layer: rng.normal(size=(len(STEPS), 36, 5)) for layer in LAYERS}
    return Story(rows, means, STEPS, 8, TREE36, CUTS)


@pytest.fixture(scope="module")
def drawn():
    return figures(story())


def lines(figure, name: str) -> list:
    """Solid curves of one name, in the order of the panels."""
    return [trace for trace in figure.data if trace.name == name]


def test_there_is_a_figure_of_everything(drawn):
    names = ["accuracy", "lift", "times", "separability", "blocks", "trees", "collapse", "path"]
    assert list(drawn) == [*names, "dendrogram-step-0", "dendrogram-step-4", "dendrogram-step-16"]


@pytest.mark.parametrize(
    ("figure", "panel", "layer", "cut", "statistic", "scale"),
    [
        ("accuracy", 0, LOGITS, "3 groups", "greedy", 100),
        ("accuracy", 1, LOGITS, "9 groups", "corrected", 100),
        ("lift", 0, LOGITS, "3 groups", "residual", 100),
        ("lift", 1, LOGITS, "9 groups", "lift", 1),
        ("collapse", 0, LAST, "9 groups", "nc1", 1),
        ("collapse", 7, LAST, "3 groups", "nc4", 1),
    ],
)
def test_curves_and_bands_are_the_rows(drawn, figure, panel, layer, cut, statistic, scale):
    curve, whole = story().curve(layer, cut, statistic), drawn[figure]
    solid = lines(whole, cut)[panel]
    assert list(solid.x) == [step / 8 for step in STEPS]
    np.testing.assert_allclose(solid.y, scale * np.array(curve["value"]))
    others = [trace for trace in whole.data if (trace.legendgroup, trace.xaxis) == (cut, solid.xaxis) and trace is not solid]
    band, dashed = others
    np.testing.assert_allclose(band.y, scale * np.array([*curve["random_high"], *reversed(curve["random_low"])]))
    np.testing.assert_allclose(dashed.y, scale * np.array(curve["random_mean"]))


def test_layers_have_lines_from_the_first_to_the_last(drawn):
    for layer in LAYERS:
        for line, statistic in zip(lines(drawn["trees"], layer), ("pearson", "r_final"), strict=True):
            np.testing.assert_allclose(line.y, story().curve(layer, TREE, statistic)["value"])


def test_heatmaps_compare_with_random_partitions(drawn):
    _, second = drawn["separability"].data
    row = next(row for _, step, row in story().rows if (step, *row[:3]) == (4, "stage1", "9 groups", "trace_ratio"))
    assert list(second.y) == LAYERS
    assert second.x[3] == "0.5"
    assert second.z[1][3] == pytest.approx(row.value / row.random_mean)
    row = next(row for _, step, row in story().rows if (step, *row[:3]) == (16, "stage0", "3 groups", "block_strength"))
    assert drawn["blocks"].data[0].z[0][5] == pytest.approx(row.value - row.random_mean)


def test_times_are_the_first_moments_that_reach_a_share(drawn):
    curve = story().curve(LOGITS, "9 groups", "greedy")["value"]
    wanted = next(step / 8 for step, value in zip(STEPS, curve, strict=True) if value >= 0.9 * curve[-1])
    line = lines(drawn["times"], "90 %")[0]
    assert list(line.x) == [3, 9, 36]
    assert line.y[1] == wanted


def test_the_path_has_a_frame_a_moment_and_ends_at_the_last(drawn):
    figure = drawn["path"]
    assert [frame.name for frame in figure.frames] == ["0", "0.125", "0.25", "0.5", "1", "2"]
    np.testing.assert_array_equal(figure.frames[-1].data[0].x, figure.data[0].x)
    assert figure.layout.sliders[0].active == 5
    assert figure.data[0].text[0].startswith(TREE36.classes[0])
    assert len(set(figure.data[0].marker.color)) == 3


def test_runs_without_random_partitions_or_blocks_are_drawn():
    plain = story()
    rows = [(epoch, step, row._replace(random_mean=np.nan, random_low=np.nan, random_high=np.nan)) for epoch, step, row in plain.rows]
    drawn = figures(plain._replace(rows=rows))
    assert not {"separability", "blocks"} & drawn.keys()
    assert [trace.name for trace in drawn["lift"].data] == ["3 groups", "9 groups"] * 2
