"""Which property holds for which loss, on random trees of 1 to 3,000 leaves: uneven depth, single children, one level.

| property                                               | CE | level | HXE | soft | conditional | path sum | margin |
|--------------------------------------------------------|----|-------|-----|------|-------------|----------|--------|
| on a tree of one level it is cross-entropy             | ✓  | w = 1 | ✓   | β→∞  | ✓           | ✓        | τ = 0  |
| a constant added to all scores changes nothing         | ✓  | ✓     | ✓   | ✓    | siblings    | –        | ✓      |
| order of classes and names of nodes change nothing     | ✓  | ✓     | ✓   | ✓    | ✓           | ✓        | ✓      |
| an only child inserted changes nothing                 | ✓  | –     | –   | –    | ✓           | –        | –      |
| sure and wrong: finite, large, with a gradient         | ✓  | ✓     | ✓   | ✓    | ✓           | ✓        | ✓      |
| a coarser label costs less                             | –  | −log q| –   | –    | –           | –        | –      |

Level NLL on one level with a level of weight w is (1 + w) times cross-entropy, where the level is the classes themselves. Special values:
HXE with α = 0 and path sums with only the leaves' values other than 0 are cross-entropy on any tree.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hierarchicalsoftmax import HierarchicalSoftmaxLoss, SoftmaxNode
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.cases import nodes_of
from torch import Tensor, nn

from hiercnn.hierarchy import Hierarchy
from hiercnn.losses import HXE, ConditionalNLL, CrossEntropy, LevelNLL, MarginNLL, SoftLabels
from hiercnn.models import NODE_SCORES
from hiercnn.ops import path_sum

MOST_LEAVES = 3000
FEW = settings(max_examples=20, deadline=None)
FEWER = settings(max_examples=8, deadline=None)


class PathSum(nn.Module):
    """Cross-entropy of the sums over the path, as `classifier: path_sum` makes them."""

    scores = "nodes"

    def __init__(self, tree: Hierarchy):
        super().__init__()
        self.read, self.loss = lambda scores: path_sum(scores, nodes_of(tree)), CrossEntropy(tree)

    def forward(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self.loss(self.read(scores), labels)


def level_nll(tree: Hierarchy) -> nn.Module:
    """With every depth that splits anything as a level."""
    depths = [depth for depth in range(1, tree.height + 1) if len(tree.cut(depth=depth)) > 1]
    return LevelNLL(tree, levels=[{"cut": {"depth": depth}} for depth in depths]) if depths else CrossEntropy(tree)


LOSSES: dict[str, Callable[[Hierarchy], nn.Module]] = {
    "cross-entropy": CrossEntropy,
    "level NLL": level_nll,
    "HXE": lambda tree: HXE(tree, alpha=0.4),
    "soft labels": lambda tree: SoftLabels(tree, beta=8.0),
    "conditional": ConditionalNLL,
    "path sum": PathSum,
    "margin": MarginNLL,
}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)


class Drawn(NamedTuple):
    """A tree, labels of 4 images and where their scores come from."""

    tree: Hierarchy
    labels: Tensor
    generator: torch.Generator

    def scores(self, loss: nn.Module, scale: float = 3.0) -> Tensor:
        """Float64 scores [4, classes] or [4, nodes but the root], as the loss wants them."""
        columns = self.tree.num_nodes - 1 if loss.scores == "nodes" else self.tree.num_classes
        return scale * torch.randn(len(self.labels), columns, generator=self.generator, dtype=torch.float64)


def grown(leaves: int, depth: int, seed: int) -> Hierarchy:
    """Leaves are dealt unevenly, node after node; some nodes have one child, some leaves hang high."""
    rng, parents, stack = np.random.default_rng(seed), [-1], [(0, leaves, 0)]
    while stack:
        node, share, level = stack.pop()
        if share == 1 and (level == depth or rng.random() < 0.6):
            continue
        children = share if level >= depth - 1 else int(rng.integers(1, min(share, 12) + 1))
        dealt = 1 + rng.multinomial(share - children, rng.dirichlet(np.ones(children)))
        stack += [(len(parents) + child, int(part), level + 1) for child, part in enumerate(dealt)]
        parents += [node] * children
    names = [f"n{node}" for node in range(len(parents))]
    inner = set(parents)
    classes = [name for node, name in enumerate(names) if node not in inner]
    return Hierarchy(names, parents, [classes[i] for i in rng.permutation(len(classes))])


@st.composite
def drawn(draw, least_leaves: int = 1, levels: int | None = None) -> Drawn:
    leaves = draw(st.one_of(st.integers(least_leaves, 12), st.integers(least_leaves, MOST_LEAVES)))
    seed = draw(st.integers(0, 9999))
    tree = grown(leaves, draw(st.integers(1, 8)) if levels is None else levels, seed)
    generator = torch.Generator().manual_seed(seed)
    return Drawn(tree, torch.randint(tree.num_classes, (4,), generator=generator), generator)


def value_and_gradient(loss: nn.Module, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    scores = scores.clone().requires_grad_()
    value = sum(loss(scores, labels).values())
    value.backward()
    return value.detach(), scores.grad


def assert_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.long
def test_trees_are_of_all_kinds():
    trees = [grown(leaves, depth, seed) for seed in range(20) for leaves, depth in ((1, 1), (40, 1), (40, 5), (MOST_LEAVES, 8))]
    fan_outs = [np.bincount(tree.parents[1:], minlength=tree.num_nodes) for tree in trees if tree.num_nodes > 1]
    assert {tree.num_classes for tree in trees} == {1, 40, MOST_LEAVES}
    assert any((fan_out == 1).any() for fan_out in fan_outs)
    assert any(len(set(tree.depths[tree.leaf_nodes])) > 2 for tree in trees)
    assert any(tree.height == 1 for tree in trees)


# --- The table ------------------------------------------------------------------------------------------------------------------------

FLAT = LOSSES | {
    "level NLL": lambda tree: LevelNLL(tree, levels=[{"cut": {"depth": 1}, "weight": 0.0}]),
    "soft labels": lambda tree: SoftLabels(tree, beta=1e4),
    "margin": lambda tree: MarginNLL(tree, margin=0.0),
}


@pytest.mark.parametrize("make", FLAT.values(), ids=FLAT)
@given(case=drawn(least_leaves=2, levels=1))
@FEW
def test_one_level_gives_cross_entropy(make, case):
    loss = make(case.tree)
    scores, nodes = case.scores(loss), torch.tensor(case.tree.leaf_nodes) - 1

    def wanted(scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"flat": F.cross_entropy(scores[:, nodes] if loss.scores == "nodes" else scores, labels)}

    assert_same(value_and_gradient(loss, scores, case.labels), value_and_gradient(wanted, scores, case.labels))


@given(case=drawn(least_leaves=2, levels=1), weight=st.floats(0, 3))
@FEW
def test_a_level_of_the_classes_multiplies_cross_entropy(case, weight):
    loss = LevelNLL(case.tree, levels=[{"cut": {"depth": 1}, "weight": weight}])
    scores = case.scores(loss)
    value, gradient = value_and_gradient(CrossEntropy(case.tree), scores, case.labels)
    assert_same(value_and_gradient(loss, scores, case.labels), ((1 + weight) * value, (1 + weight) * gradient))


@pytest.mark.parametrize("name", ["cross-entropy", "level NLL", "HXE", "soft labels", "conditional", "margin"])
@given(case=drawn(), constant=st.floats(-50, 50))
@FEWER
def test_a_constant_changes_nothing(name, case, constant):
    loss = LOSSES[name](case.tree)
    scores = case.scores(loss)
    assert_same(value_and_gradient(loss, scores + constant, case.labels), value_and_gradient(loss, scores, case.labels))


@given(case=drawn())
@FEWER
def test_a_constant_for_each_group_of_siblings_changes_no_conditional_loss(case):
    loss = ConditionalNLL(case.tree)
    scores = case.scores(loss)
    constants = torch.randn(case.tree.num_nodes, generator=case.generator, dtype=torch.float64)
    moved = scores + constants[torch.tensor(case.tree.parents[1:])]
    assert_same(value_and_gradient(loss, moved, case.labels), value_and_gradient(loss, scores, case.labels))


def test_a_constant_changes_path_sums_of_uneven_depth():
    tree = Hierarchy(["root", "a", "b", "c", "d"], [-1, 0, 0, 1, 1])
    loss, labels = PathSum(tree), torch.tensor([0])
    scores = torch.zeros(1, 4, dtype=torch.float64)
    assert abs(float(loss(scores + 1, labels)["cross_entropy"] - loss(scores, labels)["cross_entropy"])) > 0.1


@pytest.mark.long
@every_loss
@given(case=drawn(), random=st.randoms(use_true_random=False))
@FEWER
def test_order_of_classes_and_names_change_nothing(make, case, random):
    tree, loss = case.tree, make(case.tree)
    scores = case.scores(loss)
    order = random.sample(range(tree.num_classes), tree.num_classes)  # class of each new one
    renamed = [f"m{i}" for i in random.sample(range(tree.num_nodes), tree.num_nodes)]
    moved = Hierarchy(renamed, tree.parents.tolist(), [renamed[tree.leaf_nodes[c]] for c in order])
    new_label = torch.empty(tree.num_classes, dtype=torch.int64)
    new_label[torch.tensor(order)] = torch.arange(tree.num_classes)
    there = scores if loss.scores == "nodes" else scores[:, order]
    value, gradient = value_and_gradient(make(moved), there, new_label[case.labels])
    assert_same((value, gradient if loss.scores == "nodes" else gradient[:, new_label]), value_and_gradient(loss, scores, case.labels))


def with_an_only_child(tree: Hierarchy, node: int) -> Hierarchy:
    """A new node between a node and its parent, as that parent's child."""
    parents = [*tree.parents.tolist(), int(tree.parents[node])]
    parents[node] = tree.num_nodes
    return Hierarchy([*tree.names, "new"], parents, list(tree.classes))


def assert_only_child_changes_nothing(make, case: Drawn, node: int) -> None:
    tree, loss = case.tree, make(case.tree)
    deeper = with_an_only_child(tree, node)
    scores, there = case.scores(loss), make(deeper)
    if loss.scores == "nodes":
        place = {name: number for number, name in enumerate(deeper.names)}
        sibling = {tree.names[node]: "new"}  # the new node stands among the siblings, the old one alone below it
        columns = torch.tensor([place[sibling.get(name, name)] - 1 for name in tree.names[1:]])
        moved = 3 * torch.randn(len(scores), deeper.num_nodes - 1, generator=case.generator, dtype=torch.float64)
        moved[:, columns] = scores
    else:
        columns, moved = torch.arange(tree.num_classes), scores
    value, gradient = value_and_gradient(there, moved, case.labels)
    assert_same((value, gradient[:, columns]), value_and_gradient(loss, scores, case.labels))


@pytest.mark.parametrize("name", ["cross-entropy", "conditional"])
@given(case=drawn(least_leaves=2), where=st.integers(0, 9999))
@FEWER
def test_an_only_child_changes_nothing(name, case, where):
    assert_only_child_changes_nothing(LOSSES[name], case, 1 + where % (case.tree.num_nodes - 1))


@pytest.mark.parametrize("name", ["level NLL", "HXE", "soft labels", "path sum", "margin"])
def test_an_only_child_changes_the_others(name):
    tree = Hierarchy(["root", "a", "b", "c", "d", "e"], [-1, 0, 0, 1, 1, 2])
    case = Drawn(tree, torch.arange(3).repeat(2)[:4], torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError):
        assert_only_child_changes_nothing(LOSSES[name], case, 1)


@every_loss
@given(case=drawn(least_leaves=2))
@FEWER
def test_sure_and_wrong_is_finite_large_and_has_a_gradient(make, case):
    tree, loss = case.tree, make(case.tree)
    scores = torch.zeros_like(case.scores(loss), dtype=torch.float32)
    wrong = torch.tensor([other_branch(tree, int(label)) for label in case.labels])
    if loss.scores == "nodes":
        for row, leaf in enumerate(wrong):
            scores[row, tree.ancestors(int(tree.leaf_nodes[leaf]))[1:] - 1] = 200.0
    else:
        scores[torch.arange(len(wrong)), wrong] = 200.0
    value, gradient = value_and_gradient(loss, scores, case.labels)
    assert value.isfinite()
    assert value > 100 * np.exp(-0.4 * (first_split(tree) - 1))  # HXE weighs what is further down less
    assert gradient.isfinite().all()
    assert (gradient.abs().amax(1) > 0.01).all()


def first_split(tree: Hierarchy) -> int:
    """Least depth of more than one node."""
    return int(np.flatnonzero(np.bincount(tree.depths) > 1)[0])


def other_branch(tree: Hierarchy, label: int) -> int:
    """A class that parts from this one as near the root as any."""
    heights = tree.distances(np.array([label]), np.arange(tree.num_classes), "lca")
    return int(heights.argmax())


@given(case=drawn(least_leaves=2), seed=st.integers(0, 99))
@FEW
def test_a_coarser_label_costs_less(case, seed):
    """−log q of nodes on one path: level NLL and cross-entropy of labels that are inner nodes."""
    tree, loss = case.tree, CrossEntropy(case.tree, inner_labels=True)
    path = tree.ancestors(int(tree.leaf_nodes[case.labels[0]]))
    labels = [tree.label(tree.names[node]) for node in path]
    scores = case.scores(loss)[:1]
    costs = [float(loss(scores, torch.tensor([label]))["cross_entropy"]) for label in labels]
    assert costs[0] == pytest.approx(0, abs=1e-12)
    assert all(above <= below + 1e-12 for above, below in pairwise(costs))


@given(case=drawn())
@FEW
def test_special_values(case):
    tree, flat = case.tree, CrossEntropy(case.tree)
    scores = case.scores(flat)
    wanted = value_and_gradient(flat, scores, case.labels)
    assert_same(value_and_gradient(HXE(tree, alpha=0.0), scores, case.labels), wanted)
    if tree.num_nodes > 1:
        leaves = torch.tensor(tree.leaf_nodes) - 1
        nodes = torch.zeros(4, tree.num_nodes - 1, dtype=torch.float64).index_copy(1, leaves, scores)
        value, gradient = value_and_gradient(PathSum(tree), nodes, case.labels)
        assert_same((value, gradient[:, leaves]), wanted)


# --- A peer ---------------------------------------------------------------------------------------------------------------------------


@given(case=drawn(least_leaves=2).filter(lambda case: case.tree.num_classes <= 60))
@FEW
def test_conditional_nll_is_that_of_hierarchicalsoftmax(case):
    tree, made = case.tree, []
    for name, parent in zip(tree.names, tree.parents, strict=True):
        made.append(SoftmaxNode(name, parent=made[parent] if parent >= 0 else None))
    theirs = HierarchicalSoftmaxLoss(made[0])
    columns = torch.tensor([tree.names.index(node.name) - 1 for node in made[0].node_list_softmax])
    targets = made[0].get_node_ids_tensor([made[tree.leaf_nodes[label]] for label in case.labels.tolist()])
    ours = ConditionalNLL(tree)
    scores = case.scores(ours).float()
    value, gradient = value_and_gradient(ours, scores, case.labels)
    other = value_and_gradient(lambda x, _: {"theirs": theirs(x[:, columns], targets)}, scores, case.labels)
    torch.testing.assert_close(value, other[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, other[1], rtol=1e-5, atol=1e-7)


def test_leaf_scores_of_conditional_give_its_loss():
    tree = grown(200, 5, 3)
    case = Drawn(tree, torch.arange(4), torch.Generator().manual_seed(0))
    loss, read = ConditionalNLL(tree), NODE_SCORES["conditional"](tree)
    scores = case.scores(loss)
    torch.testing.assert_close(loss(scores, case.labels)["conditional_nll"], F.cross_entropy(read(scores), case.labels))
