"""TensorBoard and Weights & Biases: the numbers of the events, also after a resume; what is said without the packages."""

import importlib.util
import signal
import sys

import pytest
from train.test_resume import stop_at
from train.tiny import tiny

from hiercnn import fit
from hiercnn.errors import Interrupted, RecipeError
from hiercnn.train._trackers import numbers


def needs(package: str):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs the package {package} (pip install hiercnn[dev])")


def scalars(run, name: str) -> dict[int, float]:
    """Steps and values in the event files of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def test_numbers_of_nested_events():
    event = {"event": "epoch", "step": 5, "val": {"accuracy": {"leaf": 0.5}, "nll": 1.5}, "flag": True, "unreadable": []}
    assert dict(numbers(event)) == {"step": 5, "val/accuracy/leaf": 0.5, "val/nll": 1.5}


@needs("tensorboard")
def test_tensorboard_has_what_metrics_have_also_after_a_resume(tmp_path):
    recipe = tiny("logging.tensorboard=true", "epochs=3")
    with pytest.raises(Interrupted):
        fit(recipe, run_dir=tmp_path, display=stop_at(2, 3, signal.SIGINT))
    run = fit(recipe, run_dir=tmp_path, resume=True)
    wanted = {event["step"]: event["val"]["nll"] for event in run.metrics}
    assert scalars(run, "val/nll") == pytest.approx(wanted)
    assert scalars(run, "end/test/accuracy/leaf") == {15: pytest.approx(run.end["test"]["accuracy"]["leaf"])}


@pytest.mark.long
@needs("wandb")
def test_wandb_keeps_an_offline_run_in_the_run_folder(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_PROJECT", "a-project")
    run = fit(tiny("logging.wandb=offline", "epochs=1"), run_dir=tmp_path)
    wandb.teardown()  # its service writes on by itself
    (record,) = (run.path / "wandb").glob("offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert b"val/accuracy/leaf" in content
    assert b"a-project" in content


@pytest.mark.parametrize(
    ("key", "module", "message"),
    [
        ("logging.tensorboard=true", "torch.utils.tensorboard", "logging.tensorboard needs its package; run: pip install tensorboard"),
        ("logging.wandb=offline", "wandb", "logging.wandb needs its package; run: pip install wandb"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch, key, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RecipeError, match=message):
        fit(tiny(key), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
