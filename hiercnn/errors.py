"""The errors hiercnn raises on purpose. Each message names what was wrong, what was wanted and what to do."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class HierCNNError(Exception):
    """Base of every error that is the caller's to mend; the command line prints it without a traceback."""


class HierarchyError(HierCNNError):
    """The classes do not form a usable tree, or a cut of it does not exist."""


class DataError(HierCNNError):
    """Images or labels are missing, unreadable or do not match the hierarchy."""


class RecipeError(HierCNNError):
    """A recipe has unknown keys, wrong values, or asks for something that does not exist."""


class CheckpointError(HierCNNError):
    """A run folder or checkpoint cannot be read, written or used with these classes."""


class ShapeError(HierCNNError):
    """A tensor's shape or dtype does not fit; names the argument, what was wanted and what came."""


class TrainingError(HierCNNError):
    """Training cannot go on, for instance because the loss is not finite."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def shorten(words: Iterable[object], limit: int | None = 8) -> str:
    """Return `'a', 'b', … (12 in all)`: a list that stays readable in a message; all of it with limit=None."""
    listed = list(words)
    limit = len(listed) if limit is None else limit
    text = ", ".join(repr(str(word)) for word in listed[:limit])
    return text if len(listed) <= limit else f"{text}, … ({len(listed)} in all)"


def why_unread(path: Path, error: OSError) -> str:
    """Return the system's reason; for a relative path that is not there also the folder in which it was looked for."""
    astray = isinstance(error, FileNotFoundError) and not path.is_absolute()
    return f"{error.strerror}" + (f" in {Path.cwd()}; start where it is, or give the whole path" if astray else "")


class Interrupted(HierCNNError):
    """Training was asked to stop and has saved; `signal` is the signal's number (2 for Ctrl-C, 15 for SIGTERM)."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal
