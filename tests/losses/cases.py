"""What the tests of the losses share: a small tree, random cases, and plain loops in the logits' own type."""

import numpy as np
import torch
from hypothesis import strategies as st
from random_trees import several_classes, trees

from hiercnn.hierarchy import Hierarchy, from_nested

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf"]}}, "car": None}, ["car", "wolf", "cat", "dog"])

# float32 sums of at most a few hundred terms, each rounded to 6e-8 of logits up to 200, against float64.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}
FLOAT64 = {"rtol": 1e-9, "atol": 1e-9}


@st.composite
def cases(draw, least_classes: int = 1) -> tuple[Hierarchy, torch.Tensor, torch.Tensor]:
    """A random tree with classes in any order, logits [B, C] of any size up to ±200 (float64), labels [B] of leaves and inner nodes."""
    tree = draw(trees(most_nodes=16).filter(several_classes) if least_classes > 1 else trees(most_nodes=16))
    rng, count, scale = np.random.default_rng(draw(st.integers(0, 999))), draw(st.integers(1, 6)), draw(st.sampled_from([1, 10, 200]))
    logits = torch.from_numpy(rng.uniform(-scale, scale, (count, tree.num_classes)))
    return tree, logits, torch.from_numpy(rng.integers(0, tree.num_nodes, count))


def nll_of(row: torch.Tensor, classes) -> torch.Tensor:
    """−log of the summed probability of some classes, for the logits of one sample [C].

    Both sums are taken relative to their largest term, which is all that floats need and changes no value.
    """
    some = row[torch.as_tensor(np.array(classes))]
    log_total = row.max().detach() + (row - row.max().detach()).exp().sum().log()
    return log_total - (some.max().detach() + (some - some.max().detach()).exp().sum().log())


def label_nll(tree: Hierarchy, row: torch.Tensor, label: int, smoothing: float = 0.0) -> torch.Tensor:
    """−log of the probability of a label, class or inner node; classes are smoothed."""
    value = nll_of(row, tree.leaves(tree.label_nodes[label]))
    if label < tree.num_classes and smoothing:
        others = [nll_of(row, [c]) for c in range(tree.num_classes)]
        return (1 - smoothing) * value + smoothing * torch.stack(others).mean()
    return value


def value_and_gradient(loss, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    value.backward()
    return value.detach(), logits.grad


def summed(module, labels):
    """A loss module as a function of the logits alone: the sum of its terms."""
    return lambda logits: sum(module(logits, labels).values())


def assert_equal_loss(found, wanted, logits: torch.Tensor, **tolerance) -> None:
    """Values and gradients of two functions of the logits are equal and finite; the second is taken in float64."""
    pairs = zip(value_and_gradient(found, logits), value_and_gradient(wanted, logits.double()), strict=True)
    for one, other in pairs:
        assert one.isfinite().all()
        torch.testing.assert_close(one.double(), other, **(tolerance or FLOAT64))
