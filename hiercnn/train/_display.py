"""What a person sees while a run trains: a live table with progress bars, plain lines, or nothing."""

import sys
import time
from collections.abc import Sequence


class QuietDisplay:
    """Shows nothing; the interface of the others."""

    def begin(self, title: str, columns: Sequence[str], epochs: int, steps: int, start: int = 0) -> None:
        """A run starts: its table's columns, epochs, steps an epoch, and the epoch it starts from."""

    def step(self, done: int, loss: float | None) -> None:
        """So many steps of this epoch are done."""

    def epoch(self, row: Sequence[str]) -> None:
        """An epoch was evaluated; `row` has a text for each column."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def end(self, text: str = "") -> None:
        """The run ended, well or not."""


class PlainDisplay(QuietDisplay):
    """One line an epoch, for log files and pipes."""

    def begin(self, title, columns, epochs, steps, start=0):
        self._columns = columns
        print(f"{title}: {epochs} epochs of {steps} steps" + (f", from epoch {start + 1}" if start else ""), flush=True)

    def epoch(self, row):
        print("  ".join(f"{column} {text}" for column, text in zip(self._columns, row, strict=True)), flush=True)

    def note(self, text):
        print(text, flush=True)

    def end(self, text=""):
        if text:
            print(text, flush=True)


class LiveDisplay(QuietDisplay):
    """A table of the last epochs above two progress bars."""

    def __init__(self, rows: int = 12):
        from rich.console import Console

        self._console, self._rows, self._kept, self._live = Console(), rows, [], None

    def begin(self, title, columns, epochs, steps, start=0):
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._title, self._columns, self._steps, self._kept = title, columns, steps, []
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}")
        )
        self._all = self._progress.add_task("all steps", total=epochs * steps, completed=start * steps, loss="")
        self._one = self._progress.add_task("epoch", total=steps, loss="")
        self._done, self._drawn = start, 0.0
        self._live = Live(self._render(), console=self._console, auto_refresh=False)
        self._live.start()

    def step(self, done, loss):
        self._progress.update(self._one, completed=done, loss="" if loss is None else f"loss {loss:.3f}")
        self._progress.update(self._all, completed=self._done * self._steps + done)
        if time.monotonic() - self._drawn > 0.1:
            self._draw()

    def epoch(self, row):
        self._done += 1
        self._kept.append(row)
        self._draw()

    def note(self, text):
        self._console.print(text)

    def end(self, text=""):
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None
        if text:
            self._console.print(text, highlight=False)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.update(self._render(), refresh=True)

    def _render(self):
        from rich import box
        from rich.console import Group
        from rich.table import Table

        table = Table(title=self._title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
        for column in self._columns:
            table.add_column(column, justify="right")
        if len(self._kept) > self._rows:
            table.add_row(*["…"] * len(self._columns))
        for row in self._kept[-self._rows :]:
            table.add_row(*row)
        return Group(table, self._progress)


def make_display(kind: str) -> QuietDisplay:
    """The display of a name: live, plain, quiet, or auto (live on a terminal, else plain)."""
    if kind == "auto":
        kind = "live" if sys.stdout.isatty() else "plain"
    return {"live": LiveDisplay, "plain": PlainDisplay, "quiet": QuietDisplay}[kind]()
