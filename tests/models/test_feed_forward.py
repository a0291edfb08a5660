"""Heads whose log-probabilities are fed to the leaf scores."""

import os
import signal

import pytest
import torch
from torch import nn
from train.tiny import BRANCHES, Spy, assert_same_run, tiny

from hiercnn import fit
from hiercnn.errors import Interrupted, RecipeError
from hiercnn.hierarchy import from_nested
from hiercnn.models import HeadSpec, build_model

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": ["fox", "owl"]}, "thing": ["car", "cup"]})
TWO, FOUR = TREE.cut(depth=1), TREE.cut(depth=2)
FED = [HeadSpec("early", TWO, feed_forward=True), HeadSpec("middle", FOUR, feed_forward=True), HeadSpec("late", TWO)]
FEED = "model.heads=[{stage: 0, cut: 3, weight: 0.5, feed_forward: true}, {stage: 1, cut: 9, weight: 0.5}]"


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def filled(model: nn.Module) -> nn.Module:
    """The same model with weights between its heads and the leaf."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for feed in model.feeds.values():
            feed.weight.copy_(torch.randn(feed.weight.shape, generator=generator))
    return model


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_it_starts_with_the_logits_of_its_flat_twin(mode):
    flat, fed = (getattr(build_model("resnet_small", TREE, heads, seed=3), mode)() for heads in ([], FED))
    assert torch.equal(fed(images()).leaf, flat(images()).leaf)
    assert flat(images()).leaf.abs().max() > 0
    alike = build_model("resnet_small", TREE, [HeadSpec("early", TWO), HeadSpec("middle", FOUR), HeadSpec("late", TWO)], seed=3)
    assert all(torch.equal(p, fed.heads.get_parameter(name)) for name, p in alike.heads.named_parameters())


def test_leaf_scores_are_the_backbone_s_and_what_the_heads_add():
    model = filled(build_model("resnet_small", TREE, FED)).eval()
    with torch.no_grad():
        output = model(images())
        wanted = model.backbone(images()).double()
        for name, head in (("stage1_2", TWO), ("stage2_4", FOUR)):
            weight = model.feeds[name].weight.double()
            for row, logits in zip(wanted, output.heads[name].double(), strict=True):
                for c in range(6):
                    row[c] += sum(weight[c, k] * (logits[k] - logits.exp().sum().log()) for k in range(len(head)))
    torch.testing.assert_close(output.leaf.double(), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(output.leaf, model.backbone(images()))
    assert list(model.feeds) == ["stage1_2", "stage2_4"]  # and not the late head, which is not asked to


def test_it_can_leave_its_start():
    """At zero weights the feed gets a gradient, the head none from the leaf; afterwards both do."""
    model = build_model("resnet_small", TREE, FED[:1])
    loss = nn.functional.cross_entropy(model(images()).leaf, torch.arange(4))
    loss.backward()
    assert model.feeds["stage1_2"].weight.grad.abs().sum() > 0
    assert model.heads["stage1_2"].fc.weight.grad.abs().sum() == 0
    filled(model).zero_grad()
    nn.functional.cross_entropy(model(images()).leaf, torch.arange(4)).backward()
    assert model.heads["stage1_2"].fc.weight.grad.abs().sum() > 0


def test_stop_gradient_still_ends_at_the_tap():
    """The leaf's gradient reaches the head through the feed, but not what lies before the head."""
    gradients = []
    for heads in ([], [HeadSpec("early", TWO, feed_forward=True, stop_gradient=True)], FED[:1]):
        model = filled(build_model("resnet_small", TREE, heads)).eval()
        leaf = model(images()).leaf
        leaf.backward(torch.ones_like(leaf) / 7)
        gradients.append([p.grad.clone() for p in model.backbone.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(gradients[0], gradients[1], strict=True))
    assert not torch.equal(gradients[0][0], gradients[2][0])


def test_stripping_is_refused():
    model = build_model("resnet_small", TREE, FED)
    message = r"the leaf scores need the heads stage1_2, stage2_4 \(feed_forward\); this model cannot do without them"
    with pytest.raises(RecipeError, match=message):
        model.strip_heads()


def test_heads_that_feed_nothing_are_stripped():
    model = build_model("resnet_small", TREE, [HeadSpec("late", TWO)])
    assert not len(model.feeds)
    assert model.strip_heads() is model.backbone


def test_it_goes_with_a_path_sum():
    flat, fed = (build_model("resnet_small", TREE, heads, classifier="path_sum").eval() for heads in ([], FED))
    assert torch.equal(fed(images()).leaf, flat(images()).leaf)
    with pytest.raises(RecipeError, match="cannot do without them"):
        fed.strip_heads()


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build_model("resnet_small", TREE, FED)
    assert torch.equal(torch.rand(1), expected)


# --- In a run -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with one head that feeds the leaf; tests only read it."""
    return fit(tiny(FEED, "train.ema=0.9", "optim.clip_norm=1"), run_dir=tmp_path_factory.mktemp("fed"))


def test_weights_are_learnt_and_come_back(run):
    model = run.model
    assert list(model.feeds) == ["stage0_3"]
    assert model.feeds["stage0_3"].weight.abs().min() > 0
    assert set(run.metrics[-1]["val"]["heads"]) == {"stage0_3", "stage1_9"}
    with pytest.raises(RecipeError, match="the leaf scores need the heads stage0_3"):
        model.strip_heads()


def test_it_acts_on_the_leaf(run, tmp_path):
    beside = fit(tiny(BRANCHES, "train.ema=0.9", "optim.clip_norm=1"), run_dir=tmp_path)
    assert beside.metrics[-1]["val"]["nll"] != run.metrics[-1]["val"]["nll"]


def test_stopped_and_resumed_it_is_the_same_run(run, tmp_path):
    stop = Spy(lambda epoch, batch: os.kill(os.getpid(), signal.SIGINT) if (epoch, batch) == (2, 2) else None)
    with pytest.raises(Interrupted):
        fit(run.recipe, run_dir=tmp_path, display=stop)
    assert_same_run(fit(run.recipe, run_dir=tmp_path, resume=True), run)


def test_clipping_counts_what_feeds_the_leaf_with_the_heads(monkeypatch, tmp_path):
    """The backbone's norm is its own, as in its twin; every weight is clipped once."""
    calls = []
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda part, norm: calls.append([p.shape for p in part]))
    run = fit(tiny(FEED, "epochs=1", "optim.clip_norm=1"), run_dir=tmp_path)
    shapes = [[p.shape for p in part.parameters()] for part in (run.model.backbone, run.model.heads, run.model.feeds)]
    assert calls[:2] == [shapes[0], shapes[1] + shapes[2]]
