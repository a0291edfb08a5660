"""Stopped in any way and gone on with, a run ends exactly as if nobody had touched it."""

import os
import random
import signal
import time

import numpy as np
import pytest
from PIL import Image
from train.tiny import BATCHES, BRANCHES, Spy, assert_same_run, child, events, hiercnn, tiny

from hiercnn import Run, fit
from hiercnn.errors import CheckpointError, Interrupted, RecipeError
from hiercnn.recipe import to_yaml
from hiercnn.train._checkpoint import save_state

DROPOUT = "model.options={drop_rate: 0.5}"
PLAIN = (DROPOUT, BRANCHES, "epochs=3")
FULL = (*PLAIN, "train.accumulate=2", "train.ema=0.9", "optim.clip_norm=1", "schedule.warmup_epochs=1", "checkpoints.keep=log")
TUNED = (
    *(BRANCHES, "epochs=3", "train.freeze={steps: {0: all, 1: 0, 2: none}}", "optim.layer_decay=0.5", "optim.head_lr=0.2"),
    *("data.balance=0.5", "data.augment.mix={mixup: 0.3, cutmix: 1, mode: pair}", "loss.logit_adjustment=1", "checkpoints.average=2"),
)
SINGLE = (DROPOUT, "epochs=3", "data.image_size=16", "data.augment.transforms=[{name: RandomGrayscale}]")  # through a DataLoader


def stop_at(epoch: int, batch: int, *signals: int) -> Spy:
    """A display that sends signals to its own process after one batch."""

    def stop(*at):
        if at == (epoch, batch):
            for number in signals:
                os.kill(os.getpid(), number)

    return Spy(stop)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Finished runs by recipe; tests only read them."""
    runs = {}

    def get(overrides: tuple[str, ...]) -> Run:
        if overrides not in runs:
            runs[overrides] = fit(tiny(*overrides), run_dir=tmp_path_factory.mktemp("undisturbed"))
        return runs[overrides]

    return get


# ---- asked to stop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("epoch", "batch"), [(1, 1), (2, 3), (3, BATCHES - 1)])
@pytest.mark.parametrize("overrides", [PLAIN, FULL, TUNED], ids=["plain", "full", "tuned"])
def test_stopped_within_an_epoch(undisturbed, tmp_path, overrides, epoch, batch, number):
    recipe = tiny(*overrides)
    with pytest.raises(Interrupted, match="everything is saved in .* Go on with the same command and --resume") as caught:
        fit(recipe, run_dir=tmp_path, display=stop_at(epoch, batch, number))
    assert caught.value.signal == number
    assert f"stopped in epoch {epoch}, after" in str(caught.value)
    assert not Run(tmp_path).finished
    assert_same_run(fit(recipe, run_dir=tmp_path, resume=True), undisturbed(overrides))


@pytest.mark.long
def test_stopped_within_an_epoch_of_single_images(undisturbed, tmp_path):
    recipe = tiny(*SINGLE)
    with pytest.raises(Interrupted):
        fit(recipe, run_dir=tmp_path, display=stop_at(2, 3, signal.SIGINT))
    assert_same_run(fit(recipe, run_dir=tmp_path, resume=True), undisturbed(SINGLE))


def test_stopped_in_the_last_batch_of_an_epoch(undisturbed, tmp_path):
    with pytest.raises(Interrupted, match="stopped in epoch 2, after 0 of 5 batches"):
        fit(tiny(*PLAIN), run_dir=tmp_path, display=stop_at(1, BATCHES, signal.SIGINT))
    assert len(Run(tmp_path).metrics) == 1
    assert_same_run(fit(tiny(*PLAIN), run_dir=tmp_path, resume=True), undisturbed(PLAIN))


def test_stopped_in_the_last_batch_of_all(undisturbed, tmp_path):
    run = fit(tiny(*PLAIN), run_dir=tmp_path, display=stop_at(3, BATCHES, signal.SIGINT))
    assert_same_run(run, undisturbed(PLAIN))


def test_stopped_twice_in_two_resumes(undisturbed, tmp_path):
    for batch in (2, 4):
        with pytest.raises(Interrupted):
            fit(tiny(*FULL), run_dir=tmp_path, resume=batch > 2, display=stop_at(2, batch, signal.SIGINT))
    assert_same_run(fit(tiny(*FULL), run_dir=tmp_path, resume=True), undisturbed(FULL))


def test_second_ctrl_c_stops_at_once_and_the_last_checkpoint_stays(undisturbed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(*PLAIN), run_dir=tmp_path, display=stop_at(2, 2, signal.SIGINT, signal.SIGINT))
    assert_same_run(fit(tiny(*PLAIN), run_dir=tmp_path, resume=True), undisturbed(PLAIN))


def test_signal_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted):
        fit(tiny(), run_dir=tmp_path, display=stop_at(1, 2, signal.SIGTERM))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# ---- killed ---------------------------------------------------------------------------------------------------------


def wait_for_epoch(path, epochs: int) -> None:
    """Until the run in another process has done so many epochs."""
    until = time.monotonic() + 60
    while not (path / "metrics.jsonl").exists() or (path / "metrics.jsonl").read_text().count('"epoch"') < epochs:
        assert time.monotonic() < until, "the other process does not train"
        time.sleep(0.005)


def start(tmp_path, *overrides: str):
    """Train in another process; return it, the recipe and the run folder."""
    recipe = tiny(*overrides)
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    arguments = ["train", tmp_path / "recipe.yaml", "--run-dir", tmp_path / "run"]
    return child(hiercnn, arguments, tmp_path / "log"), recipe, tmp_path / "run"


LONG = (*PLAIN[:2], "epochs=20")


@pytest.mark.long
def test_killed_at_a_random_moment(undisturbed, tmp_path):
    process, recipe, path = start(tmp_path, *LONG)
    wait_for_epoch(path, 2)
    time.sleep(random.random() * 0.1)  # two epochs or so
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not Run(path).finished
    assert_same_run(fit(recipe, run_dir=path, resume=True), undisturbed(LONG))


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_command_line_stopped_by_a_signal(undisturbed, tmp_path, number, code):
    process, recipe, path = start(tmp_path, *LONG)
    wait_for_epoch(path, 2)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    log = (tmp_path / "log").read_text()
    assert "hiercnn: stopped in epoch" in log
    assert "Go on with the same command and --resume" in log
    assert "Traceback" not in log
    assert_same_run(fit(recipe, run_dir=path, resume=True), undisturbed(LONG))


class Killed(BaseException):
    """Stands for kill -9 inside this process: nothing of hiercnn catches it."""


def killed_at(epoch: int, batch: int) -> Spy:
    def stop(*at):
        if at == (epoch, batch):
            raise Killed

    return Spy(stop)


@pytest.mark.parametrize("overrides", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize(("epoch", "batch"), [(1, 3), (3, 2)], ids=["before the first checkpoint", "later"])
def test_killed_between_checkpoints(undisturbed, tmp_path, overrides, epoch, batch):
    with pytest.raises(Killed):
        fit(tiny(*overrides), run_dir=tmp_path, display=killed_at(epoch, batch))
    assert (tmp_path / "checkpoints" / "state.pt").exists() == (epoch > 1)
    assert_same_run(fit(tiny(*overrides), run_dir=tmp_path, resume=True), undisturbed(overrides))


def test_killed_between_the_event_and_its_checkpoint(undisturbed, tmp_path, monkeypatch):
    def kill(path, state):
        if state["progress"]["epoch"] == 2:
            raise Killed
        save_state(path, state)

    with monkeypatch.context() as patch:
        patch.setattr("hiercnn.train._trainer.save_state", kill)
        with pytest.raises(Killed):
            fit(tiny(*PLAIN), run_dir=tmp_path)
    assert len(Run(tmp_path).metrics) == 2  # one more than the checkpoint knows
    assert_same_run(fit(tiny(*PLAIN), run_dir=tmp_path, resume=True), undisturbed(PLAIN))


def test_killed_before_the_test(undisturbed, tmp_path, monkeypatch):
    def kill(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("hiercnn.train._trainer.Trainer._finish_run", kill)
        with pytest.raises(Killed):
            fit(tiny(*PLAIN), run_dir=tmp_path)
    assert not Run(tmp_path).finished
    assert_same_run(fit(tiny(*PLAIN), run_dir=tmp_path, resume=True), undisturbed(PLAIN))


def test_half_written_line_is_cut_off(undisturbed, tmp_path):
    with pytest.raises(Interrupted):
        fit(tiny(*PLAIN), run_dir=tmp_path, display=stop_at(2, 2, signal.SIGINT))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"event": "epoch", "epo')
    assert_same_run(fit(tiny(*PLAIN), run_dir=tmp_path, resume=True), undisturbed(PLAIN))


def test_lost_events_are_told(tmp_path):
    with pytest.raises(Interrupted):
        fit(tiny(*PLAIN), run_dir=tmp_path, display=stop_at(2, 2, signal.SIGINT))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="metrics.jsonl is damaged"):
        fit(tiny(*PLAIN), run_dir=tmp_path, resume=True)


# ---- which run ------------------------------------------------------------------------------------------------------


def test_finished_run_is_returned_untouched(tmp_path):
    run = fit(tiny(), run_dir=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = fit(tiny(), run_dir=tmp_path, resume=True)
    assert events(again) == events(run)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_folder_with_a_run_needs_resume(tmp_path):
    with pytest.raises(Interrupted):
        fit(tiny(*PLAIN), run_dir=tmp_path, display=stop_at(2, 2, signal.SIGINT))
    with pytest.raises(CheckpointError, match="holds a run that has done 1 of 3 epochs; add --resume to go on with it, or choose another"):
        fit(tiny(*PLAIN), run_dir=tmp_path)
    run = fit(tiny(*PLAIN), run_dir=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="holds a finished run"):
        fit(tiny(*PLAIN), run_dir=run.path)


def test_changed_recipe_lists_its_keys(tmp_path):
    with pytest.raises(Interrupted):
        fit(tiny(*PLAIN), run_dir=tmp_path, display=stop_at(1, 2, signal.SIGINT))
    changed = tiny(*PLAIN, "optim.lr=0.2", "data.augment.flip=true", "logging.display=plain")
    with pytest.raises(RecipeError, match=r"these differ: 'data\.augment\.flip', 'optim\.lr'\. Choose another folder"):
        fit(changed, run_dir=tmp_path, resume=True)


def test_another_display_is_no_other_recipe(undisturbed, tmp_path, capsys):
    with pytest.raises(Interrupted):
        fit(tiny(*PLAIN), run_dir=tmp_path, display=stop_at(2, 2, signal.SIGINT))
    run = fit(tiny(*PLAIN, "logging.display=plain"), run_dir=tmp_path, resume=True)
    assert "from epoch 2" in capsys.readouterr().out
    assert_same_run(run, undisturbed(PLAIN))


def test_damaged_state_is_told(tmp_path):
    with pytest.raises(Interrupted):
        fit(tiny(*PLAIN), run_dir=tmp_path, display=stop_at(2, 2, signal.SIGINT))
    state = tmp_path / "checkpoints" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cannot read .*state\.pt"):
        fit(tiny(*PLAIN), run_dir=tmp_path, resume=True)


def test_resume_without_a_run_starts_one(tmp_path):
    assert fit(tiny(), run_dir=tmp_path / "new", resume=True).finished


def test_resume_refuses_data_that_have_changed(tmp_path):
    stop = Spy(lambda epoch, batch: os.kill(os.getpid(), signal.SIGINT) if (epoch, batch) == (2, 2) else None)
    rows = [f"im/{i}.png,{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "im").mkdir()
    for i in range(40):
        Image.fromarray(np.full((16, 16, 3), 6 * i, np.uint8)).save(tmp_path / "im" / f"{i}.png")
    recipe = tiny("hierarchy=null").plain() | {
        "data": {"name": "manifest", "file": str(tmp_path / "m.csv"), "image_size": 16, "batch_size": 8}
    }
    (tmp_path / "m.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(Interrupted):
        fit(recipe, run_dir=tmp_path / "run", display=stop)
    (tmp_path / "m.csv").write_text("\n".join(["path,label", *rows[2:]]))
    with pytest.raises(CheckpointError, match="the train and val images or labels have changed since it started"):
        fit(recipe, run_dir=tmp_path / "run", resume=True)


def test_resume_of_nothing_says_so(tmp_path, capsys):
    fit(tiny("logging.display=plain"), run_dir=tmp_path / "run", resume=True)
    assert f"nothing to resume in {tmp_path / 'run'}: starting anew" in capsys.readouterr().out
