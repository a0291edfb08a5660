"""Tiny runs for the tests of train, compare and cli: a narrow net on a few small drawings, and child processes that train it."""

import multiprocessing
import os
import sys
from functools import partial
from pathlib import Path

from timm.layers import ConvNormAct, GroupNormAct
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from hiercnn.models._plain import SmallNet, _conv
from hiercnn.recipe import Recipe, load_recipe
from hiercnn.train import QuietDisplay

BRANCHES = "model.heads=[{stage: 0, cut: 3, weight: 0.5}, {stage: 1, cut: 9, weight: 0.5}]"
MEASURED = ("seconds", "peak_memory_mib")  # what two runs of one recipe may differ in
BATCHES = 5  # batches of an epoch

CHILDREN = multiprocessing.get_context("forkserver")  # its children need not import torch again
CHILDREN.set_forkserver_preload(
    ["hiercnn.recipe", "hiercnn.cli._app", "hiercnn.models._plain", "timm.optim", "timm.scheduler", "timm.utils"]
)


def _stages(in_chans: int):
    return [[_conv(in_chans, 16, stride=2)], [_conv(16, 48, stride=2)]]


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {"input_size": (3, 16, 16), "first_conv": "stages.0.0.conv", "classifier": "fc"}
        for name in ("tiny_net", "group_norm_net")
    }
)


@register_model
def tiny_net(pretrained: bool = False, **options):
    """Two convolutions with batch norm; about 9 thousand parameters."""
    return build_model_with_cfg(SmallNet, "tiny_net", pretrained, build_stages=_stages, reductions=(2, 4), **options)


@register_model
def group_norm_net(pretrained: bool = False, **options):
    """The same with group norm, whose scores of an image depend on no other image."""
    return build_model_with_cfg(SmallNet, "group_norm_net", pretrained, build_stages=_grouped_stages, reductions=(2, 4), **options)


def _grouped_stages(in_chans: int):
    norm = partial(GroupNormAct, num_groups=4)
    return [[ConvNormAct(chans, out, 3, stride=2, norm_layer=norm)] for chans, out in ((in_chans, 16), (16, 48))]


def tiny(*overrides: str) -> Recipe:
    """A flat recipe of 2 epochs with 5 batches of 32 images each."""
    raw = {
        "name": "flat",
        "epochs": 2,
        "hierarchy": {"builtin": "synthetic", "cuts": [3, 9]},
        "data": {
            "name": "synthetic",
            "render_train": 6,
            "render_test": 3,
            "render_size": 16,
            "val": 1,
            "batch_size": 32,
            "augment": {"crop": 2},
        },
        "model": {"backbone": "tiny_net"},
        "optim": {"lr": 0.05},
        "train": {"device": "cpu", "precision": "float32"},
        "logging": {"display": "quiet"},
    }
    return load_recipe(raw, overrides)


def events(run) -> list[dict]:
    """The events of a run without what was measured with a clock."""
    return [{key: value for key, value in event.items() if key not in MEASURED} for event in run.events]


def assert_same_run(run, other) -> None:
    """Equal events, and last weights equal byte for byte."""
    assert events(run) == events(other)
    last = [(one.checkpoints / "last.safetensors").read_bytes() for one in (run, other)]
    assert last[0] == last[1]


class Spy(QuietDisplay):
    """Calls `action(epoch, batch)` after each batch's loss; epochs and batches are counted from 1."""

    def __init__(self, action):
        self.action = action

    def begin(self, title, columns, epochs, steps, start=0):
        self.at = start + 1

    def step(self, done, loss):
        self.action(self.at, done)

    def epoch(self, row):
        self.at += 1


def child(target, *arguments) -> multiprocessing.Process:
    """Start a function in another process."""
    process = CHILDREN.Process(target=target, args=arguments)
    process.start()
    return process


def hiercnn(arguments: list[str], log: Path) -> None:
    """For `child`: the command line, with what it prints written to a file."""
    from hiercnn.cli import main

    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["hiercnn", *map(str, arguments)]
    main()
