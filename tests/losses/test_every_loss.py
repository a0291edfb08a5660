"""What goes for every loss: labels and scores that are refused, options that are checked, tables that keep their type."""

import copy
import re

import pytest
import torch
from losses.cases import TREE

from hiercnn.errors import RecipeError, ShapeError
from hiercnn.losses import HXE, ConditionalNLL, CrossEntropy, ForwardCorrection, LevelNLL, MarginNLL, SoftLabels

LOSSES = {
    "cross-entropy": lambda **more: CrossEntropy(TREE, **more),
    "level NLL": lambda **more: LevelNLL(TREE, levels=[{"cut": 2}], **more),
    "forward correction": lambda **more: ForwardCorrection(TREE, cut={"depth": 1}, rate=0.3, **more),
    "HXE": lambda **more: HXE(TREE, **more),
    "soft labels": lambda **more: SoftLabels(TREE, **more),
    "soft labels from a table": lambda **more: SoftLabels(TREE, distance="path", **more),
    "conditional": lambda **more: ConditionalNLL(TREE, alpha=0.3, **more),
    "margin": lambda **more: MarginNLL(TREE, **more),
}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
LABELS = torch.tensor([0, 1, 2])


def scores_of(loss, **options) -> torch.Tensor:
    return torch.randn(3, TREE.num_nodes - 1 if loss.scores == "nodes" else 4, generator=torch.Generator().manual_seed(0), **options)


@every_loss
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:2], "target: wanted [3], one label a row, got [2]"),
        (LABELS[:, None], "target: wanted [3], one label a row, got [3, 1]"),
        (LABELS.int(), "target: wanted int64, got int32"),
        (LABELS > 0, "target: wanted int64, got bool"),
        (LABELS.to("meta"), "target is on meta, the scores on cpu"),
    ],
)
def test_bad_labels(make, labels, message):
    for inner in (False, True):
        loss = make(inner_labels=inner)
        with pytest.raises(ShapeError, match=re.escape(message)):
            loss(scores_of(loss), labels)


@every_loss
@pytest.mark.parametrize("label", [-1, 99])
def test_labels_of_no_class(make, label):
    for inner in (False, True):
        loss = make(inner_labels=inner)
        if type(loss) is CrossEntropy and not inner:
            continue  # torch's own, which raises IndexError
        with pytest.raises(ShapeError, match=f"target: wanted labels 0 to {(TREE.num_nodes if inner else 4) - 1}, got {label}"):
            loss(scores_of(loss), torch.tensor([0, label, 1]))


@every_loss
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_scores_of_other_types(make, dtype):
    loss = make()
    with pytest.raises(ShapeError, match="wanted float32, float64, float16 or bfloat16, got"):
        loss(scores_of(loss).to(dtype), LABELS)


@every_loss
def test_no_images_cost_nan_as_torch_s_mean_does(make):
    loss = make(inner_labels=True)
    value = sum(loss(scores_of(loss)[:0].requires_grad_(), LABELS[:0]).values())
    assert value.isnan()
    value.backward()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tables_keep_their_type(make, dtype):
    loss = make()
    scores, tables = scores_of(loss), {name: table.dtype for name, table in loss.named_buffers()}
    wanted = copy.deepcopy(loss)(scores, LABELS)
    parent = torch.nn.ModuleList([loss]).to(dtype)
    assert {name: table.dtype for name, table in parent[0].named_buffers()} == tables
    assert all(torch.equal(value, wanted[name]) for name, value in loss(scores, LABELS).items())
    assert all(table.device.type == "meta" for table in parent.to("meta")[0].buffers())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HXE(TREE, alpha=-1), "HXE: alpha: Input should be greater than or equal to 0 (got -1)"),
        (lambda: HXE(TREE, alpha=float("nan")), "HXE: alpha: Input should be a finite number"),
        (lambda: SoftLabels(TREE, beta=0), "SoftLabels: beta: Input should be greater than 0 (got 0)"),
        (
            lambda: SoftLabels(TREE, distance="far"),
            "SoftLabels: distance: Input should be 'lca', 'path', 'wup' or 'information'",
        ),
        (lambda: MarginNLL(TREE, margin="a"), "MarginNLL: margin: Input should be a valid number"),
        (lambda: ConditionalNLL(TREE, alpha=-1), "ConditionalNLL: alpha: Input should be greater than or equal to 0 (got -1)"),
        (lambda: CrossEntropy(TREE, label_smoothing=1.5), "CrossEntropy: label_smoothing: Input should be less than 1 (got 1.5)"),
        (
            lambda: LevelNLL(TREE, levels=[{"cut": 2, "weight": -1}]),
            "LevelNLL: levels.0.weight: Input should be greater than or equal",
        ),
        (lambda: LevelNLL(TREE, levels=[{"cut": 2, "weigth": 1}]), "LevelNLL: levels.0.weigth: Extra inputs are not permitted"),
        (lambda: HXE("cifar100"), "HXE: 1: Input should be an instance of Hierarchy"),
    ],
)
def test_options_are_checked_in_python_too(make, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        make()


@pytest.mark.slow
@every_loss
def test_they_compile_into_one_graph(make):
    loss = make(inner_labels=True)
    scores = scores_of(loss)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: sum(loss(x, LABELS).values()), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(scores), sum(loss(scores, LABELS).values()))
