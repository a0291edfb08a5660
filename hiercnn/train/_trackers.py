"""Events of a run for TensorBoard and Weights & Biases, through their own libraries."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from hiercnn.errors import RecipeError
from hiercnn.train._settings import LoggingSettings


def make_trackers(settings: LoggingSettings, name: str, run: Path, recipe_text: str) -> list["TensorBoard | WandB"]:
    """The trackers that a recipe asks for. Raises RecipeError if a package is missing."""
    trackers = [TensorBoard(run)] if settings.tensorboard else []
    return trackers + ([WandB(settings.wandb, name, run, recipe_text)] if settings.wandb is not None else [])


class TensorBoard:
    """Writes numbers to `tensorboard/` in the run folder."""

    def __init__(self, run: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RecipeError("logging.tensorboard needs its package; run: pip install tensorboard") from None
        self._make = lambda step: SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def begin(self, step: int) -> None:
        """Start, or go on after an update; what was written of later ones by a killed process is purged."""
        self._writer = self._make(step)

    def __call__(self, event: Mapping[str, Any]) -> None:
        for name, value in numbers(event):
            self._writer.add_scalar(name, value, event["step"])
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()


class WandB:
    """Logs numbers and the recipe to a W&B run, in the run folder if offline; its project is that of $WANDB_PROJECT, or `hiercnn`."""

    def __init__(self, mode: str, name: str, run: Path, recipe_text: str):
        try:
            import wandb
        except ImportError:
            raise RecipeError("logging.wandb needs its package; run: pip install wandb") from None
        self._wandb = wandb
        self._options = {"mode": mode, "name": name, "dir": str(run), "config": yaml.safe_load(recipe_text), "resume": "allow"}
        self._options |= {"project": os.environ.get("WANDB_PROJECT", "hiercnn"), "settings": wandb.Settings(silent=True, console="off")}
        self._options["id"] = hashlib.sha256(f"{run.resolve()}\n{recipe_text}".encode()).hexdigest()[:16]  # one run, however often resumed

    def begin(self, step: int) -> None:
        """Start, or go on."""
        try:
            self._run = self._wandb.init(**self._options)
        except (self._wandb.errors.Error, OSError) as error:
            raise RecipeError(f"logging.wandb: {error}; run `wandb login`, or set logging.wandb: offline") from None

    def __call__(self, event: Mapping[str, Any]) -> None:
        self._run.log(dict(numbers(event)), step=event["step"])

    def end(self) -> None:
        self._run.finish()


def numbers(event: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of an event by name: `val/accuracy/leaf`."""
    for key, value in event.items():
        name = f"{path}/{key}".lstrip("/")
        if isinstance(value, Mapping):
            yield from numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
