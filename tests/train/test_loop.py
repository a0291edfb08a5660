"""The loop itself: what stops it, how gradients are gathered, what is evaluated, what it leaves behind."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from train.tiny import BRANCHES, Spy, tiny

import hiercnn.losses
from hiercnn import fit
from hiercnn.errors import DataError, RecipeError, TrainingError
from hiercnn.hierarchy import builtin
from hiercnn.models import HeadSpec, HierarchicalModel, build_model, checkpoint_gradients, create_backbone, exact_scores
from hiercnn.recipe import Run, build_data, build_hierarchy, build_source, build_trainer
from hiercnn.train import RunFolder, load_weights


class NanAt(nn.Module):
    """Cross-entropy whose k-th call (from 1) is NaN."""

    def __init__(self, hierarchy, *, k: int = 0):
        super().__init__()
        self.k, self.calls = k, 0

    def forward(self, logits, labels):
        self.calls += 1
        loss = nn.functional.cross_entropy(logits.float(), labels)
        return {"loss": loss * torch.nan if self.calls == self.k else loss}


@pytest.fixture
def nan_loss(monkeypatch):
    monkeypatch.setitem(hiercnn.losses.losses._factories, "nan_at", NanAt)


def test_nan_loss_names_batch_images_and_checkpoint(nan_loss, tmp_path):
    with pytest.raises(TrainingError) as caught:
        fit(tiny("loss={name: nan_at, k: 8}"), run_dir=tmp_path)
    text = str(caught.value)
    assert "loss is nan at batch 8 (epoch 2, batch 3)" in text
    assert f"last good checkpoint: {tmp_path / 'checkpoints' / 'state.pt'}, after epoch 1" in text
    assert "'train/" in text
    assert "32 in all" in text
    assert len(RunFolder(tmp_path).events[-1]["ids"]) == 32
    assert fit(tiny("loss={name: nan_at, k: 8}"), run_dir=tmp_path, resume=True).finished  # the new process counts its calls from 1


def test_nan_loss_names_the_very_images(nan_loss, tmp_path):
    batches = []
    own = tiny("loss={name: nan_at, k: 2}", "data.batch_size=12")
    with pytest.raises(TrainingError) as caught:
        fit(own, run_dir=tmp_path / "nan")
    from hiercnn.data import make_loader
    from hiercnn.recipe import build_data, build_hierarchy, build_source

    data = build_data(own, build_source(own), build_hierarchy(own.hierarchy))
    loader = make_loader(data.train, own.data, train=True, channels=3, seed=own.seed)
    batches = list(loader.epoch(0))
    assert ", ".join(f"'{name}'" for name in loader.ids(batches[1].indices)) in str(caught.value)


def test_nan_before_the_first_checkpoint(nan_loss, tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint was saved yet"):
        fit(tiny("loss={name: nan_at, k: 1}"), run_dir=tmp_path)


def test_diverging_run_stops(tmp_path):
    with pytest.raises(TrainingError, match=r"lower optim\.lr"):
        fit(tiny("optim.lr=1e30"), run_dir=tmp_path)


def test_last_update_that_breaks_the_weights_is_noticed(tmp_path):
    with pytest.raises(TrainingError, match="the loss on val is nan after epoch 1; no checkpoint was saved yet"):
        fit(tiny("optim.lr=1e30", "train.accumulate=5", "epochs=1"), run_dir=tmp_path)  # a single update
    assert not (tmp_path / "checkpoints" / "last.safetensors").exists()


class Plain(nn.Module):
    """A net without batch norm, whose gradient is a plain mean over images."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, 36)

    def forward(self, images):
        return self.fc(images.flatten(1))


def _plain_weights(path, *overrides):
    torch.manual_seed(0)
    model = Plain()
    fit(tiny("schedule.name=constant", "data.augment.crop=0", *overrides), run_dir=path, model=model)
    return model.fc.weight.detach()


def test_accumulating_two_half_batches_is_one_batch(tmp_path):
    whole = _plain_weights(tmp_path / "whole", "data.batch_size=30", "epochs=1")
    halves = _plain_weights(tmp_path / "halves", "data.batch_size=15", "train.accumulate=2", "epochs=1")
    once = _plain_weights(tmp_path / "once", "data.batch_size=15", "epochs=1")
    torch.testing.assert_close(halves, whole, rtol=0, atol=1e-6)
    assert (once - whole).abs().max() > 1e-3


def test_last_update_averages_the_batches_that_are_left(tmp_path):
    """Five batches gathered in tens are one update of all five."""
    five = _plain_weights(tmp_path / "five", "train.accumulate=5", "epochs=1")
    ten = _plain_weights(tmp_path / "ten", "train.accumulate=10", "epochs=1")
    assert torch.equal(ten, five)


def test_clip_norm_bounds_a_step(tmp_path):
    plain_sgd = (
        "optim.name=momentum",
        "optim.momentum=0",
        "optim.weight_decay=0",
        "optim.lr=1",
        "epochs=1",
        "train.accumulate=5",
    )  # a single update
    torch.manual_seed(0)
    before = Plain()
    after = _plain_weights(tmp_path / "clipped", *plain_sgd, "optim.clip_norm=0.01")
    free = _plain_weights(tmp_path / "free", *plain_sgd)
    step = (after - before.fc.weight).norm().item()
    assert 0.009 < step <= 0.0101
    assert (free - before.fc.weight).norm() > 0.1


def test_averaged_weights_are_evaluated_and_kept(tmp_path):
    run = fit(tiny("train.ema=0.9", "eval.train_subset=36"), run_dir=tmp_path)
    state = torch.load(run.checkpoints / "state.pt", weights_only=True)
    kept = run.model.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in state["ema"].items())
    assert not torch.equal(state["ema"]["backbone.fc.weight"], state["model"]["backbone.fc.weight"])


def test_ema_changes_what_is_measured_but_not_the_training(tmp_path):
    plain, averaged = fit(tiny(), run_dir=tmp_path / "plain"), fit(tiny("train.ema=0.9"), run_dir=tmp_path / "ema")
    assert plain.metrics[0]["train"] == averaged.metrics[0]["train"]
    assert plain.metrics[-1]["val"]["nll"] != averaged.metrics[-1]["val"]["nll"]


def test_best_weights_can_be_tested(tmp_path):
    run = fit(tiny("eval.test_weights=best", "optim.lr=3", "epochs=3"), run_dir=tmp_path)
    best = load_weights(run.checkpoints / "best.safetensors", run.model, run.hierarchy)
    assert best["epoch"] == run.end["best_epoch"]
    accuracies = [event["val"]["accuracy"]["leaf"] for event in run.metrics]
    assert run.end["best_val"] == max(accuracies)
    assert run.end["best_epoch"] == 1 + int(np.argmax(accuracies))


def test_averaged_epochs_are_the_mean_of_their_weights(tmp_path):
    kept = fit(tiny("checkpoints.keep=log", "epochs=3"), run_dir=tmp_path / "kept")
    run = fit(tiny("checkpoints.average=2", "eval.test_weights=average", "epochs=3"), run_dir=tmp_path / "run")
    assert_same_weights(run, kept)
    two, three = (kept.load_model(f"step-{step:08d}").state_dict() for step in (10, 15))
    for name, tensor in run.load_model("average").state_dict().items():
        torch.testing.assert_close(tensor, ((two[name].double() + three[name].double()) / 2).to(tensor.dtype), msg=name)
    assert run.end["average_val"]["nll"] != run.end["val"]["nll"]
    assert run.end["test"]["nll"] != kept.end["test"]["nll"]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        *("average.safetensors", "best.safetensors", "last.safetensors", "state.pt")
    ]


def test_an_average_leaves_the_test_of_the_last_weights_alone(tmp_path):
    plain, run = (fit(tiny(*more), run_dir=tmp_path / str(len(more))) for more in ((), ("checkpoints.average=2",)))
    assert run.end["test"] == plain.end["test"]
    assert_same_weights(run, plain)


def assert_same_weights(run, other) -> None:
    """The last ones."""
    one, two = (each.model.state_dict() for each in (run, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("heads", [False, True])
def test_recomputed_activations_give_the_same_gradients_in_less_memory(heads):
    tree = builtin("synthetic")
    images, kept, grads, statistics = torch.randn(4, 3, 64, 64), {}, {}, {}
    for again in (False, True):
        model = build_model("resnet18", tree, [HeadSpec("early", tree.cut(groups=3))] if heads else [])
        if again:
            checkpoint_gradients(model.backbone)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t.nbytes) or t, lambda t: t):
            output = model(images)
        (output.leaf.square().sum() + sum(head.square().sum() for head in output.heads.values())).backward()
        kept[again], grads[again] = sum(saved), [p.grad for p in model.parameters()]
        statistics[again] = [buffer.clone() for buffer in model.buffers()]
    for one, other in zip(statistics[False], statistics[True], strict=True):  # a batch is seen once
        assert torch.equal(one, other)
    assert kept[True] < 0.6 * kept[False]
    for one, other in zip(grads[False], grads[True], strict=True):
        torch.testing.assert_close(one, other)


def test_recomputing_is_switched_on_by_the_recipe(tmp_path):
    with pytest.raises(RecipeError, match="cannot recompute its activations; leave out train.grad_checkpointing"):
        fit(tiny("train.grad_checkpointing=true"), run_dir=tmp_path / "plain", model=Plain())
    recipe = tiny("train.grad_checkpointing=true")
    data = build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))
    model = create_backbone("resnet18", 36)
    build_trainer(recipe, data, Run(tmp_path / "run"), model)
    assert model.grad_checkpointing


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_mixed_images_teach_leaf_and_heads(tmp_path, mode):
    mixed = fit(tiny(BRANCHES, f"data.augment.mix={{mixup: 1, cutmix: 1, mode: {mode}}}"), run_dir=tmp_path / "mixed")
    plain = fit(tiny(BRANCHES), run_dir=tmp_path / "plain")
    for term in ("cross_entropy", "head/stage0_3", "head/stage1_9"):
        assert mixed.metrics[-1]["train"][term] > plain.metrics[-1]["train"][term]
    assert mixed.metrics[-1]["val"]["images"] == plain.metrics[-1]["val"]["images"]


def test_evaluates_every_second_epoch_and_the_last(tmp_path):
    run = fit(tiny("eval.every=2", "epochs=3"), run_dir=tmp_path)
    assert [event["epoch"] for event in run.metrics] == [2, 3]


def test_test_split_can_be_left_alone(tmp_path):
    run = fit(tiny("eval.test=false", "eval.predictions=false"), run_dir=tmp_path)
    assert "test" not in run.end
    assert not list(run.predictions.iterdir())


def test_training_leaves_the_global_generator_alone(tmp_path):
    recipe = tiny("model.options={drop_rate: 0.5}", BRANCHES)
    before = torch.get_rng_state()
    fit(recipe, run_dir=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_a_recipe_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    tiny()
    assert torch.equal(torch.get_rng_state(), before)


def test_an_exception_leaves_the_global_generator_alone(tmp_path):
    def fail(epoch, batch):
        raise ZeroDivisionError

    recipe = tiny("model.options={drop_rate: 0.5}")
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        fit(recipe, run_dir=tmp_path, display=Spy(fail))
    assert torch.equal(torch.get_rng_state(), before)


def test_model_of_other_class_order_is_refused(tmp_path):
    tree = builtin("synthetic")
    turned = tree.with_classes(tuple(reversed(tree.classes)))
    with pytest.raises(DataError, match="number the classes differently, first at"):
        fit(tiny(), model=build_model("tiny_net", turned), run_dir=tmp_path)


def test_cuda_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match=r"train\.device: cuda:99 is not there"):
        fit(tiny("train.device=cuda:99"), run_dir=tmp_path)


def test_bfloat16_trains(tmp_path):
    run = fit(tiny("train.precision=bfloat16", BRANCHES), run_dir=tmp_path)
    assert json.loads((run.path / "environment.json").read_text())["precision"] == "bfloat16"
    assert run.finished


def test_own_model_keeps_the_backbones_interface(tmp_path):
    run = fit(tiny(), model=Plain(), run_dir=tmp_path)
    assert isinstance(run.model, HierarchicalModel)
    assert run.finished


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler warns of its own inner workings
def test_compiled_run_learns_the_same(tmp_path):
    plain = fit(tiny(BRANCHES), run_dir=tmp_path / "plain")
    compiled = fit(tiny(BRANCHES, "train.compile=true"), run_dir=tmp_path / "compiled")
    losses = [[event["train"]["loss"] for event in run.metrics] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_evaluated_scores_are_not_rounded_to_bfloat16(tmp_path):
    run = fit(tiny("epochs=1", "train.precision=bfloat16", "eval.predictions=false"), run_dir=tmp_path / "run")
    model, images = run.model, torch.randn(200, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = model(images).leaf
        with exact_scores(model):
            exact = model(images).leaf
    assert (rounded.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(exact, rounded.float(), rtol=0.02, atol=0.02)
    assert (exact != exact.bfloat16().float()).float().mean() > 0.9
    assert not model.backbone.get_classifier()._forward_hooks
