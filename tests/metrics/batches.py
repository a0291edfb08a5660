"""Random trees with scores and labels, and what all metrics must do with batches."""

import pickle
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import strategies as st
from random_trees import trees
from torch import Tensor

from hiercnn.errors import DataError, ShapeError
from hiercnn.hierarchy import Hierarchy, from_classes, from_nested
from hiercnn.ops import Nodes, node_log_marginals

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf"]}}, "car": None}, ["car", "wolf", "cat", "dog"])
FLAT = from_classes(["a", "b", "c"])
ALONE = from_classes(["all there is"])
SPLITS = st.lists(st.integers(0, 20), max_size=4)


@st.composite
def cases(draw) -> tuple[Hierarchy, Tensor, Tensor]:
    """A random tree, float64 logits [B, C], at times with ties, some high at the right class, and labels [B] of classes and inner nodes."""
    tree, seed, count, ties = draw(trees()), draw(st.integers(0, 999)), draw(st.integers(1, 20)), draw(st.booleans())
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, tree.num_nodes if draw(st.booleans()) else tree.num_classes, (count,), generator=generator)
    logits = 2 * torch.randn(count, tree.num_classes, generator=generator, dtype=torch.float64)
    logits = logits + 2 * (labels[:, None] == torch.arange(tree.num_classes))
    return tree, logits.round() if ties else logits, labels


def order(row: Sequence[float]) -> list[int]:
    """Classes by score, the highest first; of equal ones the first."""
    return sorted(range(len(row)), key=lambda c: -row[c])


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def path(tree: Hierarchy, label: int) -> list[int]:
    """Nodes from the root down to that of a label."""
    return tree.ancestors(int(tree.label_nodes[label])).tolist()


def leaves(tree: Hierarchy, node: int) -> int:
    return len(tree.leaves(node))


def common(tree: Hierarchy, a: int, b: int) -> int:
    """Lowest common ancestor of two nodes, the slow way."""
    return max(set(tree.ancestors(a).tolist()) & set(tree.ancestors(b).tolist()), key=lambda node: tree.depths[node])


def assert_close(found: object, wanted: object, **tolerance: float) -> None:
    """Equal numbers at equal places of nested dicts."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            assert_close(found[key], wanted[key], **tolerance)
    elif isinstance(wanted, list):
        assert found == pytest.approx(wanted, nan_ok=True, rel=1e-11, abs=1e-12)
    elif wanted is None or isinstance(wanted, str):
        assert found == wanted
    else:
        assert found == pytest.approx(wanted, nan_ok=True, **({"rel": 1e-11, "abs": 1e-12} | tolerance))


def assert_batches_do_not_matter(make: Callable, columns: Sequence[Tensor], ends: Sequence[int]) -> None:
    """One pass, any batches, and parts merged after a journey from another process give one result; what is merged stays as it was."""
    count = len(columns[0])
    edges = [0, *sorted(min(end, count) for end in ends), count]
    whole, batches, parts = make(), make(), [make() for _ in edges[1:]]
    whole.update(*columns)
    for part, start, end in zip(parts, edges[:-1], edges[1:], strict=True):
        part.update(*(column[start:end] for column in columns))
        batches.update(*(column[start:end] for column in columns))
    sent = [pickle.loads(pickle.dumps(part)) for part in parts]
    before = [part.compute() for part in sent]
    merged = make()
    for part in sent:
        merged.merge(part)
    assert_close(batches.compute(), whole.compute())
    assert_close(merged.compute(), whole.compute())
    for part, was in zip(sent, before, strict=True):
        assert_close(part.compute(), was, rel=0, abs=0)


def assert_scores_are_checked(metric, function: Callable[[Tensor, Tensor], object], tree: Hierarchy = TREE) -> None:
    """Sizes, types and labels that do not fit are refused by `update`; no samples and NaN by the function."""
    classes, nodes = tree.num_classes, tree.num_nodes
    scores, labels = torch.zeros(3, classes), torch.arange(3)
    for bad, wanted in {
        torch.zeros(3, classes + 1): rf"scores: wanted \[B, {classes}\], one number a class, got \[3, {classes + 1}\]",
        torch.zeros(classes): "scores: wanted",
        torch.zeros(3, classes, dtype=torch.int64): "scores: wanted floating-point numbers, got int64",
        torch.zeros(3, classes, device="meta"): "scores are on meta, the metric on cpu",
    }.items():
        with pytest.raises(ShapeError, match=wanted):
            metric.update(bad, labels)
    for bad, wanted in {
        torch.arange(2): r"labels: wanted \[3\], one a sample, got \[2\]",
        labels.int(): "labels: wanted int64, got int32",
        torch.tensor([0, -1, 0]): f"labels: wanted numbers from 0 to {nodes - 1}, got -1; see Hierarchy.label",
        torch.tensor([0, nodes, 0]): f"labels: wanted numbers from 0 to {nodes - 1}, got {nodes}",
    }.items():
        with pytest.raises(ShapeError, match=wanted):
            metric.update(scores, bad)
    for bad in ((scores.numpy(), labels), (scores, labels.numpy())):
        with pytest.raises(ShapeError, match="wanted a tensor, got ndarray; torch.as_tensor makes one"):
            metric.update(*bad)
    with pytest.raises(DataError, match="no samples to measure"):
        function(scores[:0], labels[:0])
    scores[1, 2] = torch.nan
    with pytest.raises(DataError, match="1 of 3 samples have scores that are no numbers"):
        function(scores, labels)


def probabilities(tree: Hierarchy, logits: Tensor) -> Tensor:
    """Of all nodes [B, N], as the metrics have them to the last digit, so that what is equal there is equal here."""
    p = logits.double().softmax(1)
    sums = torch.nn.functional.pad(p[:, tree.leaf_order.copy()].cumsum(1), (1, 0))
    q = (sums[:, tree.stops.copy()] - sums[:, tree.starts.copy()]).clamp(max=1)
    q[:, tree.leaf_nodes.copy()] = p
    marginals = node_log_marginals(logits.double(), Nodes.from_parents(tree.parents, tree.leaf_nodes)).exp()
    assert (q - marginals).abs().max() < 1e-12
    return q


def predicted_at(tree: Hierarchy, q: Sequence[float], logits: Sequence[float], rule: str, threshold: float) -> int:
    """The node a rule predicts, by its definition; above the highest probability as at it."""
    threshold = min(threshold, max(p for node, p in enumerate(q) if len(tree.children(node)) != 1))
    leaf = int(tree.leaf_nodes[order(logits)[0]])
    if rule == "climbing":
        return [node for node in tree.ancestors(leaf).tolist() if q[node] >= threshold and len(tree.children(node)) != 1][-1]
    if q[leaf] >= threshold:
        return leaf
    inner = [node for node in range(tree.num_nodes) if len(tree.children(node)) > 1 and q[node] >= threshold]
    return min(inner, key=lambda node: (leaves(tree, node), -q[node], node))


def thresholds(q: Tensor) -> list[float]:
    return [float("inf"), *sorted(set(q.flatten().tolist()), reverse=True), 0.0]


def says_something(tree: Hierarchy, label: int) -> bool:
    return label < tree.num_classes or leaves(tree, tree.label_nodes[label]) < tree.num_classes
