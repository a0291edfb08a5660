"""For the tests of several runs at once: a loss that waits, fails or asks to stop, and processes that need not import torch again.

A recipe that imports this module can be trained by a real `python -m hiercnn` with `tests` on its path; it finds `tiny_net` here too.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from train.tiny import BATCHES, child, tiny

from hiercnn.hierarchy import Hierarchy
from hiercnn.losses import CrossEntropy, losses
from hiercnn.recipe import Recipe, load_recipe

UNEQUAL = ("seconds", "seconds_ratio", "environment")  # what one comparison, made twice, may differ in


@losses.register("odd")
class Odd(CrossEntropy):
    """Cross-entropy with a will of its own.

    Args:
        wait_while: From the second epoch on, waits as long as this file is there and nobody has asked to stop.
        breaks_after: Raises, once this file is there.
        stop: Asks its own process to stop, in the second epoch.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        wait_while: str | None = None,
        breaks_after: str | None = None,
        stop: bool = False,
        inner_labels: bool = False,
    ):
        super().__init__(hierarchy, inner_labels=inner_labels)
        self.wait_while, self.breaks_after, self.stops, self.calls = wait_while, breaks_after, stop, 0

    def forward(self, logits, labels):
        self.calls += 1
        terms = super().forward(logits, labels)
        if self.breaks_after is not None:
            await_true(Path(self.breaks_after).exists)
            raise RuntimeError("broken")
        if self.calls > BATCHES and self.wait_while is not None:
            await_true(lambda: not Path(self.wait_while).exists() or _asked_to_stop(), seconds=120)
        if self.calls == BATCHES + 2 and self.stops:
            os.kill(os.getpid(), signal.SIGTERM)
        return terms


def odd(*overrides: str, **loss: object) -> Recipe:
    """A tiny recipe with that loss."""
    raw = tiny().plain() | {"imports": ["compare.children"], "loss": {"name": "odd", **loss}}
    return load_recipe(raw, overrides, trust_imports=True)


class Forked:
    """What compare asks of subprocess.Popen, for its command in a child of a process that has imported torch."""

    started: list["Forked"] = []  # of this test
    most_at_once = 0

    def __init__(self, command, *, stdout, stderr, env, start_new_session):
        assert command[1:3] == ["-m", "hiercnn"]
        assert stdout is stderr
        self.process = child(_hiercnn, command[3:], stdout.name, dict(env))
        self.started.append(self)
        Forked.most_at_once = max(Forked.most_at_once, sum(one.poll() is None for one in self.started))

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self) -> None:
        self.process.join()


def _hiercnn(arguments: list[str], log: str, environment: dict[str, str]) -> None:
    from hiercnn.cli import main

    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    sys.argv = ["hiercnn", *arguments]
    main()


def _asked_to_stop() -> bool:
    """Whether the loop has noted a SIGTERM: a second one acts as usual."""
    return signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def await_true(condition, seconds: float = 300) -> None:
    """Wait until a condition holds; a busy machine is no failure."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def comparable(value):
    """A result of `compare`, or a part of it, without what a clock measured."""
    if isinstance(value, dict):
        return {key: comparable(one) for key, one in value.items() if key not in UNEQUAL}
    return [comparable(one) for one in value] if isinstance(value, list) else value
