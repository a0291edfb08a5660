"""Optimisers and schedules by timm's names."""

import pytest
import torch
import train.tiny  # noqa: F401  registers tiny_net
from torch import nn

from hiercnn.errors import RecipeError
from hiercnn.hierarchy import from_nested
from hiercnn.models import HeadSpec, build_model
from hiercnn.train import make_optimizer, make_scheduler
from hiercnn.train._optim import learning_rate
from hiercnn.train._settings import OptimSettings, ScheduleSettings


def lrs(epochs: int = 10, updates: int = 4, **schedule) -> list[float]:
    """The learning rate of every update of a run, at most 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, ScheduleSettings(**schedule), epochs, updates)
    rates = []
    for update in range(epochs * updates):
        scheduler.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_constant_warms_up_and_stays():
    rates = lrs(name="constant", warmup_epochs=2, warmup_lr=0.2)
    assert rates[:8] == pytest.approx([0.2 + 0.8 * i / 8 for i in range(8)])
    assert rates[8:] == [1.0] * 32


def test_constant_without_warmup():
    assert lrs(name="constant") == [1.0] * 40


def test_cosine_ends_at_min_lr():
    rates = lrs(epochs=100, name="cosine", min_lr=0.1)
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert rates[200] == pytest.approx(0.55)
    assert 0.1 <= rates[-1] < 0.1001


def test_cosine_warms_up_inside_the_epochs():
    rates = lrs(epochs=100, name="cosine", warmup_epochs=5)
    assert max(rates) == rates[20] > 0.99
    assert rates[-1] < 1e-3


def test_multistep_counts_epochs():
    rates = lrs(name="multistep", options={"decay_milestones": [3, 6], "decay_rate": 0.1})
    assert rates[::4] == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01] * 4)  # timm takes the step one update early, so epochs' first updates


def test_unknown_schedule_option():
    with pytest.raises(RecipeError, match=r"schedule does not take these options: .*decay_rat"):
        lrs(name="cosine", options={"decay_rat": 0.1})


def test_unknown_optimiser_gets_a_suggestion():
    with pytest.raises(RecipeError, match=r"timm has no optimiser 'adamv'; did you mean 'adam"):
        make_optimizer(nn.Linear(2, 2), OptimSettings(name="adamv"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"nesterof": True}}, "nesterof"),
        ({"name": "adamw", "options": {"betas": [2, 3]}}, "Invalid beta"),
        ({"momentum": 0}, "Nesterov momentum requires a momentum"),
    ],
)
def test_settings_that_an_optimiser_refuses(settings, message):
    with pytest.raises(RecipeError, match=f"does not take these settings: .*{message}"):
        make_optimizer(nn.Linear(2, 2), OptimSettings(**settings))


def test_biases_and_norms_are_not_decayed():
    groups = make_optimizer(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), OptimSettings(weight_decay=0.5)).param_groups
    assert {group["weight_decay"]: sorted(p.ndim for p in group["params"]) for group in groups} == {0.0: [1, 1, 1], 0.5: [2]}


# ---- groups


TREE = from_nested({"animal": ["cat", "dog"], "vehicle": ["car", "truck"]})


def rates(**settings) -> dict[str, float]:
    """The learning rate of each parameter of a model with a head, as its schedule begins."""
    model = build_model("tiny_net", TREE, [HeadSpec(0, TREE.cut(depth=1), feed_forward=True)])
    optimizer = make_optimizer(model, OptimSettings(lr=0.1, **settings))
    scheduler = make_scheduler(optimizer, ScheduleSettings(name="constant"), 10, 4)
    scheduler.step_update(3)
    assert learning_rate(optimizer) == pytest.approx(0.1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == len(names) == sum(len(group["params"]) for group in optimizer.param_groups)
    return found


def test_every_parameter_has_the_one_learning_rate():
    assert set(rates().values()) == {0.1}
    assert set(rates(weight_decay=0).values()) == {0.1}


def test_heads_have_their_own_learning_rate():
    for name, rate in rates(head_lr=0.5).items():
        assert rate == pytest.approx(0.5 if name.startswith(("heads.", "feeds.")) else 0.1)


def test_layers_decay_from_the_classifier_down():
    found = rates(layer_decay=0.5, head_lr=0.2)
    stages = [{found[name] for name in found if name.startswith(f"backbone.stages.{i}.")} for i in (0, 1)]
    assert {found[name] for name in found if name.startswith("backbone.fc.")} == {0.1}
    assert [len(rates) for rates in stages] == [1, 1]
    assert max(stages[0]) == pytest.approx(0.5 * max(stages[1]))
    assert max(stages[1]) == pytest.approx(0.05)
    assert {found[name] for name in found if name.startswith("heads.")} == {0.2}


def test_warm_up_of_scaled_rates_is_scaled():
    model = build_model("tiny_net", TREE, [HeadSpec(0, TREE.cut(depth=1))])
    optimizer = make_optimizer(model, OptimSettings(lr=0.1, head_lr=1.0))
    scheduler = make_scheduler(optimizer, ScheduleSettings(warmup_epochs=2, warmup_lr=0.02), 10, 4)
    scheduler.step_update(0)
    assert sorted({round(group["lr"], 9) for group in optimizer.param_groups}) == [0.02, 0.2]


def test_what_the_backbone_exempts_is_not_decayed():
    model = build_model("vit_tiny_patch16_224", TREE)
    groups = make_optimizer(model, OptimSettings(weight_decay=0.1)).param_groups
    undecayed = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    assert id(model.backbone.pos_embed) in undecayed
    assert id(model.backbone.blocks[0].mlp.fc1.weight) not in undecayed


@pytest.mark.parametrize("option", [{"layer_decay": 0.5}, {"filter_bias_and_bn": False}])
def test_grouping_is_no_option_of_the_optimiser(option):
    with pytest.raises(RecipeError, match=f"optim.options: {next(iter(option))} cannot be set; optim.layer_decay and"):
        make_optimizer(nn.Linear(2, 2), OptimSettings(options=option))
