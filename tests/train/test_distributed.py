"""Several processes train as one does: the same weights, metrics and files, whoever is stopped, dies, or has nothing to do."""

import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from train.tiny import BRANCHES, CHILDREN, MEASURED, tiny

from hiercnn.data import DataSettings, ImageSet, in_memory, make_loader
from hiercnn.errors import RecipeError, TrainingError
from hiercnn.recipe import Run, fit
from hiercnn.train import World, together

PLAIN = ("model.backbone=group_norm_net", BRANCHES, "data.batch_size=33", "optim.clip_norm=5")  # 33 images are no even parts


def _train(rank: int, size: int, port: int, recipe, folder: Path, resume: bool, hook) -> None:
    """A process of torchrun's, as it were."""
    values = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in values.items()})
    sys.stderr = open(f"{folder}-{rank}.txt", "w", buffering=1)  # noqa: SIM115
    torch.set_num_threads(1)
    if hook is not None:
        hook(rank)
    sys.argv = ["hiercnn", "train", str(recipe), "--quiet", "--run-dir", str(folder), *["--resume"] * resume]
    from hiercnn.cli import main

    main()


def start(size: int, recipe, folder: Path, *, resume: bool = False, hook=None) -> list:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = (folder.parent / f"{folder.name}.yaml").resolve()
    from hiercnn.recipe import to_yaml

    file.write_text(to_yaml(recipe))
    processes = [CHILDREN.Process(target=_train, args=(rank, size, port, file, folder, resume, hook)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def end(processes: list, seconds: float = 60) -> list[int]:
    """Exit codes; a process that has not ended by then is killed and fails the test."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.1, until - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert None not in codes
    return codes


def events(folder: Path) -> list[dict]:
    """Those of metrics.jsonl without what time they took."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in event.items() if key not in MEASURED} for event in found]


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "checkpoints" / "last.safetensors") for folder in (one, other))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-6)
    for mine, yours in zip(events(one), events(other), strict=True):
        assert _flat(mine) == pytest.approx(_flat(yours), abs=2e-5)


def _flat(value: object, path: str = "") -> dict[str, object]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {path: value} if isinstance(value, float | int) else {path: hash(value)}
    return {key: one for name, each in items for key, one in _flat(each, f"{path}.{name}").items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """One process's run of the plain recipe."""
    return fit(tiny(*PLAIN), run_dir=tmp_path_factory.mktemp("alone") / "run").path


# ---- parts of batches


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("storage", ["memory", "single images"])
def test_parts_cover_every_batch_once_and_in_order(size, train, storage):
    images = np.random.default_rng(0).integers(0, 256, (23, 3, 8, 8), dtype=np.uint8)
    labels = np.arange(23) % 4
    kept = in_memory(images, labels, "train")
    if storage != "memory":
        kept = ImageSet(
            labels, [str(i) for i in range(23)], dataset=[(image, 0) for image in torch.from_numpy(images)], positions=np.arange(23)
        )
    settings = DataSettings(name="x", batch_size=7, eval_batch_size=9, augment={"crop": 1} if train else {})

    def batches(part):
        loader = make_loader(kept, settings, train=train, channels=3, seed=3, part=part)
        return list(loader.epoch(1))

    wanted, parts = batches((0, 1)), [batches((number, size)) for number in range(size)]
    assert all(len(part) == len(wanted) for part in parts)
    for whole, *own in zip(wanted, *parts, strict=True):
        assert torch.equal(torch.cat([batch.indices for batch in own]), whole.indices)
        assert torch.equal(torch.cat([batch.images for batch in own if len(batch.indices)]), whole.images)


# ---- two are one


def test_two_processes_train_as_one_does(alone, tmp_path):
    assert end(start(2, tiny(*PLAIN), tmp_path / "run")) == [0, 0]
    assert_same(alone, tmp_path / "run")
    files = [sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) for folder in (alone, tmp_path / "run")]
    assert files[0] == files[1]
    for name in ("val.npz", "test.npz"):
        with np.load(alone / "predictions" / name) as ours, np.load(tmp_path / "run" / "predictions" / name) as theirs:
            assert np.array_equal(ours["ids"], theirs["ids"])
            assert np.array_equal(ours["labels"], theirs["labels"])
            np.testing.assert_allclose(ours["logits"].astype(float), theirs["logits"].astype(float), atol=2e-3)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["train.accumulate=2", "epochs=3"],
        ["train.ema=0.5", "checkpoints.average=2"],
        ["train.freeze={steps: {0: 0, 1: none}}"],
        ["loss={name: conditional_nll}", "model.classifier=conditional", BRANCHES],
        ["data.storage=files", "data.batch_size=5", "dynamics={random: 2}", "eval.train_subset=300"],
    ],
)
def test_two_processes_train_as_one_does_whatever_the_recipe_says(tmp_path, overrides):
    recipe = tiny(*PLAIN, *overrides)
    fit(recipe, run_dir=tmp_path / "one")
    assert end(start(3, recipe, tmp_path / "three"), 120) == [0, 0, 0]
    assert_same(tmp_path / "one", tmp_path / "three")


def test_batch_norm_and_dropout_are_each_process_s_own_and_end_the_same(tmp_path):
    recipe = tiny(BRANCHES, "epochs=1")
    assert end(start(2, recipe, tmp_path / "run")) == [0, 0]
    run = Run(tmp_path / "run")
    assert run.finished
    assert np.isfinite(run.end["test"]["nll"])


# ---- stops, deaths, errors


def _slowly(rank: int) -> None:
    from hiercnn.train import Trainer

    update = Trainer._update
    Trainer._update = lambda self: (time.sleep(0.15), update(self))[1]


@pytest.mark.long
def test_one_that_is_asked_to_stop_stops_all_and_others_go_on(alone, tmp_path):
    processes = start(2, tiny(*PLAIN), tmp_path / "run", hook=_slowly)
    _wait_for(tmp_path / "run" / "metrics.jsonl")
    os.kill(processes[1].pid, signal.SIGTERM)
    assert end(processes) == [143, 143]
    assert "everything is saved" in Path(f"{tmp_path / 'run'}-0.txt").read_text()
    assert not Run(tmp_path / "run").finished
    assert end(start(3, tiny(*PLAIN), tmp_path / "run", resume=True)) == [0, 0, 0]
    assert_same(alone, tmp_path / "run")


def test_where_one_dies_the_others_end_and_say_why(tmp_path):
    processes = start(2, tiny(*PLAIN, "epochs=50"), tmp_path / "run", hook=_slowly)
    _wait_for(tmp_path / "run" / "metrics.jsonl")
    os.kill(processes[1].pid, signal.SIGKILL)
    assert end(processes, 60) == [2, -9]
    said = Path(f"{tmp_path / 'run'}-0.txt").read_text()
    assert re.search("process 0 of 2 cannot go on: another one has ended or cannot be reached", said)
    assert "Traceback" not in said


def _out_of_memory(rank: int) -> None:
    from hiercnn.train._task import FlatTask

    forward, calls = FlatTask.forward, []

    def full(self, *arguments):
        calls.append(1)
        if rank == 1 and len(calls) == 7:  # in the second epoch
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, *arguments)

    FlatTask.forward = full


@pytest.mark.long
def test_where_the_memory_of_one_is_full_the_others_end_and_say_why(alone, tmp_path):
    assert end(start(2, tiny(*PLAIN), tmp_path / "run", hook=_out_of_memory), 60) == [2, 2]
    said = [Path(f"{tmp_path / 'run'}-{rank}.txt").read_text() for rank in (0, 1)]
    assert re.search("process 0 of 2 cannot go on: another one has ended or cannot be reached; its own message says why", said[0])
    assert re.search(r"\(process 1\): the memory of cpu is full.*\n.*Lower data.batch_size", said[1])
    assert "Traceback" not in said[0] + said[1]
    assert end(start(2, tiny(*PLAIN), tmp_path / "run", resume=True)) == [0, 0]
    assert_same(alone, tmp_path / "run")


def _wait_for(file: Path) -> None:
    until = time.monotonic() + 60
    while not (file.exists() and file.stat().st_size):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.long
def test_what_the_first_refuses_all_refuse(alone, tmp_path):
    assert end(start(2, tiny(*PLAIN), alone)) == [2, 2]
    assert end(start(2, tiny("seed=3"), alone, resume=True)) == [2, 2]
    for number in (0, 1):
        assert "was made with another recipe; these differ" in Path(f"{alone}-{number}.txt").read_text()


@pytest.mark.long
def test_a_folder_that_the_first_cannot_use_is_told_by_all(alone, tmp_path):
    (tmp_path / "run").write_text("a file")
    (tmp_path / "other").mkdir()
    shutil.copytree(alone, tmp_path / "other" / "run")
    assert end(start(2, tiny(*PLAIN), tmp_path / "run")) == [2, 2]
    for number in (0, 1):
        assert "cannot write to the run folder" in Path(f"{tmp_path / 'run'}-{number}.txt").read_text()
    metrics = tmp_path / "other" / "run" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    assert end(start(2, tiny(*PLAIN), tmp_path / "other" / "run", resume=True)) == [2, 2]
    for number in (0, 1):
        assert "has 2 events, the checkpoint knows" in Path(f"{tmp_path / 'other' / 'run'}-{number}.txt").read_text()


def test_a_loss_that_is_not_finite_ends_all(tmp_path):
    assert end(start(2, tiny(*PLAIN, "optim.lr=1e30", "optim.clip_norm=null"), tmp_path / "run")) == [2, 2]
    assert [event["event"] for event in events(tmp_path / "run")].count("failed") == 1


# ---- disks of their own


def _on_its_own_disk(place: Path, slowly: bool, rank: int) -> None:
    os.chdir(place / f"node{rank}")
    if slowly:
        _slowly(rank)


@pytest.fixture
def disks(tmp_path, monkeypatch) -> Path:
    """A folder with one for each of two processes, in which relative paths of theirs lead."""
    for rank in (0, 1):
        (tmp_path / f"node{rank}").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.long
def test_the_first_alone_reads_and_writes_the_run_folder(alone, disks):
    processes = start(2, tiny(*PLAIN), Path("run"), hook=partial(_on_its_own_disk, disks, True))
    _wait_for(disks / "node0" / "run" / "metrics.jsonl")
    os.kill(processes[1].pid, signal.SIGTERM)
    assert end(processes) == [143, 143]
    assert end(start(2, tiny(*PLAIN), Path("run"), resume=True, hook=partial(_on_its_own_disk, disks, False))) == [0, 0]
    assert_same(alone, disks / "node0" / "run")
    assert not list((disks / "node1").iterdir())


@pytest.mark.long
def test_the_run_that_a_tree_is_clustered_from_need_not_be_on_every_disk(alone, disks, monkeypatch):
    shutil.copytree(alone, disks / "node0" / "source")
    monkeypatch.chdir(disks / "node0")
    tree = "hierarchy={builtin: synthetic, cuts: [3, 9], cluster: {run: source, source: weights, groups: [4]}}"
    recipe = tiny("model.backbone=group_norm_net", "model.heads=[{stage: 0, cut: 4, weight: 0.5}]", tree, "data.batch_size=33")
    fit(recipe, run_dir=disks / "one")
    monkeypatch.chdir(disks)
    assert end(start(2, recipe, Path("run"), hook=partial(_on_its_own_disk, disks, False))) == [0, 0]
    assert_same(disks / "one", disks / "node0" / "run")
    assert not list((disks / "node1").iterdir())


# ---- alone


def test_without_torchrun_one_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with together() as world:
        assert (world.rank, world.size, world.main) == (0, 1, True)
    assert World().agreed(None) is None
    assert World().from_main(lambda: 3) == 3
    assert World().every("a") == ["a"]


TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def _set(monkeypatch, **changed: str | None) -> None:
    """torchrun's environment variables, some of them changed or left out."""
    for name, value in (TORCHRUN | changed).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE is no whole number: 'x'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is no whole number: ''"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0"),
        ({"RANK": None}, "RANK is not set"),
        ({"RANK": "2"}, "RANK is 2, of WORLD_SIZE 2"),
        ({"RANK": "1.5"}, "RANK is no whole number: '1.5'"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT is 99999"),
    ],
)
def test_variables_that_make_no_sense_are_told(monkeypatch, changed, message):
    _set(monkeypatch, **changed)
    with (
        pytest.raises(RecipeError, match=f"environment variables of torchrun: {message}; start with torchrun, or unset WORLD_SIZE"),
        together(),
    ):
        pass


@pytest.mark.long
@pytest.mark.parametrize("rank", ["0", "1"])
def test_where_nobody_comes_one_does_not_wait_long(monkeypatch, rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    _set(monkeypatch, RANK=rank, MASTER_PORT=port)
    monkeypatch.setattr("hiercnn.train._world.START", timedelta(seconds=2))
    with (
        pytest.raises(TrainingError, match=f"process {rank} of 2 cannot meet the others at 127.0.0.1:{port}: the port is taken, or"),
        together(),
    ):
        pass


def test_a_port_that_is_taken_is_told(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        _set(monkeypatch, RANK="0", MASTER_PORT=str(taken.getsockname()[1]))
        with (
            pytest.raises(TrainingError, match=r"cannot meet the others at .*: the port is taken, or one of them has not come"),
            together(),
        ):
            pass


def test_there_must_be_a_gpu_for_every_process(monkeypatch):
    _set(monkeypatch)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RecipeError, match="torchrun started process 1 on this machine, which has 1 GPUs"), together():
        pass


def test_sync_batchnorm_is_for_gpus(tmp_path):
    processes = start(2, tiny("train.sync_batchnorm=true"), tmp_path / "run")
    assert end(processes) == [2, 2]
    assert "train.sync_batchnorm is for GPUs" in Path(f"{tmp_path / 'run'}-0.txt").read_text()
