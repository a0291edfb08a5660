"""Runs one after another and several at once: equal results, failures, stops, folders that cannot be used."""

import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from compare.children import alive, comparable, odd
from train.tiny import BRANCHES, assert_same_run, tiny

import hiercnn.compare._runs as module
from hiercnn import Run
from hiercnn.compare import compare
from hiercnn.errors import CheckpointError, Interrupted, RecipeError, TrainingError
from hiercnn.recipe import load_recipe

RECIPES = [tiny(), tiny(BRANCHES, "name=branches")]
both = pytest.mark.parametrize("jobs", [1, 2])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with two recipes and two seeds, trained one after another in this process."""
    out = tmp_path_factory.mktemp("alone")
    compare(RECIPES, seeds=2, out=out)
    return out


def result(out) -> dict:
    return json.loads((out / "compare.json").read_text())


# ---- results --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_processes_give_the_same_results(alone, tmp_path, forked):
    told = []
    compare(RECIPES, seeds=2, out=tmp_path, jobs=2, tell=told.append)
    assert comparable(result(tmp_path)) == comparable(result(alone))
    for path in (one for one in alone.iterdir() if one.is_dir()):
        assert_same_run(Run(tmp_path / path.name), Run(path))
        assert Run(tmp_path / path.name).recipe.plain() | {"logging": None} == Run(path).recipe.plain() | {"logging": None}
    assert len(forked.started) == 4
    assert forked.most_at_once == 2
    names = Counter(f"{name}, seed {seed}" for name in ("flat", "branches") for seed in (0, 1))
    assert Counter(line for line in told if ": done in " not in line) == names
    assert Counter(line.split(": done in ")[0] for line in told if ": done in " in line) == names
    assert told[-1].endswith("s (4 of 4)")


def test_data_are_fetched_once_before_processes_start(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(module, "build_source", lambda recipe: done.append(recipe.name))
    monkeypatch.setattr(module, "_in_processes", lambda jobs, *rest: done.append(len(jobs)))
    monkeypatch.setattr(module, "_finished_run", lambda job, *rest: job)
    recipe = load_recipe({"data": {"name": "cifar10", "download": True}, "model": {"backbone": "resnet_small"}, "name": "one"})
    jobs = [module.Job(recipe, tmp_path / str(number)) for number in range(3)]
    module.finished_runs(jobs, processes=2, trust_imports=False, tell=done.append)
    assert done == ["one", 3]


def test_what_a_process_says_is_kept(tmp_path, forked):
    compare([tiny()], out=tmp_path, jobs=2)
    _, first, *_, last = (tmp_path / "flat-seed0" / "train.log").read_text().splitlines()
    assert first == "flat: 2 epochs of 5 steps"
    assert last == f"run folder: {tmp_path / 'flat-seed0'}"


@both
def test_finished_runs_are_not_started(alone, tmp_path, forked, monkeypatch, jobs):
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "branches-seed0")
    before, told = (tmp_path / "flat-seed0" / "metrics.jsonl").stat().st_mtime_ns, []
    compare(RECIPES, seeds=2, out=tmp_path, jobs=jobs, tell=told.append)
    ready = [f"{name}, seed {seed}" for name, seed in (("flat", 0), ("flat", 1), ("branches", 1))]
    assert told[:3] == [f"{text}: finished already, in {tmp_path / text.replace(', seed ', '-seed')}" for text in ready]
    assert told[3] == "branches, seed 0"
    assert len(forked.started) == (1 if jobs == 2 else 0)
    assert (tmp_path / "flat-seed0" / "metrics.jsonl").stat().st_mtime_ns == before
    assert comparable(result(tmp_path)) == comparable(result(alone))


@both
def test_a_run_of_another_recipe_is_told_before_anything_is_trained(alone, tmp_path, forked, jobs):
    shutil.copytree(alone / "branches-seed1", tmp_path / "branches-seed1")
    with pytest.raises(RecipeError, match=r"branches-seed1 was made with another recipe; these differ: 'optim\.lr'"):
        compare(RECIPES, seeds=2, out=tmp_path, jobs=jobs, overrides=["optim.lr=0.2"])
    assert [path.name for path in tmp_path.iterdir()] == ["branches-seed1"]
    assert forked.started == []


# ---- failures -------------------------------------------------------------------------------------------------------


def test_a_failing_process_stops_the_others(tmp_path, forked):
    out, wait = tmp_path / "out", tmp_path / "wait"
    wait.touch()
    good = odd(wait_while=str(wait))
    bad = odd("name=bad", breaks_after=str(out / "flat-seed0" / "checkpoints" / "state.pt"))
    told = []
    with pytest.raises(TrainingError) as caught:
        compare([good, bad, odd("name=late")], out=out, jobs=2, trust_imports=True, tell=told.append)
    message = str(caught.value)
    assert message.startswith(
        "bad, seed 0 failed (exit code 1); the others save, and the same command goes on where that is mended. The end of "
    )
    assert message.splitlines()[0].endswith(f" {out / 'bad-seed0' / 'train.log'}:")
    assert message.endswith("RuntimeError: broken")
    assert told == ["flat, seed 0", "bad, seed 0"]  # a third was not started
    run = Run(out / "flat-seed0")
    assert not run.finished
    assert f"everything is saved in {run.path}" in (run.path / "train.log").read_text()
    assert not alive(int((run.path / "lock").read_text()))
    wait.unlink()
    compare([good], out=out, trust_imports=True, tell=told.append)
    assert told[-1] == "flat, seed 0: resuming"


def test_several_runs_at_once_are_not_for_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="2 runs at once are for one process, and torchrun has started 2; leave out --jobs, or torchrun"):
        compare([tiny()], out=tmp_path / "out", jobs=2)
    assert not list(tmp_path.rglob("train.log"))


def test_the_end_of_a_long_log_is_shown(tmp_path, monkeypatch):
    processes = Scripted(monkeypatch, codes=[-9], says="".join(f"line {i}\n" for i in range(40)))
    with pytest.raises(
        TrainingError, match=r"flat, seed 0 failed \(killed by signal 9, as the system does where memory is full\)"
    ) as caught:
        compare([tiny()], out=tmp_path, jobs=2)
    assert str(caught.value).splitlines()[1:] == [f"line {i}" for i in range(28, 40)]
    assert processes.terminated == []


@pytest.mark.long
@both
def test_a_run_of_another_process_is_left_alone(tmp_path, forked, jobs):
    path = tmp_path / "flat-seed0"
    kind = TrainingError if jobs == 2 else CheckpointError
    with Run(path).lock(), pytest.raises(kind, match=f"run folder {path} is in use by process {os.getpid()}"):
        compare([tiny()], out=tmp_path, jobs=jobs)
    assert not Run(path).exists()
    assert compare([tiny()], out=tmp_path, jobs=jobs)["recipes"]


@both
def test_a_folder_that_cannot_be_made(tmp_path, forked, jobs):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot write to the run folder .*out/flat-seed0: Not a directory; choose another"):
        compare([tiny()], out=tmp_path / "out", jobs=jobs)
    assert forked.started == []


# ---- stops ----------------------------------------------------------------------------------------------------------


def test_a_process_that_was_asked_to_stop_stops_all(tmp_path, forked):
    wait = tmp_path / "wait"
    wait.touch()
    recipes = [odd(wait_while=str(wait)), odd("name=stops", stop=True)]
    told = []
    with pytest.raises(Interrupted, match="^stopped; every run has saved what it had. Go on with the same command$") as caught:
        compare(recipes, out=tmp_path, jobs=2, trust_imports=True, tell=told.append)
    assert caught.value.signal == signal.SIGTERM
    assert told == ["flat, seed 0", "stops, seed 0"]  # and neither is called done
    assert not any(one.process.is_alive() for one in forked.started)
    assert "stopped in epoch 2" in (tmp_path / "stops-seed0" / "train.log").read_text()


def test_ctrl_c_terminates_what_runs_and_starts_no_more(tmp_path, monkeypatch):
    processes = Scripted(monkeypatch, codes=[None, None])
    told = []

    def press(text):
        told.append(text)
        if len(told) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="^stopped; every run has saved what it had. Go on with the same command$") as caught:
        compare(RECIPES, seeds=2, out=tmp_path, jobs=2, tell=press)
    assert caught.value.signal == signal.SIGINT
    assert told == ["flat, seed 0", "branches, seed 0"]
    assert processes.terminated == [0, 1]
    assert not any(Path(command[4]).exists() for command, _ in processes.calls)  # the recipes handed over are gone


def test_a_run_that_could_not_save_is_told(tmp_path, monkeypatch):
    Scripted(monkeypatch, codes=[None, None], when_terminated=[143, 2])
    press = lambda text: os.kill(os.getpid(), signal.SIGTERM) if text.startswith("branches") else None  # noqa: E731
    message = r"^stopped; 'branches, seed 0' failed \(train.log in the run folder\), the others have saved. Go on with the same command$"
    with pytest.raises(Interrupted, match=message):
        compare(RECIPES, out=tmp_path, jobs=2, tell=press)


# ---- how a process is started ---------------------------------------------------------------------------------------


def test_command_of_a_process(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    recipe = odd("name=dots.and+ünicode", "logging.display=live")
    processes = Scripted(monkeypatch, codes=[2, 2])
    with pytest.raises(TrainingError):
        compare([recipe], out=tmp_path, jobs=3, trust_imports=True)
    (command, options), path = processes.calls[0], tmp_path / "dots.and+ünicode-seed0"
    assert command[1:4] == ["-m", "hiercnn", "train"]
    assert command[5:] == ["--run-dir", str(path), "--trust-imports"]  # nothing to resume
    assert processes.recipes[0].logging.display == "plain"
    assert processes.recipes[0].plain() | {"logging": None} == recipe.plain() | {"logging": None}
    assert options["env"]["OMP_NUM_THREADS"] == "2"  # 8 cores for three
    assert options["start_new_session"]  # the terminal's Ctrl-C is the parent's


def test_threads_that_were_asked_for_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    processes = Scripted(monkeypatch, codes=[2])
    with pytest.raises(TrainingError):
        compare([tiny()], out=tmp_path, jobs=2)
    assert processes.calls[0][1]["env"]["OMP_NUM_THREADS"] == "1"
    assert "--trust-imports" not in processes.calls[0][0]


class Scripted:
    """Stands for subprocess: each process ends as the script says, those with None when they are terminated."""

    def __init__(self, monkeypatch, codes, when_terminated=(143, 143), says=""):
        self.codes, self.when_terminated, self.says = codes, when_terminated, says
        self.calls, self.recipes, self.terminated = [], [], []
        monkeypatch.setattr(module, "subprocess", SimpleNamespace(Popen=self.start))

    def start(self, command, **options):
        self.calls.append((command, options))
        self.recipes.append(load_recipe(command[4], trust_imports=True))
        options["stdout"].write(self.says.encode())
        return ScriptedProcess(self, len(self.calls) - 1)


class ScriptedProcess:
    """One process of the script."""

    def __init__(self, script: Scripted, number: int):
        self.script, self.number, self.returncode = script, number, script.codes[number]

    def poll(self):
        return self.returncode

    def terminate(self):
        self.script.terminated.append(self.number)
        self.returncode = self.script.when_terminated[self.number]

    def wait(self):
        assert self.returncode is not None
