"""Cross-entropy: torch's own for leaf labels, −log of the summed probability of the leaves below an inner label."""

import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from losses.cases import FLOAT32, TREE, assert_equal_loss, cases, label_nll, value_and_gradient

from hiercnn.errors import RecipeError, ShapeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.losses import CrossEntropy, losses
from hiercnn.registry import Registry


def loop(tree: Hierarchy, logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """−log of the summed probability of the leaves below each label, averaged, in the logits' own type."""
    return torch.stack([label_nll(tree, row, label, smoothing) for row, label in zip(logits, labels.tolist(), strict=True)]).mean()


def cross_entropy(tree, labels, **options):
    module = CrossEntropy(tree, **options)
    return lambda logits: module(logits, labels)["cross_entropy"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1, 200])
def test_leaf_labels_are_torchs_cross_entropy_bit_for_bit(smoothing, scale):
    logits = scale * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 4
    found = value_and_gradient(cross_entropy(TREE, labels, label_smoothing=smoothing), logits)
    wanted = value_and_gradient(lambda x: F.cross_entropy(x, labels, label_smoothing=smoothing), logits)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@given(cases(), st.sampled_from([0.0, 0.1]))
def test_inner_labels_are_the_loop(case, smoothing):
    tree, logits, labels = case
    loss = cross_entropy(tree, labels, inner_labels=True, label_smoothing=smoothing)
    assert_equal_loss(loss, lambda x: loop(tree, x, labels, smoothing), logits)
    assert_equal_loss(loss, lambda x: loop(tree, x, labels, smoothing), logits.float(), **FLOAT32)


@given(cases())
def test_a_leaf_is_worth_the_same_with_and_without_inner_labels(case):
    tree, logits, labels = case
    labels = labels % tree.num_classes
    values = [cross_entropy(tree, labels, inner_labels=inner)(logits.float()) for inner in (False, True)]
    torch.testing.assert_close(*values, **FLOAT32)


def test_by_hand():
    """Probabilities 1/2, 1/4, 1/8, 1/8 of car, wolf, cat, dog."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    wanted = {"car": 0.5, "cat": 0.125, "pet": 0.25, "big": 0.25, "wild": 0.25, "animal": 0.5, "root": 1.0}
    for name, probability in wanted.items():
        value = cross_entropy(TREE, torch.tensor([TREE.label(name)]), inner_labels=True)(logits)
        torch.testing.assert_close(value.item(), -np.log(probability), **FLOAT32)


def test_samples_with_inner_labels_are_not_smoothed():
    logits, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.full((3,), TREE.label("pet"))
    smooth, plain = (cross_entropy(TREE, labels, inner_labels=True, label_smoothing=e)(logits) for e in (0.5, 0.0))
    assert torch.equal(smooth, plain)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("value", [200.0, -200.0])
def test_extreme_logits_keep_a_finite_gradient(inner, value):
    """One leaf at ±200, the rest at ∓200: the loss of the unlikely ones is 400 and its gradient ±1 over the batch."""
    logits = torch.full((4, 4), -value)
    logits[:, 1] = value
    labels = torch.tensor([0, 1, 2, 3])
    loss, gradient = value_and_gradient(cross_entropy(TREE, labels, inner_labels=inner), logits)
    wanted = value_and_gradient(lambda x: loop(TREE, x, labels), logits.double())
    torch.testing.assert_close((loss.double(), gradient.double()), wanted, **FLOAT32)
    assert gradient.abs().max() > 0.1


@pytest.mark.parametrize("name", ["pet", "animal", "root"])
@pytest.mark.parametrize("value", [200.0, -200.0])
def test_extreme_logits_with_inner_labels(name, value):
    logits = torch.tensor([[value, -value, -value, -value], [-value, value, value, -value]])
    labels = torch.tensor([TREE.label(name)] * 2)
    found = value_and_gradient(cross_entropy(TREE, labels, inner_labels=True), logits)
    wanted = value_and_gradient(lambda x: loop(TREE, x, labels), logits.double())
    assert all(x.isfinite().all() for x in found)
    torch.testing.assert_close(tuple(x.double() for x in found), wanted, **FLOAT32)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_summed_in_float32(inner, dtype):
    logits = (10 * torch.randn(8, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
    loss = cross_entropy(TREE, torch.arange(8) % (7 if inner else 4), inner_labels=inner)
    half, full = value_and_gradient(loss, logits), value_and_gradient(loss, logits.float())
    assert half[0].dtype == torch.float32
    assert torch.equal(half[0], full[0])
    assert half[1].dtype == dtype
    torch.testing.assert_close(half[1], full[1].to(dtype))


@pytest.mark.parametrize("inner", [False, True])
def test_terms_have_names_and_inputs_are_not_written_to(inner):
    logits, labels = torch.zeros(2, 4), torch.tensor([0, 3])
    terms = CrossEntropy(TREE, inner_labels=inner)(logits, labels)
    assert list(terms) == ["cross_entropy"]
    assert terms["cross_entropy"].shape == ()
    torch.testing.assert_close(terms["cross_entropy"].item(), np.log(4), **FLOAT32)
    assert logits.eq(0).all()
    assert labels.tolist() == [0, 3]


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("shape", [(2, 5), (2, 3), (4,), (2, 4, 1)])
def test_logits_of_other_classes_are_refused(inner, shape):
    with pytest.raises(ShapeError, match=re.escape(f"logits: wanted [B, 4], one number a class, got {list(shape)}")):
        CrossEntropy(TREE, inner_labels=inner)(torch.zeros(shape), torch.tensor([0, 3]))


def test_buffers_move_with_the_module_and_are_not_saved():
    module = CrossEntropy(TREE, inner_labels=True)
    assert list(module.buffers())
    assert not module.state_dict()


# --- The registry ---------------------------------------------------------------------------------------------------------------------


def test_cross_entropy_is_a_loss_with_options():
    assert losses["cross_entropy"] is CrossEntropy
    assert {name: option.default for name, option in losses.options("cross_entropy").items()} == {
        "label_smoothing": 0.0,
        "inner_labels": False,
    }
    assert losses.options("cross_entropy")["label_smoothing"].kind is inspect.Parameter.KEYWORD_ONLY


def test_unknown_names_suggest():
    with pytest.raises(RecipeError, match="unknown loss 'cros_entropy'; did you mean 'cross_entropy'"):
        losses["cros_entropy"]
    with pytest.raises(RecipeError, match="unknown loss 'zzz'; there are .*cross_entropy"):
        losses["zzz"]
    assert "cros_entropy" not in losses
    assert "cross_entropy" in losses


def test_names_are_taken_once():
    things = Registry("thing")

    @things.register("one")
    def first(a, *, b=2):
        return a, b

    def second():
        return None

    things.register("one")(first)  # the same one again: a module that is loaded twice
    with pytest.raises(RecipeError, match="a thing called 'one' is registered already; choose another name"):
        things.register("one")(second)
    assert dict(things) == {"one": first}
    assert list(things.options("one")) == ["b"]
    assert len(things) == 1
