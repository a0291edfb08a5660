"""A flat run and its twin with heads share weights, batches and draws; what the heads do not touch is the same to the last bit."""

import pytest
import torch
from train.tiny import BRANCHES, tiny

from hiercnn import fit
from hiercnn.data import make_loader
from hiercnn.recipe import build_data, build_hierarchy, build_recipe_model, build_source

DROPOUT = "model.options={drop_rate: 0.5}"


def leaf_only(run) -> list[dict]:
    """Every epoch without the clock and what belongs to the heads and the sum of losses."""
    splits = ("val", "train_subset")
    return [
        {"lr": event["lr"], "train": event["train"]["cross_entropy"]}
        | {split: {key: value for key, value in event[split].items() if key != "heads"} for split in splits}
        for event in run.metrics
    ]


def build(recipe):
    data = build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))
    return data, build_recipe_model(recipe, data.hierarchy, data.channels)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return fit(tiny(DROPOUT), run_dir=tmp_path_factory.mktemp("flat"))


def test_twins_start_from_the_same_backbone():
    _, flat = build(tiny())
    _, branches = build(tiny(BRANCHES))
    _, other_seed = build(tiny("seed=1"))
    weights = branches.backbone.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in flat.backbone.state_dict().items())
    assert not torch.equal(flat.backbone.fc.weight, other_seed.backbone.fc.weight)


def test_twins_see_the_same_batches():
    loaders = []
    for recipe in (tiny(), tiny(BRANCHES), tiny("seed=1")):
        data, _ = build(recipe)
        loaders.append(make_loader(data.train, recipe.data, train=True, channels=data.channels, seed=recipe.seed))
    flat, branches, other_seed = ([batch.images for batch in loader.epoch(1)] for loader in loaders)
    assert all(torch.equal(a, b) for a, b in zip(flat, branches, strict=True))
    assert not torch.equal(flat[0], other_seed[0])


@pytest.mark.parametrize(
    "heads",
    [
        "[{stage: 0, cut: 3, weight: 0}, {stage: 1, cut: 9, weight: 0}]",
        "[{stage: 0, cut: 3, stop_gradient: true}, {stage: 1, cut: 9, stop_gradient: true}]",
        "[{stage: 1, cut: 9, conv_blocks: 1, stop_gradient: true}]",
    ],
    ids=["weight 0", "stop_gradient", "conv head"],
)
def test_heads_that_cannot_act_change_nothing(flat, heads, tmp_path):
    run = fit(tiny(DROPOUT, f"model.heads={heads}"), run_dir=tmp_path)
    assert leaf_only(run) == leaf_only(flat)
    weights = run.model.backbone.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in flat.model.backbone.state_dict().items())


def test_heads_with_a_weight_act(flat, tmp_path):
    run = fit(tiny(DROPOUT, BRANCHES), run_dir=tmp_path)
    assert leaf_only(run) != leaf_only(flat)


def test_dropout_is_on(flat, tmp_path):
    assert leaf_only(fit(tiny(), run_dir=tmp_path)) != leaf_only(flat)


def test_same_seed_same_run(flat, tmp_path):
    again = fit(tiny(DROPOUT), run_dir=tmp_path / "again")
    other = fit(tiny(DROPOUT, "seed=1"), run_dir=tmp_path / "other")
    assert leaf_only(again) == leaf_only(flat)
    assert leaf_only(other) != leaf_only(flat)


@pytest.mark.parametrize("setting", ["optim.clip_norm=0.1", "train.ema=0.9", "train.accumulate=2", "data.augment={resized_crop: [0.5, 1]}"])
def test_settings_keep_twins_paired(setting, tmp_path):
    options = (DROPOUT, setting, "data.image_size=16")
    alone = fit(tiny(*options), run_dir=tmp_path / "flat")
    beside = fit(tiny(*options, "model.heads=[{stage: 1, cut: 9, stop_gradient: true}]"), run_dir=tmp_path / "heads")
    assert leaf_only(alone) == leaf_only(beside)
