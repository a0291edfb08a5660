"""One loop, two tasks, and the run folder they write."""

from hiercnn.train._checkpoint import load_weights, save_weights
from hiercnn.train._display import QuietDisplay, make_display
from hiercnn.train._environment import PACKAGES, device_name, git_commit, pick_device, pick_precision, version
from hiercnn.train._evaluate import evaluate
from hiercnn.train._optim import make_optimizer, make_scheduler
from hiercnn.train._run import RunFolder
from hiercnn.train._settings import Linear, OptimSettings, RunSettings, Steps, Weight, frozen_stages, weight_at
from hiercnn.train._signals import StopRequest, stop_on_signals
from hiercnn.train._task import FlatTask, HierarchicalTask
from hiercnn.train._trainer import Trainer
from hiercnn.train._world import World, process_number, together, world_size

__all__ = [
    "PACKAGES",
    "FlatTask",
    "HierarchicalTask",
    "Linear",
    "OptimSettings",
    "QuietDisplay",
    "RunFolder",
    "RunSettings",
    "Steps",
    "StopRequest",
    "Trainer",
    "Weight",
    "World",
    "device_name",
    "evaluate",
    "frozen_stages",
    "git_commit",
    "load_weights",
    "make_display",
    "make_optimizer",
    "make_scheduler",
    "pick_device",
    "pick_precision",
    "process_number",
    "save_weights",
    "stop_on_signals",
    "together",
    "world_size",
    "version",
    "weight_at",
]
