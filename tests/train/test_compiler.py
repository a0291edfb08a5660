"""A network that cannot be compiled, or is stopped meanwhile, is told in a sentence."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from train.tiny import tiny

from hiercnn import fit
from hiercnn.errors import Interrupted, TrainingError
from hiercnn.recipe import to_yaml

COMPILER = """#!/bin/sh
case "$*" in *-o*) mkdir "$ONCE" 2>/dev/null && kill -INT $(cat "$PARENT"); exit 1;; esac
exec g++ "$@"
"""


@pytest.fixture
def broken(monkeypatch):
    """Compilation that fails, after a signal if that is wanted."""

    def breaks(number: int | None = None) -> None:
        def fails(*_):
            from torch._dynamo.exc import TorchDynamoException

            if number is not None:
                signal.raise_signal(number)
            raise TorchDynamoException("No working C++ compiler found\nand more")

        monkeypatch.setattr("hiercnn.train._world.World.scores", fails)

    return breaks


def test_without_a_compiler(broken, tmp_path):
    broken()
    with pytest.raises(TrainingError, match=r"cannot be compiled here \(No working C\+\+ compiler found\); set train.compile=false"):
        fit(tiny("train.compile=true"), run_dir=tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_it_compiles(broken, tmp_path, number):
    broken(number)
    with pytest.raises(Interrupted, match="stopped in epoch 1, while the network was compiled; .* --resume") as caught:
        fit(tiny("train.compile=true"), run_dir=tmp_path)
    assert caught.value.signal == number


def test_other_errors_are_not_the_compilers(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr("hiercnn.train._world.World.scores", fails)
    for compiled in ("true", "false"):
        with pytest.raises(RuntimeError, match="something else"):
            fit(tiny(f"train.compile={compiled}"), run_dir=tmp_path / compiled)


@pytest.mark.slow
def test_ctrl_c_that_ends_the_compiler_too(tmp_path):
    compiler, parent, recipe = tmp_path / "compiler", tmp_path / "parent", tmp_path / "recipe.yaml"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    recipe.write_text(to_yaml(tiny("train.compile=true")))
    own = {"CXX": compiler, "PARENT": parent, "ONCE": tmp_path / "once", "TORCHINDUCTOR_CACHE_DIR": tmp_path / "cache"}
    main = "import train.tiny; from hiercnn.cli import main; main()"
    command = [sys.executable, "-c", main, "train", recipe, "--run-dir", tmp_path / "run"]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, **{name: str(value) for name, value in own.items()}}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    parent.write_text(str(process.pid))
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "stopped in epoch 1, while the network was compiled" in said
    assert "Traceback" not in said
