"""Accuracy per level against plain loops; merging, inner labels, and few classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from hiercnn.hierarchy import from_classes, from_nested
from hiercnn.metrics import LevelAccuracy

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf", "bear"]}}, "thing": {"car": None, "road": ["a", "b"]}})
CUTS = TREE.cuts([{"depth": 1}, {"depth": 2}, "leaf"])
CLASSES = TREE.num_classes


def batch(seed: int, count: int, labels: int = TREE.num_nodes) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [count, C], some of them high at the right class, and labels below `labels`."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, labels, count)
    logits = rng.normal(size=(count, CLASSES)) + 2 * (target[:, None] == np.arange(CLASSES))
    return torch.from_numpy(logits).float(), torch.from_numpy(target)


def measured(logits, labels, sizes=None, cuts=CUTS) -> dict:
    """What comes out when batches of these sizes go in; None for all at once."""
    levels, sizes = LevelAccuracy(logits.shape[1], cuts), sizes or [len(labels)]
    for x, y in zip(logits.split(sizes), labels.split(sizes), strict=True):
        levels.update(x, y)
    return levels.compute()


def group_above(cut, node: int) -> int | None:
    """The node of the cut that is `node` or above it; None where the cut lies lower."""
    above = set(cut.nodes.tolist()).intersection(TREE.ancestors(node).tolist())
    return above.pop() if above else None


def loops(logits, labels) -> dict:
    """The same numbers, one image after the other."""
    right = {cut.name: [] for cut in CUTS}
    top5, nll = [], []
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        order = sorted(range(CLASSES), key=lambda c: -row[c])
        for cut in CUTS:
            wanted = group_above(cut, TREE.label_nodes[label])
            if wanted is not None:
                right[cut.name].append(group_above(cut, TREE.leaf_nodes[order[0]]) == wanted)
        if label < CLASSES:
            top5.append(label in order[:5])
            nll.append(np.log(np.exp(row).sum()) - row[label])
    accuracy = {name: np.mean(hits) if hits else float("nan") for name, hits in right.items()}
    mean = {"top5": np.mean(top5), "nll": np.mean(nll)} if nll else {"top5": float("nan"), "nll": float("nan")}
    return {"accuracy": accuracy, **mean, "images": len(nll)}


def check_equal(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    assert found["accuracy"] == pytest.approx(wanted["accuracy"], nan_ok=True)
    for name in ("top5", "nll", "images"):
        assert found[name] == pytest.approx(wanted[name], nan_ok=True, rel=1e-5, abs=1e-6)  # float32 logits


@given(st.integers(0, 10**6), st.integers(1, 40))
def test_numbers_are_those_of_loops(seed, count):
    logits, labels = batch(seed, count)
    check_equal(measured(logits, labels), loops(logits, labels))


@given(st.integers(0, 10**6), st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_merging_and_batches_give_one_pass(seed, sizes):
    logits, labels = batch(seed, sum(sizes))
    parts = [LevelAccuracy(CLASSES, CUTS) for _ in sizes]
    for part, x, y in zip(parts, logits.split(sizes), labels.split(sizes), strict=True):
        part.update(x, y)
    for part in parts[1:]:
        parts[0].merge(part)
    whole = measured(logits, labels)
    check_equal(parts[0].compute(), whole)
    check_equal(measured(logits, labels, sizes), whole)


@pytest.mark.parametrize(
    ("label", "counted"),
    [
        ("cat", (True, True, True)),
        ("car", (True, True, True)),
        ("pet", (True, True, False)),
        ("big", (True, True, False)),
        ("animal", (True, False, False)),
        ("root", (False,) * 3),
    ],
)
def test_inner_labels_count_at_cuts_at_or_above_them(label, counted):
    """The leaf predicted lies at or below the label, so it is right wherever the label counts."""
    predicted = "car" if label == "car" else "wolf" if label == "big" else "cat"
    logits = F.one_hot(torch.tensor([TREE.label(predicted)]), CLASSES).float()
    found = measured(logits, torch.tensor([TREE.label(label)]))
    assert [value == 1 for value in found["accuracy"].values()] == list(counted)
    assert [np.isnan(value) for value in found["accuracy"].values()] == [not known for known in counted]
    assert found["images"] == (TREE.label(label) < CLASSES)


def test_group_of_the_most_likely_leaf_not_the_most_likely_group():
    logits = torch.full((1, CLASSES), -9.0)
    logits[0, [TREE.label("wolf"), TREE.label("bear"), TREE.label("car")]] = torch.tensor([1.0, 1.0, 1.5])
    found = measured(logits, torch.tensor([TREE.label("wolf")]))
    assert found["accuracy"] == {"2 groups": 0, "4 groups": 0, "leaf": 0}


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5])
def test_with_five_classes_or_fewer_top5_is_all(classes):
    tree = from_classes([f"c{i}" for i in range(classes)])
    found = measured(torch.randn(9, classes, generator=torch.Generator().manual_seed(0)), torch.arange(9) % classes, cuts=[tree.leaf_cut()])
    assert found["top5"] == 1
    assert list(found["accuracy"]) == ["leaf"]


def test_top5_counts_the_fifth_and_not_the_sixth():
    logits = torch.arange(CLASSES).flip(0).float().expand(2, -1)  # class 0 first
    assert measured(logits, torch.tensor([4, 5]))["top5"] == 0.5


def test_half_logits_are_summed_in_float32():
    logits, labels = batch(0, 4000, CLASSES)
    half = measured(logits.bfloat16(), labels)
    check_equal(half, measured(logits.bfloat16().float(), labels))


def test_nothing_measured_is_nan():
    found = LevelAccuracy(CLASSES, CUTS).compute()
    assert np.isnan([*found["accuracy"].values(), found["top5"], found["nll"]]).all()
    assert found["images"] == 0
