"""Decision rules as plain loops over explicit tables in float64, for the tests."""

import numpy as np
import torch
from hypothesis import strategies as st
from random_trees import trees

from hiercnn.hierarchy import Hierarchy, from_nested

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf"]}}, "car": None}, ["car", "wolf", "cat", "dog"])


@st.composite
def cases(draw) -> tuple[Hierarchy, torch.Tensor]:
    """A random tree with classes in any order, and logits [B, C] of any size up to ±200, float64."""
    tree, rng = draw(trees(most_nodes=20)), np.random.default_rng(draw(st.integers(0, 999)))
    return tree, torch.from_numpy(rng.uniform(-1, 1, (draw(st.integers(1, 6)), tree.num_classes)) * draw(st.sampled_from([1, 4, 200])))


def logits_for(tree: Hierarchy, shares: dict[str, float]) -> torch.Tensor:
    """Logits [C], float64, with which classes have these probabilities."""
    return torch.tensor([shares[name] for name in tree.classes], dtype=torch.float64).log()


def marginals(tree: Hierarchy, logits: torch.Tensor) -> np.ndarray:
    """q of all nodes [B, N], each summed over the classes below."""
    p = logits.double().softmax(1).numpy()
    return np.stack([p[:, tree.leaves(node)].sum(1) for node in range(tree.num_nodes)], 1)


def node_distances(tree: Hierarchy, kind: str) -> np.ndarray:
    """Distances of all nodes and all classes [N, C]: height of the common ancestor, or edges between."""
    table = np.zeros((tree.num_nodes, tree.num_classes))
    for node in range(tree.num_nodes):
        for c, leaf in enumerate(tree.leaf_nodes):
            common = max(set(tree.ancestors(node).tolist()) & set(tree.ancestors(leaf).tolist()), key=lambda v: tree.depths[v])
            edges = tree.depths[node] + tree.depths[leaf] - 2 * tree.depths[common]
            table[node, c] = tree.heights[common] if kind == "lca" else edges
    return table


def expected_distances(tree: Hierarchy, logits: torch.Tensor, kind: str) -> np.ndarray:
    """Expected distance of the truth from all nodes [B, N]."""
    return logits.double().softmax(1).numpy() @ node_distances(tree, kind).T


def argmax(tree: Hierarchy, row: torch.Tensor) -> int:
    return int(tree.leaf_nodes[int(row.argmax())])


def threshold(tree: Hierarchy, q: np.ndarray, t: float) -> int:
    """Of the nodes with q > t that of fewest classes, the deepest of equal ones."""
    return min((v for v in range(tree.num_nodes) if q[v] > t), key=lambda v: (len(tree.leaves(v)), -tree.depths[v]))


def climbing(tree: Hierarchy, row: torch.Tensor, q: np.ndarray, t: float) -> int:
    node = argmax(tree, row)
    while node and q[node] < t:
        node = int(tree.parents[node])
    return node


def top_down(tree: Hierarchy, q: np.ndarray, t: float) -> int:
    node = 0
    while not tree.is_leaf(node):
        child = max(tree.children(node).tolist(), key=lambda v: q[v])
        if q[child] < t:
            break
        node = child
    return node


def is_right(tree: Hierarchy, answer: int, label: int) -> bool:
    """Whether the answer is the label or above it, or the same class under another name."""
    return set(tree.leaves(int(tree.label_nodes[label])).tolist()) <= set(tree.leaves(answer).tolist())
