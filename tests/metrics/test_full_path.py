"""FPA and TICE against plain loops over paths."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metrics.batches import ALONE, SPLITS, TREE, assert_batches_do_not_matter, assert_close, mean, path
from random_trees import trees

from hiercnn.errors import DataError, HierarchyError, ShapeError
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.metrics import FullPath, full_path

CUTS = TREE.cuts([{"depth": 1}, {"depth": 2}, "leaf"])  # animal car | pet wild car | car wolf cat dog
ANIMAL, CAR = 0, 1
PET, WILD = 0, 1


@st.composite
def predictions(draw) -> tuple[Hierarchy, list[Cut], torch.Tensor, torch.Tensor]:
    """A random tree and its cuts by depth, predicted groups [B, L], half of them a path of the tree, and labels [B]."""
    tree = draw(trees())
    cuts = [tree.cut(depth=depth) for depth in draw(st.lists(st.integers(0, tree.height), min_size=1, max_size=4).map(sorted))]
    generator, count = torch.Generator().manual_seed(draw(st.integers(0, 999))), draw(st.integers(1, 20))
    labels = torch.randint(0, tree.num_nodes, (count,), generator=generator)
    guesses = torch.where(torch.rand(count, generator=generator) < 0.5, labels, 0).clamp(max=tree.num_classes - 1)
    predicted = torch.stack([torch.tensor(cut.groups)[guesses] for cut in cuts], 1)
    anything = torch.stack([torch.randint(0, len(cut), (count,), generator=generator) for cut in cuts], 1)
    return tree, cuts, torch.where(torch.rand(count, 1, generator=generator) < 0.5, predicted, anything), labels


def loop(tree: Hierarchy, cuts: list[Cut], predicted: list[list[int]], labels: list[int]) -> dict:
    right, broken = [], []
    for groups, label in zip(predicted, labels, strict=True):
        nodes = [cut.nodes[group] for cut, group in zip(cuts, groups, strict=True)]
        above = path(tree, label)
        if all(set(cut.nodes) & set(above) for cut in cuts):
            right.append(set(nodes) <= set(above))
        broken.append(any(upper not in tree.ancestors(lower) for upper, lower in pairwise(nodes)))
    return {"fpa": mean(right), "tice": mean(broken)}


@given(predictions())
def test_numbers_are_those_of_loops(case):
    tree, cuts, predicted, labels = case
    assert_close(full_path(predicted, labels, cuts), loop(tree, cuts, predicted.tolist(), labels.tolist()))


@pytest.mark.long
@given(predictions(), SPLITS)
def test_batches_do_not_matter(case, ends):
    _, cuts, predicted, labels = case
    assert_batches_do_not_matter(lambda: FullPath(cuts), (predicted, labels), ends)


@pytest.mark.parametrize(
    ("predicted", "label", "fpa", "tice"),
    [
        ([ANIMAL, PET, 2], "cat", 1, 0),
        ([ANIMAL, PET, 3], "cat", 0, 0),  # dog: a path, the wrong one
        ([ANIMAL, WILD, 2], "cat", 0, 1),  # a wild cat
        ([CAR, PET, 2], "cat", 0, 1),
        ([CAR, 2, 0], "car", 1, 0),  # at depth 1 already
        ([ANIMAL, PET, 2], "pet", math.nan, 0),  # below pet nobody knows
        ([CAR, WILD, 2], "animal", math.nan, 1),
    ],
)
def test_by_hand(predicted, label, fpa, tice):
    found = full_path(torch.tensor([predicted]), torch.tensor([TREE.label(label)]), CUTS)
    assert_close(found, {"fpa": fpa, "tice": tice})


def test_groups_that_are_no_nodes():
    """Of random groups there is no tree, but they are inside each other."""
    cuts = [TREE.random_like(cut, 0) for cut in CUTS[:2]] + [TREE.leaf_cut()]
    predicted = torch.tensor([[cut.groups[label] for cut in cuts] for label in range(4)])
    assert full_path(predicted, torch.arange(4), cuts) == {"fpa": 1, "tice": 0}
    predicted[0, 0] = 1 - predicted[0, 0]
    assert full_path(predicted, torch.arange(4), cuts) == {"fpa": 3 / 4, "tice": 1 / 4}


def test_one_level_of_one_class_is_right():
    zero = torch.zeros(2, dtype=torch.int64)
    assert full_path(zero[:, None], zero, [ALONE.leaf_cut()]) == {"fpa": 1, "tice": 0}


@pytest.mark.parametrize(
    ("predicted", "labels", "wanted"),
    [
        (torch.zeros(2, 2, dtype=torch.int64), torch.arange(2), r"predicted: wanted \[2, 3\] int64, a group of each level, got \[2, 2\]"),
        (torch.zeros(2, 3), torch.arange(2), "a group of each level, got .* float32"),
        (torch.tensor([[0, 3, 0]]), torch.arange(1), r"the levels have \[2, 3, 4\] groups, numbered from 0"),
        (torch.tensor([[0, 0, -1]]), torch.arange(1), "a group does not exist"),
        (torch.zeros(1, 3, dtype=torch.int64), torch.tensor([9]), "labels: wanted numbers from 0 to 8, got 9"),
    ],
)
def test_what_does_not_fit_is_refused(predicted, labels, wanted):
    with pytest.raises(ShapeError, match=wanted):
        full_path(predicted, labels, CUTS)


def test_cuts_that_are_no_levels_are_refused():
    with pytest.raises(HierarchyError, match="does not refine"):
        FullPath(CUTS[::-1])
    with pytest.raises(HierarchyError, match="at least one cut"):
        FullPath([])


def test_nothing_measured():
    with pytest.raises(DataError, match="no samples to measure"):
        full_path(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), CUTS)
    assert_close(FullPath(CUTS).compute(), {"fpa": math.nan, "tice": math.nan})
