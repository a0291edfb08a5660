"""Validation: all problems at once, each with its path and a suggestion; the resolved recipe is complete."""

import sys

import pytest
import yaml

from hiercnn.data import data_sets
from hiercnn.errors import RecipeError
from hiercnn.losses import CrossEntropy, losses
from hiercnn.recipe import Recipe, build_task, load_recipe, report_cuts, to_yaml
from hiercnn.recipe._build import build_hierarchy

GOOD = {
    "hierarchy": {"builtin": "synthetic", "cuts": [3, 9]},
    "data": {"name": "synthetic"},
    "model": {"backbone": "resnet_small", "heads": [{"stage": "early", "cut": 3}]},
}


def problems(raw) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(raw)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_the_resolved_recipe_is_complete_and_reads_back_as_itself():
    recipe = load_recipe(GOOD)
    plain = yaml.safe_load(to_yaml(recipe))
    assert plain["data"]["render_size"] == 32
    assert plain["loss"]["label_smoothing"] == 0.0
    assert plain["model"]["heads"][0]["conv_blocks"] == 0
    assert "inner_labels" not in plain["loss"]
    assert load_recipe(plain) == recipe


def test_all_problems_come_together_with_paths_and_suggestions():
    raw = GOOD | {
        "optim": {"momentm": 0.9, "lr": -1},
        "schedule": {"name": "cosin"},
        "loss": {"label_smoothin": 0.1},
        "data": {"name": "synthetic", "rendr_size": 16, "batch_size": 0},
        "model": {"backbone": "resnet_small", "heads": [{"stage": 7, "cut": 3, "wieght": 1}, {"cut": 1, "stage": "early"}]},
    }
    assert set(problems(raw)) == {
        "optim.momentm: unknown key; did you mean 'momentum'?",
        "optim.lr: should be greater than 0 (got -1)",
        "schedule.name: should be 'constant', 'cosine', 'step', 'multistep', 'poly' or 'tanh' (got 'cosin')",
        "loss.label_smoothin: unknown key; did you mean 'label_smoothing'?",
        "data.rendr_size: unknown key; did you mean 'render_size'?",
        "data.batch_size: should be greater than or equal to 1 (got 0)",
        "model.heads[0].wieght: unknown key; did you mean 'weight'?",
        "model.heads[0].stage: stage 7 does not exist; resnet_small has stages 0..3",
        "model.heads[1].cut: has one group, so the head would have nothing to learn; cut lower",
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data": {"name": "cifar"}}, "data.name: unknown data set 'cifar'; did you mean 'cifar10'"),
        ({"loss": {"name": "cross_entrpy"}}, "loss.name: unknown loss 'cross_entrpy'; did you mean 'cross_entropy'"),
        ({"model": {"backbone": "resnet81"}}, "model.backbone: unknown backbone 'resnet81'; did you mean 'resnet18'?"),
        (
            {"model": {"backbone": "resnet18", "heads": [{"stage": 1, "cut": 3, "type": "pol"}]}},
            "model.heads[0].type: unknown head 'pol'; did you",
        ),
        ({"hierarchy": {"builtin": "cifar"}}, "hierarchy: no built-in hierarchy 'cifar'"),
        ({"hierarchy": {"builtin": "synthetic", "file": "x.csv"}}, "hierarchy: give exactly one of"),
        ({"hierarchy": {"builtin": "synthetic", "cuts": [9, 3]}}, "hierarchy.cuts: cut '3 groups' does not refine '9 groups'"),
        ({"hierarchy": None}, "model.heads[0].cut: needs a hierarchy: section to cut"),
        ({"loss": {"weight": {"steps": {0: 1, 5: 0}}}}, "loss.weight: ends at 0; the last phase must train the leaf"),
        ({"epochs": "many"}, "epochs: should be a valid integer"),
        ({"train": {"precision": "fp8"}}, "train.precision: should be 'auto', 'bfloat16' or 'float32' (got 'fp8')"),
        ({"train": {"device": "gpu"}}, "train.device: "),
        ({"data": {"name": "synthetic", "val": 1.5}}, "data.val: should be a share between 0 and 1"),
        ({"optim": {"lr": float("nan")}}, "optim.lr: should be a finite number"),
        ({"optim": {"name": "sgdd"}}, "optim: timm has no optimiser 'sgdd'; did you mean 'sgd"),
        ({"optim": {"options": {"no_such": 1}}}, "optim: sgd does not take these settings"),
        ({"schedule": {"options": {"no_such": 1}}}, "schedule: timm's cosine schedule does not take these options"),
        (
            {"data": {"name": "synthetic", "augment": {"transforms": [{"name": "RandAugmnt"}]}}},
            "data.augment.transforms[0]: no transform 'RandAugmnt'",
        ),
        ({"epochs": 4, "loss": {"weight": {"linear": {"start": 1, "end": 0, "epochs": 3}}}}, "loss.weight: ends at 0"),
        ({"loss": {"label_smoothing": 1.5}}, "loss.label_smoothing: should be less than 1 (got 1.5)"),
        (
            {"model": {"backbone": "resnet_small", "heads": [{"stage": 1, "cut": {"depth": 9}}]}},
            "model.heads[0].cut: is as fine as the leaves (the tree has height 3); write cut: leaf",
        ),
        (
            {"model": {"backbone": "resnet_small", "heads": [{"stage": 1, "cut": "leaf", "random": True}]}},
            "model.heads[0].random: needs groups to shuffle",
        ),
        ({"model": {"backbone": "resnet18", "options": {"pretrained": True}}}, "model.backbone: options: pretrained cannot be set"),
        (
            {"data": {"name": "synthetic", "augment": {"transforms": [{"name": "Normalize", "mean": [0.5], "std": [0.5]}]}}},
            "data.augment.transforms[0]: Normalize does not work on a single uint8 image",
        ),
        (
            {"data": {"name": "synthetic", "augment": {"transforms": [{"name": "MixUp", "num_classes": 36}]}}},
            "data.augment.transforms[0]: MixUp does not work on a single uint8 image",
        ),
        ({"seed": 10**20}, "seed: should be less than"),
        ({"loss": {"name": "level_nll", "levels": [{"cut": 50}]}}, "loss: groups=50: the tree has 36"),
        ({"loss": {"name": "level_nll", "levels": [{"cut": 1}]}}, "loss: levels: the cut '1 groups' has one group"),
        ({"loss": {"name": "level_nll", "levels": []}}, "loss: levels: needs at least one level"),
        ({"loss": {"name": "level_nll", "levels": [{"cut": 9, "random": -1}]}}, "loss.levels[0].random: should be "),
        (
            {"model": {"backbone": "resnet_small", "heads": [{"stage": 1, "cut": 3, "random": -1}]}},
            "model.heads[0].random: should be ",
        ),
        (
            {"data": {"name": "synthetic", "label_noise": {"share": 0.2, "kind": "near", "cut": 50}}},
            "data.label_noise.cut: groups=50: the tree has 36",
        ),
        ({"data": {"name": "synthetic", "coarse_labels": {"fine": 2, "cut": 1}}}, "data.coarse_labels.cut: needs groups above the leaves"),
        ({"epochs": 3, "checkpoints": {"average": 4}}, "checkpoints.average: wants 4 epochs, and there are 3"),
        ({"eval": {"test_weights": "average"}}, "eval.test_weights: average needs checkpoints.average"),
        ({"data": {"name": "synthetic", "augment": {"mix": {"prob": 0.5}}}}, "data.augment.mix: give mixup or cutmix a number above 0"),
        (
            {"data": {"name": "synthetic", "batch_size": 1, "augment": {"mix": {"mixup": 1}}}},
            "data.augment.mix: needs batches of at least two images",
        ),
        (
            {
                "loss": {"name": "conditional_nll", "logit_adjustment": 1},
                "model": {"backbone": "resnet_small", "classifier": "conditional"},
            },
            "loss.logit_adjustment: is for losses of leaf logits; conditional_nll scores nodes",
        ),
        ({"train": {"freeze": "erly"}}, "train.freeze: unknown stage 'erly'; did you mean 'early'"),
        ({"optim": {"layer_decay": 1.5}}, "optim.layer_decay: should be less than or equal to 1"),
        ({"nmae": "x"}, "nmae: unknown key; did you mean 'name'?"),
        ({"name": "../up"}, "name: "),
    ],
)
def test_each_mistake_has_its_message(change, expected):
    listed = problems(GOOD | change)
    assert len(listed) == 1
    assert listed[0].startswith(expected)


def test_missing_sections_are_named():
    assert problems({"epochs": 3}) == ["data: is missing", "model: is missing"]


def test_a_weight_that_is_zero_only_after_the_end_is_fine():
    assert load_recipe(GOOD | {"epochs": 4, "loss": {"weight": {"linear": {"start": 1, "end": 0, "epochs": 4}}}}).epochs == 4


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ("a", "model.heads[0].weight: should be a number from 0 on, {linear: {start, end, epochs}} or {steps: {epoch: value}} (got 'a')"),
        ({"linear": {"start": 1, "end": 0}}, "model.heads[0].weight.linear.epochs: is missing"),
        ({"steps": {1: 1}}, "model.heads[0].weight.steps: needs a value from epoch 0 on"),
    ],
)
def test_weights_say_what_they_may_be(weight, expected):
    assert problems(GOOD | {"model": {"backbone": "resnet_small", "heads": [{"stage": 1, "cut": 3, "weight": weight}]}}) == [expected]


def test_optimisers_and_schedules_take_text_numbers(tmp_path):
    (tmp_path / "r.yaml").write_text("data: {name: synthetic}\nmodel: {backbone: resnet_small}\noptim: {lr: 2e-5}\n")
    assert load_recipe(tmp_path / "r.yaml").optim.lr == 2e-5


def test_imports_need_trust_and_register_new_things(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(
        "from hiercnn.losses import CrossEntropy, losses\n"
        "@losses.register('scaled_for_test')\n"
        "class Scaled(CrossEntropy):\n"
        "    def __init__(self, hierarchy, *, scale: float = 2.0):\n"
        "        super().__init__(hierarchy)\n"
        "        self.scale = scale\n"
    )
    monkeypatch.chdir(tmp_path)
    raw = GOOD | {"imports": ["my_losses"], "loss": {"name": "scaled_for_test", "scale": 3}}
    before = list(sys.path)
    with pytest.raises(RecipeError, match="imports code: my_losses.*--trust-imports"):
        load_recipe(raw)
    assert "my_losses" not in sys.modules
    assert load_recipe(raw, trust_imports=True).plain()["loss"] == {
        "name": "scaled_for_test",
        "weight": 1.0,
        "logit_adjustment": 0.0,
        "scale": 3.0,
    }
    assert sys.path == before
    with pytest.raises(RecipeError, match="cannot import 'no_such_module'"):
        load_recipe(GOOD | {"imports": ["no_such_module"]}, trust_imports=True)


def test_options_of_registered_factories_do_not_collide_with_common_keys():
    common = set(Recipe.model_fields["data"].annotation.model_fields)
    assert {name: common & set(data_sets.options(name)) for name in data_sets} == {name: set() for name in data_sets}


def test_default_cuts_are_the_depths_between_root_and_leaves():
    recipe = load_recipe(GOOD | {"hierarchy": {"builtin": "imagenet1k"}, "model": {"backbone": "resnet_small"}})
    cuts = report_cuts(recipe, build_hierarchy(recipe.hierarchy))
    assert len(cuts) == 3
    assert [len(cut) for cut in cuts] == sorted(len(cut) for cut in cuts)


def test_a_loss_that_knows_no_inner_labels_refuses_data_that_have_them():
    class Data:
        inner_labels = True
        hierarchy = build_hierarchy(load_recipe(GOOD).hierarchy)

    class Flat:
        specs: dict = {}

    @losses.register("leaf_only_for_test")
    class LeafOnly(CrossEntropy):
        def __init__(self, hierarchy):
            super().__init__(hierarchy)

    recipe = load_recipe(GOOD | {"loss": {"name": "leaf_only_for_test"}})
    with pytest.raises(RecipeError, match="'leaf_only_for_test' cannot use labels that are groups"):
        build_task(recipe, Data, Flat)
    assert build_task(load_recipe(GOOD), Data, Flat).loss.inner_labels
