"""hP, hR and hF against plain loops over sets of nodes, and against hiclass."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.batches import ALONE, FLAT, SPLITS, TREE, assert_batches_do_not_matter, assert_close, mean, path
from random_trees import trees

from hiercnn.errors import DataError, ShapeError
from hiercnn.hierarchy import Hierarchy, builtin
from hiercnn.metrics import HierarchicalF, hierarchical_f


@st.composite
def predictions(draw) -> tuple[Hierarchy, torch.Tensor, torch.Tensor]:
    """A random tree of two nodes or more, predicted labels [B] and labels [B]."""
    tree = draw(trees().filter(lambda tree: tree.num_nodes > 1))
    pairs = draw(st.lists(st.tuples(*[st.integers(0, tree.num_nodes - 1)] * 2), min_size=1, max_size=20))
    return tree, *torch.tensor(pairs).T.contiguous()


def loop(tree: Hierarchy, predicted: list[int], labels: list[int]) -> dict:
    """The same numbers from sets, one sample after the other."""
    pairs = [(set(path(tree, guess)[1:]), set(path(tree, label)[1:])) for guess, label in zip(predicted, labels, strict=True)]
    pairs = [(said, true) for said, true in pairs if true]
    shared, said, true = (
        (sum(sizes) for sizes in zip(*[(len(a & b), len(a), len(b)) for a, b in pairs], strict=True)) if pairs else (0, 0, 0)
    )
    if not pairs:
        return {kind: dict.fromkeys(("precision", "recall", "f"), math.nan) for kind in ("micro", "macro")}
    return {
        "micro": {"precision": shared / said if said else 1, "recall": shared / true, "f": 2 * shared / (said + true)},
        "macro": {
            "precision": mean([len(a & b) / len(a) if a else 1 for a, b in pairs]),
            "recall": mean([len(a & b) / len(b) for a, b in pairs]),
            "f": mean([2 * len(a & b) / (len(a) + len(b)) for a, b in pairs]),
        },
    }


def names(tree: Hierarchy, labels: torch.Tensor) -> np.ndarray:
    """Node names from below the root down [B, height], "" behind the end: what hiclass takes."""
    table = np.full((len(labels), tree.height), "", dtype=object)
    for row, label in zip(table, labels.tolist(), strict=True):
        below = path(tree, label)[1:]
        row[: len(below)] = [tree.names[node] for node in below]
    return table


@given(predictions())
def test_numbers_are_those_of_loops(case):
    tree, predicted, labels = case
    assert_close(hierarchical_f(predicted, labels, tree), loop(tree, predicted.tolist(), labels.tolist()))


@pytest.mark.filterwarnings("ignore:F-score is ill-defined")
@settings(max_examples=40)
@given(predictions())
def test_numbers_are_those_of_hiclass(case):
    """Which divides by zero where the root is predicted or the label."""
    hiclass = pytest.importorskip("hiclass.metrics", reason="needs hiclass (pip install hiercnn[dev])")
    tree, predicted, labels = case
    root = tree.label(tree.names[0])
    predicted, labels = (column[(predicted != root) & (labels != root)] for column in (predicted, labels))
    if not len(labels):
        return
    true, said = names(tree, labels), names(tree, predicted)
    functions = {"precision": hiclass.precision, "recall": hiclass.recall, "f": hiclass.f1}
    wanted = {kind: {name: float(f(true, said, kind)) for name, f in functions.items()} for kind in ("micro", "macro")}
    assert_close(hierarchical_f(predicted, labels, tree), wanted, rel=0, abs=1e-12)


@pytest.mark.long
@given(predictions(), SPLITS)
def test_batches_do_not_matter(case, ends):
    tree, *columns = case
    assert_batches_do_not_matter(lambda: HierarchicalF(tree), columns, ends)


def measured(predicted: str, label: str) -> tuple[float, float, float]:
    found = hierarchical_f(torch.tensor([TREE.label(predicted)]), torch.tensor([TREE.label(label)]), TREE)
    assert_close(found["micro"], found["macro"])  # of one sample
    return tuple(found["micro"].values())


@pytest.mark.parametrize(
    ("predicted", "label", "wanted"),
    [
        ("cat", "cat", (1, 1, 1)),
        ("dog", "cat", (2 / 3, 2 / 3, 2 / 3)),  # animal, pet, dog
        ("pet", "cat", (1, 2 / 3, 4 / 5)),
        ("cat", "pet", (2 / 3, 1, 4 / 5)),  # too specific costs precision
        ("wolf", "cat", (1 / 4, 1 / 3, 2 / 7)),  # animal, wild, big, wolf
        ("car", "cat", (0, 0, 0)),
        ("root", "cat", (1, 0, 0)),
    ],
)
def test_by_hand(predicted, label, wanted):
    assert measured(predicted, label) == pytest.approx(wanted)


def test_labels_that_are_the_root_are_left_out():
    root, cat = TREE.label("root"), TREE.label("cat")
    with_it = hierarchical_f(torch.tensor([cat, cat, root]), torch.tensor([cat, root, root]), TREE)
    assert with_it == hierarchical_f(torch.tensor([cat]), torch.tensor([cat]), TREE)
    assert math.isnan(hierarchical_f(torch.tensor([cat]), torch.tensor([root]), TREE)["micro"]["f"])


def test_in_a_tree_of_one_level_all_are_the_accuracy():
    found = hierarchical_f(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 1, 2]), FLAT)
    assert {value for kind in found.values() for value in kind.values()} == {0.5}


def test_a_tree_of_one_node_has_no_path():
    """It is its own root; below another root it is always right."""
    label = torch.zeros(2, dtype=torch.int64)
    assert hierarchical_f(label, label, ALONE)["macro"]["f"] == 1
    assert math.isnan(hierarchical_f(label, label, Hierarchy(["only"], [-1]))["macro"]["f"])


def test_wordnet_in_one_update():
    """Against the loops, at the size of ImageNet's tree."""
    tree = builtin("imagenet1k")
    predicted, labels = torch.randint(0, tree.num_nodes, (2, 400), generator=torch.Generator().manual_seed(0))
    assert_close(hierarchical_f(predicted, labels, tree), loop(tree, predicted.tolist(), labels.tolist()))


@pytest.mark.parametrize(
    ("predicted", "labels", "wanted"),
    [
        (torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), r"predicted: wanted \[3\], one a sample, got \[2\]"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), "predicted: wanted int64, got float32"),
        (torch.tensor([9]), torch.tensor([0]), "predicted: wanted numbers from 0 to 8, got 9"),
        (torch.tensor([0]), torch.tensor([-1]), "labels: wanted numbers from 0 to 8, got -1"),
    ],
)
def test_what_does_not_fit_is_refused(predicted, labels, wanted):
    with pytest.raises(ShapeError, match=wanted):
        hierarchical_f(predicted, labels, TREE)


def test_nothing_measured():
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(DataError, match="no samples to measure"):
        hierarchical_f(none, none, TREE)
    assert math.isnan(HierarchicalF(TREE).compute()["micro"]["precision"])
