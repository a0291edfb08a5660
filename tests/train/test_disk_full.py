"""A disk that fills up while a checkpoint is written: the one before stays whole, and the run can go on from it."""

import errno
import os
import resource

import pytest
from train.tiny import Spy, assert_same_run, child, tiny

from hiercnn import Run, fit
from hiercnn.errors import CheckpointError

LIMIT = 16_000  # bytes a file may have once the disk is "full"; less than the weights of tiny_net
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    return fit(tiny("epochs=3"), run_dir=tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("name", ["last.safetensors", "state.pt"])
@pytest.mark.parametrize("where", ["os.fsync", "os.replace"])
def test_second_save_fails(undisturbed, tmp_path, monkeypatch, name, where):
    target, before = tmp_path / "checkpoints" / name, {}

    def fails(*arguments):
        about = str(arguments[0]) if where == "os.replace" else os.readlink(f"/proc/self/fd/{arguments[0]}")
        if name in about and before:
            raise FULL
        return original(*arguments)

    def remember(epoch, batch):
        if epoch == 2:
            before["content"] = target.read_bytes()

    original = getattr(os, where.split(".")[1])
    with monkeypatch.context() as patch:
        patch.setattr(where, fails)
        with pytest.raises(CheckpointError, match="cannot write .*No space left on device; the file of before is intact.*--resume"):
            fit(tiny("epochs=3"), run_dir=tmp_path, display=Spy(remember))
    assert target.read_bytes() == before["content"]
    assert not list(tmp_path.rglob("*.tmp"))
    assert_same_run(fit(tiny("epochs=3"), run_dir=tmp_path, resume=True), undisturbed)


def test_torch_save_fails(undisturbed, tmp_path, monkeypatch):
    import torch

    save, calls = torch.save, []

    def fails(state, path):
        calls.append(path)
        save(state, path)
        if len(calls) == 2:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", fails)
        with pytest.raises(CheckpointError, match=r"cannot write .*state\.pt: .*file write failed; the file of before is intact"):
            fit(tiny("epochs=3"), run_dir=tmp_path)
    assert_same_run(fit(tiny("epochs=3"), run_dir=tmp_path, resume=True), undisturbed)


def test_log_fails(undisturbed, tmp_path, monkeypatch):
    original = os.fsync

    def fails(handle):
        if "metrics.jsonl" in os.readlink(f"/proc/self/fd/{handle}") and len(Run(tmp_path).metrics) == 2:
            raise FULL
        return original(handle)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fails)
        with pytest.raises(CheckpointError, match=r"cannot write .*metrics\.jsonl: No space left on device; the last checkpoint is intact"):
            fit(tiny("epochs=3"), run_dir=tmp_path)
    assert_same_run(fit(tiny("epochs=3"), run_dir=tmp_path, resume=True), undisturbed)


def train_with_a_limit(path, log) -> None:
    """For `child`: from the second epoch on, no file may grow beyond LIMIT."""

    def limit(epoch, batch):
        if epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))

    try:
        fit(tiny("epochs=3"), run_dir=path, display=Spy(limit))
    except CheckpointError as error:
        log.write_text(str(error))


def test_writing_really_fails(undisturbed, tmp_path):
    process = child(train_with_a_limit, tmp_path / "run", tmp_path / "log")
    process.join()
    assert process.exitcode == 0
    message = (tmp_path / "log").read_text()
    assert "cannot write" in message
    assert "the file of before is intact" in message
    assert (tmp_path / "run" / "checkpoints" / "state.pt").stat().st_size > LIMIT
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert_same_run(fit(tiny("epochs=3"), run_dir=tmp_path / "run", resume=True), undisturbed)
