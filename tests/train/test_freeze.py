"""Freezing: which parameters belong to a stage, what keeps still while training, and when it is let go."""

import pytest
import torch
from torch import nn
from train.tiny import BRANCHES, tiny

from hiercnn import fit
from hiercnn.errors import RecipeError
from hiercnn.models import checkpoint_gradients, create_backbone, freeze, parameters_up_to, stages, tapped_forward


@pytest.mark.parametrize(("name", "side"), [("tiny_net", 16), ("resnet18", 32), ("vit_tiny_patch16_224", 224)])
@pytest.mark.parametrize("stage", [0, "early", "late"])
def test_a_stage_s_parameters_are_those_that_change_its_features(name, side, stage):
    backbone = create_backbone(name, 3)
    names = parameters_up_to(backbone, stage, (2, 3, side, side))
    index = {0: 0, "early": -(-(len(stages(backbone)) - 1) // 3), "late": len(stages(backbone)) - 1}[stage]
    features = tapped_forward(backbone.eval(), torch.randn(1, 3, side, side), [index])[1][index]
    grads = torch.autograd.grad(features.sum(), list(backbone.parameters()), allow_unused=True)
    assert names == {key for (key, _), grad in zip(backbone.named_parameters(), grads, strict=True) if grad is not None}
    assert 0 < len(names) < len(grads)


def test_all_is_all_but_the_classifier():
    backbone = create_backbone("resnet18", 3)
    own = {name for name, _ in backbone.named_parameters()}
    assert own - parameters_up_to(backbone, "all", (2, 3, 32, 32)) == {"fc.weight", "fc.bias"}


def test_looking_leaves_the_backbone_as_it_was():
    backbone = create_backbone("resnet18", 3).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    parameters_up_to(backbone, "middle", (2, 3, 32, 32))
    assert all(module.training for module in backbone.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in backbone.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_what_never_learnt_stays_frozen():
    backbone = create_backbone("tiny_net", 3)
    freeze(backbone, frozenset(), frozenset({"fc.weight"}))
    assert [name for name, parameter in backbone.named_parameters() if parameter.requires_grad] == ["fc.weight"]


def test_a_backbone_that_looks_at_values_can_be_frozen_as_a_whole_alone():
    backbone = create_backbone("tiny_net", 3)
    backbone.stages[0].register_forward_pre_hook(lambda module, images: print(images[0].sum().item()))
    with pytest.raises(RecipeError, match="cannot tell what stage early depends on: .*; freeze all, or none"):
        parameters_up_to(backbone, "early", (2, 3, 16, 16))
    assert len(parameters_up_to(backbone, "all", (2, 3, 16, 16))) > 0


def test_freezing_goes_with_recomputed_activations():
    plain, again = (create_backbone("resnet18", 3) for _ in range(2))
    checkpoint_gradients(again)
    assert parameters_up_to(again, "middle", (2, 3, 32, 32)) == parameters_up_to(plain, "middle", (2, 3, 32, 32))
    assert again.grad_checkpointing


def test_batch_norms_that_keep_still_count_no_batches_when_they_are_computed_again():
    backbone = create_backbone("resnet18", 3).train()
    checkpoint_gradients(backbone)
    still = backbone.layer2[0].bn1.eval()
    backbone(torch.randn(4, 3, 64, 64)).sum().backward()
    assert still.num_batches_tracked == 0
    assert backbone.layer2[0].bn2.num_batches_tracked == 1


def test_batch_norms_without_parameters_keep_still_with_what_is_around_them():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), nn.Conv2d(4, 4, 3)).train()
    trainable = frozenset(name for name, _ in net.named_parameters())
    freeze(net, frozenset({"0.0.weight", "0.0.bias"}), trainable)
    assert not net[0][1].training
    freeze(net.train(), frozenset(), trainable)
    assert net[0][1].training


def changed(run, stage: str) -> set[str]:
    """Parts of the network that differ between the weights before the first step and the named ones; statistics of batch norm too."""
    before, after = (run.load_model(name).state_dict() for name in ("step-00000000", stage))
    return {key for key in before if not torch.equal(before[key], after[key])}


STAGE0, STAGE1 = "backbone.stages.0", "backbone.stages.1"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Two epochs of 5 updates: the first stage keeps still in the first."""
    recipe = tiny(BRANCHES, "train.freeze={steps: {0: 0, 1: none}}", "checkpoints.keep=log", "optim.weight_decay=0.1")
    return fit(recipe, run_dir=tmp_path_factory.mktemp("freeze") / "run")


def test_the_frozen_stage_keeps_still_and_everything_else_learns(released):
    moved = changed(released, "step-00000005")
    assert not {key for key in moved if key.startswith(STAGE0)}
    kept = {key for key in released.model.state_dict() if not key.startswith(STAGE0)}
    assert moved == kept


def test_then_it_is_let_go(released):
    assert changed(released, "last") == set(released.model.state_dict())


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("erly", "train.freeze: unknown stage 'erly'; did you mean 'early'\\?; use a number, early, middle, late, all, none"),
        ("7", "train.freeze: stage 7 does not exist; tiny_net has stages 0..1"),
        ("true", "train.freeze: should be a stage .a number, early, middle, late., all, none"),
        ("{steps: {}}", "train.freeze.steps: Dictionary should have at least 1 item"),
        ("{steps: {0: late, 3: everything}}", "train.freeze.steps.3: unknown stage 'everything'"),
    ],
)
def test_stages_that_are_not_there(stage, message):
    with pytest.raises(RecipeError, match=message):
        tiny(f"train.freeze={stage}")


def test_own_model_without_stages(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 36))
    with pytest.raises(RecipeError, match="has no feature_info"):
        fit(tiny("train.freeze=late"), run_dir=tmp_path / "late", model=model)
    with pytest.raises(RecipeError, match="all needs a timm backbone"):
        fit(tiny("train.freeze=all"), run_dir=tmp_path / "all", model=model)


def test_a_model_that_is_wholly_frozen(tmp_path):
    model = create_backbone("tiny_net", 36).requires_grad_(False)
    with pytest.raises(RecipeError, match="every parameter of the model is frozen, so there is nothing to train"):
        fit(tiny(), run_dir=tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()
