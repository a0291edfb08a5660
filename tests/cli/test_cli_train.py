"""`hiercnn train` and its errors."""

import os
import re
import signal
import subprocess
import sys
from types import ModuleType

import pytest
from train.tiny import BRANCHES, Spy, tiny

from hiercnn import Run
from hiercnn.errors import RecipeError
from hiercnn.recipe import to_yaml


def test_train_prints_epochs_and_the_end(command, recipe_file, tmp_path):
    code, out, err = command("train", recipe_file(), "--run-dir", tmp_path / "run")
    assert (code, err) == (0, "")
    reading, title, first, second, accuracy, folder = out.splitlines()
    assert reading == "reading the data: synthetic"
    assert title == "flat: 2 epochs of 5 steps"
    assert first.startswith("epoch 1")
    assert second.startswith("epoch 2")
    leaf = 100 * Run(tmp_path / "run").end["test"]["accuracy"]["leaf"]
    assert re.match(rf"test accuracy: 3 groups \d+\.\d %, 9 groups \d+\.\d %, leaf {leaf:.1f} %  \(\d+ s\)", accuracy)
    assert folder == f"run folder: {tmp_path / 'run'}"


def test_default_run_folder(command, recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("train", recipe_file("name=mine"), "-q").code == 0
    assert Run(tmp_path / "runs" / "mine").finished


def test_quiet_prints_nothing(command, recipe_file, tmp_path):
    assert command("train", recipe_file(), "--quiet", "--run-dir", tmp_path / "run") == (0, "", "")


def test_overrides_reach_the_run(command, recipe_file, tmp_path):
    command("train", recipe_file(BRANCHES), "optim.lr=2e-3", "model.heads.1.weight=0.25", "epochs=1", "--run-dir", tmp_path / "run", "-q")
    recipe = Run(tmp_path / "run").recipe
    assert (recipe.optim.lr, recipe.epochs, recipe.model.heads[1].weight) == (0.002, 1, 0.25)


def test_dry_run_counts_the_coarse_labels(command, recipe_file):
    code, out, _ = command("train", recipe_file(), "--dry-run", "data.coarse_labels={cut: 9, fine: 2}")
    assert code == 0
    train = next(line for line in out.splitlines() if line.startswith("train: "))
    images, coarse = (int(number) for number in re.findall(r"\d+", train))
    assert train == f"train: {images} images, {coarse} of them labelled with a group"
    assert coarse == images - 36 * 2


def test_dry_run_trains_and_writes_nothing(command, recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = recipe_file(BRANCHES)
    code, out, _ = command("train", path, "--dry-run", "optim.lr=0.02", "--run-dir", tmp_path / "run")
    assert code == 0
    assert list(tmp_path.iterdir()) == [path]
    for text in ("  lr: 0.02", "classes: 36", "train: 180 images", "val: 36 images", "test: 108 images", "backbone: tiny_net, "):
        assert text in out
    assert "stages: 0: 16 channels, stride 2, 1: 48 channels, stride 4" in out
    assert "head stage0_3: stage 0, 3 groups, 83 parameters" in out  # norm 16 + 16, linear 3 x 16 + 3
    assert "\nreading the data: synthetic\n" in out
    assert out.endswith("dry run: nothing was trained or written\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.momentm=0.9"], "optim.momentm: unknown key; did you mean 'momentum'?"),
        (["model.heads=[{stage: 7, cut: 3}]"], "model.heads[0].stage: stage 7 does not exist; tiny_net has stages 0..1"),
        (["lr"], "override 'lr' should look like key.sub=value"),
        (["optim.name=adamv"], "timm has no optimiser 'adamv'; did you mean"),
        (["optim.momentum=0"], "Nesterov momentum requires a momentum"),
        (["train.device=cuda:99"], "train.device: cuda:99 is not there"),
        (["imports=[os]"], "if you trust it, add --trust-imports"),
    ],
)
def test_errors_are_one_message(command, recipe_file, tmp_path, arguments, message):
    code, out, err = command("train", recipe_file(), *arguments, "--run-dir", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.startswith("hiercnn: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_unknown_recipe_gets_a_suggestion(command):
    code, _, err = command("train", "quickstart/flet")
    assert code == 2
    assert "did you mean 'quickstart/flat'? (hiercnn recipes list)" in err


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_error_itself(command, recipe_file, before):
    arguments = ["train", recipe_file(), "optim.momentm=0.9"]
    with pytest.raises(RecipeError, match="momentm"):
        command(*(["--debug", *arguments] if before else [*arguments, "--debug"]))


def test_usage_errors_are_2_as_well(command):
    code, _, err = command("train")
    assert code == 2
    assert "Missing argument" in err


def test_help_names_the_commands(command):
    code, out, _ = command("--help")
    assert code == 0
    for name in ("train", "compare", "doctor", "hierarchy", "recipes"):
        assert name in out


def test_resume(command, recipe_file, tmp_path, monkeypatch):
    path, arguments = recipe_file(), ["--run-dir", tmp_path / "run"]
    monkeypatch.setattr("hiercnn.train._display.PlainDisplay", lambda: Spy(interrupt(1)))
    stopped = command("train", path, *arguments)
    assert stopped.code == 130
    assert stopped.err == f"hiercnn: stopped in epoch 1, after 2 of 5 batches; everything is saved in {tmp_path / 'run'}. " + (
        "Go on with the same command and --resume\n"
    )
    monkeypatch.undo()
    refused = command("train", path, *arguments)
    assert refused.code == 2
    assert "already holds a run that has done 0 of 2 epochs; add --resume" in refused.err
    assert command("train", path, *arguments, "--resume").code == 0
    again = command("train", path, *arguments, "--resume")
    assert again.code == 0
    assert again.out.startswith("test accuracy:")  # and no epoch before


def interrupt(times: int):
    """Press Ctrl-C so many times after the second batch."""

    def press(epoch, batch):
        if (epoch, batch) == (1, 2):
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return press


def test_second_ctrl_c(command, recipe_file, tmp_path, monkeypatch):
    monkeypatch.setattr("hiercnn.train._display.PlainDisplay", lambda: Spy(interrupt(2)))
    code, _, err = command("train", recipe_file(), "--run-dir", tmp_path / "run")
    assert (code, err) == (130, "hiercnn: stopped at once; nothing was saved since the last checkpoint\n")


# ---- in a process of their own --------------------------------------------------------------------------------------


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300, **options)


@pytest.mark.long
def test_python_m_hiercnn_with_a_traceback():
    ended = run("-m", "hiercnn", "recipes", "copy", "nothing", "--debug")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Traceback")
    assert "RecipeError: no shipped recipe 'nothing'" in ended.stderr


def test_stored_recipe_trains_the_same_run(command, tmp_path):
    (tmp_path / "first.yaml").write_text(to_yaml(tiny(BRANCHES)))
    command("train", tmp_path / "first.yaml", "--run-dir", tmp_path / "a", "-q")
    command("train", tmp_path / "a" / "recipe.yaml", "--run-dir", tmp_path / "b", "-q")
    assert Run(tmp_path / "a").metrics[-1]["val"] == Run(tmp_path / "b").metrics[-1]["val"]


def test_ctrl_c_before_the_commands_are_read(command, monkeypatch):
    def pressed(name: str):
        raise KeyboardInterrupt

    module = ModuleType("hiercnn.cli._app")
    module.__getattr__ = pressed
    monkeypatch.setitem(sys.modules, "hiercnn.cli._app", module)
    assert command("doctor") == (130, "", "hiercnn: stopped before it began\n")
    monkeypatch.setenv("RANK", "1")
    assert command("doctor") == (130, "", "")
