"""A full GPU and a dead reader are told in a sentence, with what to do; the last checkpoint stays."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from train.tiny import Spy, assert_same_run, child, hiercnn, tiny

from hiercnn import Run, fit
from hiercnn.errors import DataError, TrainingError
from hiercnn.recipe import to_yaml

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    return fit(tiny("epochs=2"), run_dir=tmp_path_factory.mktemp("undisturbed"))


def test_memory_that_is_full_at_once(tmp_path, monkeypatch):
    def fails(*_):
        raise FULL

    monkeypatch.setattr("hiercnn.train._task.FlatTask.forward", fails)
    with pytest.raises(TrainingError, match=r"the memory of cpu is full \(CUDA out of memory.*no checkpoint was saved yet") as error:
        fit(tiny("epochs=2"), run_dir=tmp_path)
    assert "Lower data.batch_size and raise train.accumulate" in str(error.value)


def test_memory_that_fills_up_later_leaves_the_checkpoint(undisturbed, tmp_path):
    def fails(epoch, batch):
        if (epoch, batch) == (2, 3):
            raise FULL

    with pytest.raises(TrainingError, match="state.pt is intact"):
        fit(tiny("epochs=2"), run_dir=tmp_path, display=Spy(fails))
    assert_same_run(fit(tiny("epochs=2"), run_dir=tmp_path, resume=True), undisturbed)


def test_a_reader_that_is_killed_while_the_state_is_saved(undisturbed, tmp_path, monkeypatch):
    sync, saves = os.fsync, []

    def fails(handle):
        saves.extend([1] * ("state.pt" in os.readlink(f"/proc/self/fd/{handle}")))
        if len(saves) == 2:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        return sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fails)
        with pytest.raises(DataError, match="a process that reads images has ended .*killed by signal"):
            fit(tiny("epochs=2"), run_dir=tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    assert_same_run(fit(tiny("epochs=2"), run_dir=tmp_path, resume=True), undisturbed)


@pytest.mark.long
def test_a_reader_that_is_killed(tmp_path):
    recipe = tiny("epochs=8", "data.workers=2", "data.augment.transforms=[{name: RandomGrayscale, p: 0.5}]", "data.image_size=16")
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    process = child(hiercnn, ["train", tmp_path / "recipe.yaml", "--run-dir", tmp_path / "run"], tmp_path / "log")
    children, metrics = Path(f"/proc/{process.pid}/task/{process.pid}/children"), tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 60
    while not metrics.exists() or '"epoch": 1,' not in metrics.read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(int(children.read_text().split()[-1]), signal.SIGKILL)
    process.join()
    log = (tmp_path / "log").read_text()
    assert process.exitcode == 2, log
    assert "a process that reads images has ended" in log
    assert "--resume goes on" in log
    assert 'hiercnn/cli/_app.py", line' not in log  # no traceback of ours; torch's other reader may leave one of its own
    assert_same_run(fit(recipe, run_dir=tmp_path / "run", resume=True), fit(recipe, run_dir=tmp_path / "whole"))
