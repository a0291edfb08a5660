"""The run folder: the contract between training and everything after. Nothing reads a live trainer."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from hiercnn.errors import CheckpointError, HierarchyError, shorten
from hiercnn.files import atomic_file
from hiercnn.hierarchy import Cut, Hierarchy, read_cuts, read_hierarchy, save_hierarchy
from hiercnn.train._events import missing_keys, wrong_value


class RunFolder:
    """Paths and files of one run.

    Attributes:
        path: The folder, which holds recipe.yaml, environment.json, hierarchy.json, metrics.jsonl, checkpoints/, predictions/.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def hierarchy_file(self) -> Path:
        return self.path / "hierarchy.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return os.path.exists(self.recipe_file)  # Path.exists raises where a folder may not be read, or the name is too long

    def check_recipe_is_there(self) -> None:
        """Raise CheckpointError if this is a run without its recipe.yaml: to begin anew would overwrite it."""
        if self.exists():
            return
        known = [file for file in (self.checkpoints / "state.pt", self.metrics_file) if os.path.isfile(file) and os.path.getsize(file)]
        if known:
            raise CheckpointError(
                f"{self.path} holds a run ({known[0].name}) whose recipe.yaml is gone; put that back, or choose another --run-dir"
            )

    # ---- writing ---------------------------------------------------------------------------------------------------

    def create(self, recipe_text: str, environment: Mapping[str, object], hierarchy: Hierarchy, cuts: list[Cut]) -> None:
        """Write what is known before step 0; recipe.yaml comes last, as the sign that the run exists."""
        try:
            for folder in (self.checkpoints, self.predictions):
                folder.mkdir(parents=True, exist_ok=True)
            save_hierarchy(hierarchy, self.hierarchy_file, cuts)
            for file, text in ((self.path / "environment.json", json.dumps(environment, indent=2) + "\n"), (self.metrics_file, "")):
                file.unlink(missing_ok=True)  # if it is a link, what it leads to is not ours to write
                file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write to the run folder {self.path}: {error.strerror}; choose another with --run-dir") from None
        with atomic_file(self.recipe_file) as scratch:
            scratch.write_text(recipe_text, encoding="utf-8")

    def log(self, event: Mapping[str, object]) -> None:
        """Append one event to metrics.jsonl and push it to the disk."""
        try:
            with open(self.metrics_file, "r+", encoding="utf-8") as file:  # "a" would begin a file anew that has vanished
                file.seek(0, os.SEEK_END)
                file.write(json.dumps(event) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.metrics_file}: {error.strerror}; the last checkpoint is intact, free space and --resume"
            ) from None

    def note_resume(self, environment: Mapping[str, object]) -> None:
        """Add where and with what the run goes on to environment.json."""
        path = self.path / "environment.json"
        try:
            first = json.loads(path.read_text(encoding="utf-8"))
            resumed = [*first.get("resumed", []), environment]
        except (OSError, ValueError, RecursionError, AttributeError, TypeError):  # lost or damaged, which must not keep a run from its end
            first, resumed = dict(environment), [environment]
        with atomic_file(path) as scratch:
            scratch.write_text(json.dumps(first | {"resumed": resumed}, indent=2) + "\n", encoding="utf-8")

    def restore_tree(self, hierarchy: Hierarchy, cuts: list[Cut]) -> None:
        """Write hierarchy.json again if it has vanished or is damaged."""
        try:
            read_cuts(self.hierarchy_file, hierarchy)
            intact = read_hierarchy(self.hierarchy_file).digest == hierarchy.digest
        except HierarchyError:
            intact = False
        if not intact:
            save_hierarchy(hierarchy, self.hierarchy_file, cuts)

    def keep_events(self, count: int) -> None:
        """Cut metrics.jsonl back to its first `count` events: those that a checkpoint knows of."""
        if not self.metrics_file.exists():
            raise CheckpointError(f"{self.metrics_file} has vanished; begin again in another folder")
        known = len(self.events)  # a half-written last line is none
        if known < count:
            raise CheckpointError(f"{self.metrics_file} has {known} events, the checkpoint knows {count}; begin again in another folder")
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines()
        with atomic_file(self.metrics_file) as scratch:
            scratch.write_text("".join(f"{line}\n" for line in lines[:count]), encoding="utf-8")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one process. The lock goes with the process, however it ends."""
        import fcntl

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = open(self.path / "lock", "ab+", buffering=0, opener=_open_no_link)  # noqa: SIM115  held open as long as the lock
        except OSError as error:
            raise CheckpointError(f"cannot write to the run folder {self.path}: {error.strerror}; choose another with --run-dir") from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                handle.seek(0)
                raise CheckpointError(
                    f"run folder {self.path} is in use by process {handle.read().decode().strip() or '?'}; choose another --run-dir"
                ) from None
            with contextlib.suppress(OSError):  # a full disk: the lock holds without the number
                handle.truncate(0)
                handle.write(str(os.getpid()).encode())
            try:
                yield
            finally:
                if not self.exists():  # nothing was started: leave no empty folder behind
                    (self.path / "lock").unlink(missing_ok=True)
                    with contextlib.suppress(OSError):
                        self.path.rmdir()

    # ---- reading ---------------------------------------------------------------------------------------------------

    @property
    def events(self) -> list[dict]:
        """All events of metrics.jsonl; a half-written last line is left out."""
        try:
            lines = self.metrics_file.read_bytes().decode().splitlines()
        except OSError as error:
            raise CheckpointError(f"no run in {self.path}: cannot read metrics.jsonl ({error.strerror}); delete that folder") from None
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.metrics_file} is damaged; delete that folder to begin the run again") from None
        events = []
        for number, line in enumerate(lines, start=1):
            try:
                events.append(json.loads(line))
            except (ValueError, RecursionError):
                if number < len(lines):
                    raise self._damaged(number) from None
                continue
            if (wrong := wrong_value(events[-1])) is not None:
                raise self._damaged(number, f" ({wrong})")
        return events

    def _damaged(self, line: int, what: str = "") -> CheckpointError:
        return CheckpointError(f"{self.metrics_file} line {line} is damaged{what}; delete that folder to begin the run again")

    def _whole(self, event: dict) -> dict:
        """The event. Raises CheckpointError if it lacks what events of its kind have."""
        if missing := missing_keys(event):
            raise CheckpointError(
                f"{self.metrics_file} is damaged: {event['event']} without {shorten(missing)}; delete that folder to begin the run again"
            )
        return event

    @property
    def metrics(self) -> list[dict]:
        """The epoch events: one dict an evaluated epoch."""
        return [self._whole(event) for event in self.events if event["event"] == "epoch"]

    @property
    def end(self) -> dict | None:
        """The closing event of a finished run, or None."""
        return next((self._whole(event) for event in self.events if event["event"] == "end"), None)

    @property
    def finished(self) -> bool:
        return self.exists() and self.end is not None

    @property
    def failed(self) -> bool:
        """Whether training ended because its loss was not finite."""
        return self.exists() and self.events[-1:] != [] and self.events[-1]["event"] == "failed"

    @cached_property
    def hierarchy(self) -> Hierarchy:
        return read_hierarchy(self.hierarchy_file)

    @cached_property
    def cuts(self) -> list[Cut]:
        return read_cuts(self.hierarchy_file, self.hierarchy)


def _open_no_link(path: str, flags: int) -> int:
    """Open a file for the lock, which is emptied; not what a link leads to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
