"""Early answers: the head's own logits without the rest of the network, and who may leave."""

import numpy as np
import pytest
import torch
from train.tiny import tiny

import hiercnn
from hiercnn.errors import RecipeError
from hiercnn.inference import calibrate_exit
from hiercnn.models import EarlyExit, Truncated
from hiercnn.recipe import Run, build_data, build_source, early_heads, early_predictor, run_scores

HEADS = "model.heads=[{stage: 0, cut: 3}, {stage: 0, cut: 9}, {stage: 1, cut: 9, name: late}, {stage: 0, cut: leaf}]"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return hiercnn.fit(tiny(HEADS, "epochs=6"), run_dir=tmp_path_factory.mktemp("early") / "run")


@pytest.fixture(scope="module")
def images(run) -> list[np.ndarray]:
    test = build_data(run.recipe, build_source(run.recipe), run.hierarchy).test.images[:40]
    return [image.permute(1, 2, 0).numpy() for image in test]


def normalised(run, images) -> torch.Tensor:
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() for image in images]).sub(120).div(60)


def names(found) -> list[str]:
    return [each.name for each in found]


# ---- the networks


def test_a_truncated_network_is_its_head_and_computes_no_later_stage(run, images, monkeypatch):
    model, batch = run.model, normalised(run, images)
    with torch.no_grad():
        wanted = model(batch).heads["stage0_9"]
        monkeypatch.setattr(model.backbone.stages[1], "forward", None)
        torch.testing.assert_close(Truncated(model, "stage0_9")(batch), wanted)


def test_backbones_without_intermediates_are_cut_by_hooks(images, run):
    from models.test_model import FOUR, TREE, OnlyFeatureInfo

    from hiercnn.models import HeadSpec, HierarchicalModel, PoolHead

    spec = HeadSpec(0, FOUR, name="first")
    model = HierarchicalModel(OnlyFeatureInfo(), TREE.classes, heads={"first": PoolHead(4, 4)}, specs={"first": spec}).eval()
    batch = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(Truncated(model, "first")(batch), model(batch).heads["first"])


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_sure_images_leave_and_the_others_go_on_alone(run, images, share):
    model, batch = run.model, normalised(run, images)
    with torch.no_grad():
        confidences = model(batch).heads["stage0_3"].softmax(1).amax(1)
    threshold = float(confidences.quantile(share)) + 1e-6 * share
    network = EarlyExit(model, "stage0_3", threshold, input_size=(3, 16, 16))
    seen = []
    model.backbone.stages[1].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        found = network(batch)
        left, gone_on = network.left.clone(), sum(seen)
        output = model(batch)
    head = output.heads["stage0_3"].softmax(1)
    sums = torch.zeros_like(head).index_add_(1, torch.tensor(network.cut.groups), output.leaf.softmax(1))
    assert torch.equal(left, head.amax(1) >= threshold)
    assert gone_on == int((~left).sum())
    torch.testing.assert_close(found.exp(), torch.where(left[:, None], head, sums))
    assert left.double().mean() == 1 - share


def test_backbones_that_cannot_be_left(run):
    from hiercnn.hierarchy import from_nested
    from hiercnn.models import HeadSpec, build_model

    tree = from_nested({"x": ["a", "b"], "y": ["c", "d"]})
    model = build_model("vit_tiny_patch16_224", tree, [HeadSpec(2, tree.cut(depth=1), name="group")], options={"img_size": 32})
    with pytest.raises(RecipeError, match="cannot be left after stage 2"):
        EarlyExit(model, "group", 0.5, input_size=(3, 32, 32))


def test_heads_that_are_not_there(run):
    with pytest.raises(RecipeError, match="no head 'stage0_8'; did you mean"):
        Truncated(run.model, "stage0_8")


# ---- predictors


def test_costs_rise_with_the_stage(run):
    heads = early_heads(run, run.model)
    assert [early.head for early in heads] == ["stage0_3", "stage0_9", "stage0_36", "late"]
    assert 0 < heads[0].cost < heads[1].cost < heads[2].cost < heads[3].cost < 1
    conv = 3 * 16 * 9 * 8 * 8 * 2
    assert heads[1].cost / heads[0].cost == pytest.approx((conv + 2 * 16 * 9) / (conv + 2 * 16 * 3))


@pytest.mark.parametrize("level", ["3", "3 groups", "stage0_3"])
def test_answers_of_a_level_are_the_head_s(run, images, level):
    predictor = early_predictor(run, level)
    found = predictor(images)
    logits = predictor.score(predictor_batch(predictor, images)).leaf
    groups = run.hierarchy.cut(groups=3).names
    assert names(found) == [groups[best] for best in logits.argmax(1)]
    assert {each.level for each in found} == {"3 groups"}
    assert [each.probability for each in found] == pytest.approx(logits.softmax(1).amax(1).tolist(), abs=1e-4)


def predictor_batch(predictor, images) -> torch.Tensor:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return torch.stack([(torch.from_numpy(image).permute(2, 0, 1) - mean) / std for image in images])


@pytest.mark.long
def test_the_earliest_head_answers_or_the_latest_within_the_budget(run):
    costs = {early.head: early.cost for early in early_heads(run, run.model)}

    def stage(**options) -> int:
        return early_predictor(run, "9", **options).network.stage

    assert stage() == 0
    assert stage(budget=1.0) == 1
    assert stage(budget=costs["stage0_9"]) == 0
    assert early_predictor(run, budget=1.0).network.cut.name == "9 groups"
    assert early_predictor(run, budget=costs["stage0_3"]).network.cut.name == "3 groups"


def test_rules_decide_in_the_tree_that_ends_there(run, images):
    found = early_predictor(run, "9", rule="climbing", options={"threshold": 0.25})(images)
    assert {each.level for each in found} <= {"9 groups", "3 groups", "depth 0"}
    assert len({each.level for each in found}) > 1
    auto = early_predictor(run, "9", rule="auto", options={"target": 0.6})
    assert auto.rule.calibration.target == 0.6


def test_early_answers_of_sure_images_alone(run, images):
    predictor = early_predictor(run, "3", loss=0.2)
    leaf, labels, heads = run_scores(run, run.model)
    cut = run.hierarchy.cut(groups=3)
    threshold = calibrate_exit(heads["stage0_3"], leaf, labels, cut, loss=0.2).threshold
    assert predictor.network.threshold == threshold
    assert len(predictor(images)) == 40
    assert isinstance(early_predictor(run, "3", loss=0.2, rule="auto", options={"target": 0.5}).network, EarlyExit)


@pytest.mark.parametrize(
    ("level", "options", "message"),
    [
        ("7", {}, r"no head answers for '7'; the heads on groups are: stage0_3 \(3 groups"),
        (None, {}, "needs a level or a budget"),
        ("9", {"budget": 0.001}, "at 0% of the cost"),
        ("9", {"rule": "hie"}, "choose another rule"),
        ("9", {"rule": "argmx"}, "did you mean 'argmax'"),
        ("9", {"loss": 1.5}, "loss: wanted a share"),
    ],
)
def test_early_answers_that_cannot_be(run, level, options, message):
    with pytest.raises(RecipeError, match=message):
        early_predictor(run, level, **options)


def test_flat_runs_have_no_early_answers(tmp_path):
    flat = hiercnn.fit(tiny("epochs=1"), run_dir=tmp_path)
    with pytest.raises(RecipeError, match="the heads on groups are: none"):
        early_predictor(flat, "3")
