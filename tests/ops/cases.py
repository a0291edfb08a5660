"""What the tests of the operators share: one list of cases, tables of a tree, plain loops in float64, and the seven tests."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from ops.interpreted import Interpreted
from random_trees import trees
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hiercnn.hierarchy import Hierarchy, from_nested
from hiercnn.ops import Nodes, path_table

# Largest error of values and of gradients, and what counts as 0. A value's is relative to that value, a gradient's to the largest of its
# row; where terms cancel the operator names a floor under both (`Operator`). Half types are computed in float32, their gradients rounded
# once at the end.
TOLERANCES = {
    torch.float64: (1e-12, 1e-12, 1e-300),  # scores of ±200 have 3e-14 behind the point
    torch.float32: (1e-5, 1e-5, 1e-37),  # 205 = 200 + τ is rounded to 8e-6 behind the point, a sum of 3,000 to a few 1e-7
    torch.bfloat16: (1e-5, 2**-7, 1e-37),  # Triton's interpreter cuts bits off where hardware rounds
    torch.float16: (1e-5, 2**-10, 2**-24),  # the smallest float16
}


# --- Cases ----------------------------------------------------------------------------------------------------------------------------

ROOT = Hierarchy(["only"], [-1])
LEAF = Hierarchy(["root", "leaf"], [-1, 0])
FLAT = from_nested(["a", "b", "c", "d", "e"])
CHAINS = from_nested({"a": {"b": {"c": ["d"]}}, "e": {"f": {"g": ["h", "i", "j"]}}}, ["i", "d", "j", "h"])
UNEVEN = from_nested(
    {"car": None, "animal": {"pet": ["cat", "dog", "ant"], "wild": {"big": ["wolf"]}}, "plant": {"tree": ["oak", "elm"], "moss": None}},
    ["elm", "car", "wolf", "cat", "moss", "ant", "dog", "oak"],
)


class Case(NamedTuple):
    """Labels [B] of a tree; scores are drawn from ±scale."""

    tree: Hierarchy
    labels: Tensor
    scale: float = 3.0
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    seed: int = 0

    def scores(self, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        """[B, columns]."""
        rng = np.random.default_rng(self.seed)
        scores = torch.from_numpy(rng.uniform(-self.scale, self.scale, (len(self.labels), columns)))
        return _laid_out(scores.to(dtype or self.dtype), self.layout)


def _laid_out(tensor: Tensor, layout: str) -> Tensor:
    if layout == "transposed":
        return tensor.t().contiguous().t()
    if layout == "strided":
        return torch.stack([tensor, tensor + 1], -1)[..., 0]
    return tensor


def labels_of(tree: Hierarchy, *names: str) -> Tensor:
    """Of classes and inner nodes."""
    return torch.tensor([tree.label(name) for name in names])


A_FEW = labels_of(UNEVEN, "wolf", "car", "cat", "oak")
CASES = {
    "a lone root": Case(ROOT, torch.tensor([0, 0])),
    "one leaf": Case(LEAF, torch.tensor([0, 1, 0])),
    "one row": Case(UNEVEN, torch.tensor([3])),
    "no rows": Case(UNEVEN, torch.tensor([], dtype=torch.int64)),
    "one level": Case(FLAT, labels_of(FLAT, "e", "a", "root", "c")),
    "uneven depth": Case(UNEVEN, labels_of(UNEVEN, "wolf", "car", "cat", "oak", "big", "root", "plant")),
    "single children": Case(CHAINS, labels_of(CHAINS, *"dhcga")),
    "inner nodes": Case(UNEVEN, labels_of(UNEVEN, "animal", "root", "wild", "plant"), seed=1),
    "scores of 200": Case(UNEVEN, A_FEW, scale=200),
    "transposed": Case(UNEVEN, A_FEW, layout="transposed"),
    "strided": Case(UNEVEN, A_FEW, layout="strided"),
    "float64": Case(UNEVEN, A_FEW, dtype=torch.float64),
    "float64 of 200": Case(UNEVEN, A_FEW, scale=200, dtype=torch.float64),
    "bfloat16": Case(UNEVEN, A_FEW, dtype=torch.bfloat16),
    "float16": Case(UNEVEN, A_FEW, dtype=torch.float16, layout="transposed"),
}
KERNELS = {"cpu": nullcontext, "triton": Interpreted}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
both_kernels = pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)


def fast_only(*names: str):
    """Every case, these as always and the others among the slow tests."""
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=name, marks=() if name in names else pytest.mark.slow) for name, case in CASES.items()]
    )


@st.composite
def random_cases(draw) -> Case:
    tree = draw(trees(most_nodes=14))
    labels = torch.tensor(draw(st.lists(st.integers(0, tree.num_nodes - 1), min_size=1, max_size=4)))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    return Case(tree, labels, draw(st.sampled_from([1.0, 10.0, 200.0])), dtype, seed=draw(st.integers(0, 999)))


def moved_nodes(case: Case, random) -> tuple[Hierarchy, Tensor, Tensor]:
    """The tree with its classes in another order, the labels in it, and the old label of each new one [T]."""
    tree = case.tree
    order = random.sample(range(tree.num_classes), tree.num_classes)
    rows = torch.tensor([*order, *range(tree.num_classes, tree.num_nodes)])
    return tree.with_classes([tree.classes[c] for c in order]), rows.argsort()[case.labels], rows


def large_case() -> Case:
    """3,000 leaves in groups of 1 to 1,400, a third of them in groups of their own; classes in any order."""
    sizes = [1, 1400, 2, 63, 64, 65, 300, 128, 7, 70]
    names, parents = ["root"], [-1]
    for group, size in enumerate([*sizes, 3000 - sum(sizes)]):
        names, parents = [*names, f"g{group}"], [*parents, 0]
        above = len(names) - 1
        for number in range(size):
            if group % 3 == 0 and number % 30 == 0:
                names, parents = [*names, f"g{group}.{number}"], [*parents, above]
            inside = len(names) - 1 - number % 30 if group % 3 == 0 else above
            names.append(f"l{group}.{number}")
            parents.append(inside)
    leaves = [name for name in names if name.startswith("l")]
    tree = Hierarchy(names, parents, [leaves[i] for i in np.random.default_rng(0).permutation(len(leaves))])
    return Case(tree, labels_of(tree, "l1.1399", "g1", "l0.0", "l9.40", "l10.3"), scale=10)


# --- Tables ---------------------------------------------------------------------------------------------------------------------------


def nodes_of(tree: Hierarchy) -> Nodes:
    return Nodes.from_parents(tree.parents, tree.leaf_nodes)


def paths_of(tree: Hierarchy) -> Tensor:
    return path_table(tree.parents, tree.depths, tree.label_nodes)


def weights_of(tree: Hierarchy, seed: int = 0) -> Tensor:
    """A weight for every node on the path to every label [T, L], a few of them 0."""
    weights = torch.rand(tree.num_nodes, tree.height + 1, generator=torch.Generator().manual_seed(seed))
    return torch.where(weights < 0.2, 0, weights)


# --- Loops ----------------------------------------------------------------------------------------------------------------------------


def nll(exps: Tensor, some, others=None) -> Tensor:
    """−log of the share of some of the terms [C], among these and others, which are all the rest unless they are given.

    exp(±200) is a float64, and so are its ratios and squares; nothing need be shifted.
    """
    others = np.setdiff1d(np.arange(len(exps)), some) if others is None else others
    return (exps[torch.as_tensor(np.array(others, dtype=int))].sum() / exps[torch.as_tensor(np.array(some, dtype=int))].sum()).log1p()


def path_of(tree: Hierarchy, label: int) -> list[int]:
    """Nodes from the root down to a label's."""
    return tree.ancestors(tree.label_nodes[label]).tolist()


def siblings_of(tree: Hierarchy, node: int) -> list[int]:
    return [int(child) for child in tree.children(tree.parents[node]) if child != node]


# --- Operators ------------------------------------------------------------------------------------------------------------------------


def _nowhere(tree: Hierarchy, label: int) -> list[int]:
    return []


def _none(tensor: Tensor) -> float:
    return 0.0


def near_0(scores: Tensor) -> float:
    """1e-6 in float32: a log-probability is a difference of sums."""
    return 0.1


def floor_of_sums(upstream: Tensor) -> Tensor:
    """The gradient of log-probabilities is a difference of sums of these."""
    return upstream.abs().sum(1, keepdim=True)


@dataclass(frozen=True)
class Operator:
    """An operator and what it should be.

    Attributes:
        call: The operator: call(scores, *arguments(tree, labels)).
        loop: The same in float64: loop(tree, scores, labels).
        columns: Scores a row.
        sure: Columns whose scores make a label certain if they are high, and impossible if they are low.
        value_floor: Of scores [B, …]: a value below it may be off by as much as it.
        gradient_floor: Of the gradient of the operator's result [B, …]: the same for the scores' gradients.
    """

    call: Callable[..., Tensor]
    arguments: Callable[[Hierarchy, Tensor], tuple]
    loop: Callable[[Hierarchy, Tensor, Tensor], Tensor]
    columns: Callable[[Hierarchy], int]
    sure: Callable[[Hierarchy, int], list[int]] = _nowhere
    value_floor: Callable[[Tensor], Tensor | float] = _none
    gradient_floor: Callable[[Tensor], Tensor | float] = _none

    def scores(self, case: Case, dtype: torch.dtype | None = None) -> Tensor:
        return case.scores(self.columns(case.tree), dtype)

    def of(self, case: Case) -> Callable[[Tensor], Tensor]:
        """As a function of the scores alone."""
        arguments = self.arguments(case.tree, case.labels)
        return lambda scores: self.call(scores, *arguments)

    def loop_of(self, case: Case) -> Callable[[Tensor], Tensor]:
        return lambda scores: self.loop(case.tree, scores.double(), case.labels)


def leaf_columns(tree: Hierarchy) -> int:
    return tree.num_classes


def node_columns(tree: Hierarchy) -> int:
    return tree.num_nodes - 1


def by_row(loop: Callable[[Hierarchy, Tensor, int], Tensor]) -> Callable[[Hierarchy, Tensor, Tensor], Tensor]:
    """The loop over rows around a loss of one row; the type and graph of the scores also where there is no row or no term."""

    def rows(tree: Hierarchy, scores: Tensor, labels: Tensor) -> Tensor:
        nothing = scores[:, :0].sum(1)
        found = [nothing[i] + loop(tree, scores[i], label) for i, label in enumerate(labels.tolist())]
        return torch.stack(found) if found else nothing

    return rows


def value_and_gradient(function: Callable[[Tensor], Tensor], scores: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Value, and gradient of its product with `upstream` (1 everywhere unless given)."""
    scores = scores.detach().requires_grad_()
    value = function(scores)
    value.backward(torch.ones_like(value) if upstream is None else upstream.to(value.dtype))
    return value.detach(), scores.grad


def upstream_of(case: Case, shape: torch.Size) -> Tensor:
    """A gradient for the operator's result, of small whole numbers and laid out as the scores are."""
    upstream = torch.randint(1, 4, shape, generator=torch.Generator().manual_seed(case.seed)).float()
    return upstream[:1].expand(shape) if case.layout == "strided" else _laid_out(upstream, case.layout if len(shape) == 2 else "")


def assert_within(found: Tensor, wanted: Tensor, bound: Tensor) -> None:
    assert found.shape == wanted.shape
    error = (found.double() - wanted.double()).abs()
    assert (error <= bound).all(), f"off by {(error / bound).nan_to_num(torch.inf).max():.3g} of what is allowed: {found}, not {wanted}"


def assert_values(operator: Operator, found: Tensor, wanted: Tensor, scores: Tensor) -> None:
    rtol, _, zero = TOLERANCES[torch.promote_types(scores.dtype, torch.float32)]
    assert found.dtype == torch.promote_types(scores.dtype, torch.float32)
    assert_within(found, wanted, zero + rtol * wanted.double().abs().maximum(torch.as_tensor(operator.value_floor(scores.double()))))


def assert_gradients(operator: Operator, found: Tensor, wanted: Tensor, scores: Tensor, upstream: Tensor) -> None:
    _, rtol, zero = TOLERANCES[scores.dtype]
    assert found.dtype == scores.dtype
    if found.numel():
        largest = wanted.double().abs().amax(1, keepdim=True)
        assert_within(found, wanted, zero + rtol * largest.maximum(torch.as_tensor(operator.gradient_floor(upstream.double()))))


def assert_is_the_loop(operator: Operator, case: Case, kernels: Callable[[], AbstractContextManager] = nullcontext, scores=None) -> None:
    """Values and gradients are those of the loop."""
    scores = operator.scores(case) if scores is None else scores
    upstream = upstream_of(case, operator.loop_of(case)(scores).shape)
    wanted = value_and_gradient(operator.loop_of(case), scores.double(), upstream)
    with kernels():
        found = value_and_gradient(operator.of(case), scores, upstream)
    assert_values(operator, found[0], wanted[0], scores)
    assert_gradients(operator, found[1], wanted[1], scores, upstream)


def assert_same(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], scores: Tensor, tolerance: float = 1e-11) -> None:
    """Values and gradients of two functions of float64 scores."""
    for found, wanted in zip(value_and_gradient(one, scores), value_and_gradient(other, scores), strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


class _Calls(TorchDispatchMode):
    """Keeps what the operators are called with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "hiercnn":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def _compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Compiled anew: what is kept on disk knows the operator's name, not its code."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, options={"force_disable_caches": True})


class SevenTests:
    """The seven tests of an operator; a subclass names it."""

    operator: Operator

    @every_case
    def test_values_are_the_loops(self, case):
        scores = self.operator.scores(case)
        found, wanted = self.operator.of(case)(scores), self.operator.loop_of(case)(scores)
        assert_values(self.operator, found, wanted, scores)

    @every_case
    def test_gradients_are_the_loops(self, case):
        assert_is_the_loop(self.operator, case)

    @fast_only("one leaf", "one row", "no rows", "one level", "single children", "inner nodes", "scores of 200", "strided")
    def test_gradients_are_differences_of_values(self, case):
        scores = self.operator.scores(case, torch.float64).requires_grad_()
        assert not scores.numel() or torch.autograd.gradcheck(self.operator.of(case), scores)

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own copies
    @fast_only("uneven depth", "no rows", "transposed")
    def test_torch_accepts_both_operators(self, case):
        with _Calls() as mode:
            value_and_gradient(self.operator.of(case), self.operator.scores(case))
        for function, arguments in mode.calls:
            arguments = [x.detach() if isinstance(x, Tensor) else x for x in arguments]
            if not function._opname.endswith("_backward"):
                arguments[0].requires_grad_()
            outcome = torch.library.opcheck(function, tuple(arguments))
            assert set(outcome.values()) == {"SUCCESS"}

    @fast_only("uneven depth")
    def test_it_compiles_into_one_graph(self, case):
        function, scores = self.operator.of(case), self.operator.scores(case)
        found, wanted = (value_and_gradient(f, scores) for f in (_compiled(function), function))
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))

    @every_case
    def test_triton_kernels_are_the_cpu_kernels(self, case):
        scores, function = self.operator.scores(case), self.operator.of(case)
        upstream = upstream_of(case, function(scores).shape)
        wanted = value_and_gradient(function, scores, upstream)
        with Interpreted():
            found = value_and_gradient(function, scores, upstream)
        assert_values(self.operator, found[0], wanted[0], scores)
        assert_gradients(self.operator, found[1], wanted[1], scores, upstream)

    @both_kernels
    @fast_only("one row", "strided", "float64", "bfloat16")
    def test_inputs_are_not_written_to(self, case, kernels):
        scores, arguments = self.operator.scores(case), self.operator.arguments(case.tree, case.labels)
        upstream = upstream_of(case, self.operator.of(case)(scores).shape)
        inputs = tree_leaves((scores, upstream, arguments))
        before = copy.deepcopy(inputs)
        with kernels():
            value_and_gradient(lambda x: self.operator.call(x, *arguments), scores, upstream)
        for now, then in zip(inputs, before, strict=True):
            torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)


class LossTests(SevenTests):
    """Of a loss [B], which promises its digits also where it is tiny or huge."""

    def _changed(self, change: Callable[[Tensor, list[int], list[int]], None], dtype: torch.dtype = torch.float32) -> tuple[Case, Tensor]:
        """Scores of a few rows, changed by what is told the row, the columns that make its label sure, and the others."""
        case = Case(UNEVEN, A_FEW, dtype=dtype)
        scores = self.operator.scores(case)
        for label, row in zip(A_FEW.tolist(), scores, strict=True):
            sure = self.operator.sure(UNEVEN, label)
            change(row, sure, [c for c in range(len(row)) if c not in sure])
        return case, scores

    @both_kernels
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_nearly_certain_row_keeps_its_digits(self, kernels, dtype):
        def change(row, sure, others):
            row[sure] += 40

        case, scores = self._changed(change, dtype)
        wanted = self.operator.loop_of(case)(scores)
        assert wanted.min() < 1e-12
        assert wanted.max() < 1e-10
        assert_is_the_loop(self.operator, case, kernels, scores)

    @both_kernels
    @pytest.mark.parametrize("drop", [69.0, 200.0])
    def test_an_impossible_truth_is_dear_and_has_a_gradient(self, kernels, drop):
        """Marginals of 1e-30 and of 1e-87."""

        def change(row, sure, others):
            row[sure] = -drop

        case, scores = self._changed(change)
        assert_is_the_loop(self.operator, case, kernels, scores)

    @both_kernels
    @pytest.mark.parametrize("half", [False, True], ids=["all others", "half of them"])
    def test_classes_at_minus_infinity_are_masked(self, kernels, half):
        def change(row, sure, others):
            row[others[:: 1 + half]] = -torch.inf

        case, scores = self._changed(change)
        assert_is_the_loop(self.operator, case, kernels, scores)

    @both_kernels
    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    @pytest.mark.parametrize("where", ["truth", "others", "everywhere"])
    def test_a_score_that_is_no_number_spoils_its_row_alone(self, kernels, value, where):
        def change(row, sure, others):
            row[{"truth": sure, "others": others, "everywhere": sure + others}[where]] = value

        case, scores = self._changed(change)
        good = self.operator.scores(case)
        scores[::2] = good[::2]
        function = self.operator.of(case)
        with kernels():
            (found, gradient), (wanted, expected) = (value_and_gradient(function, x) for x in (scores, good))
        assert torch.equal(found[::2], wanted[::2])
        assert torch.equal(gradient[::2], expected[::2])
        assert not found[1::2].isfinite().any()
