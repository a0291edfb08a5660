"""`hiercnn predict`: answers for images as a table, JSON lines or CSV; progress and what could not be read go to stderr."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.inference import Prediction, Predictor, is_exported, load_exported, pretrained_predictor

Format = Literal["table", "jsonl", "csv"]
FORMATS = ("table", "jsonl", "csv")
COLUMNS = ("file", "answer", "level", "probability", "path", "reason")


def predictor_of(
    source: str,
    rule: str | None,
    options: Mapping[str, Any],
    *,
    early: Mapping[str, Any],
    weights: str | None,
    device: str,
    trust_imports: bool,
    **given: Any,
) -> Predictor:
    """The predictor of a run folder, of what `hiercnn export` has written, or of a pretrained timm model.

    `early` asks for early answers, `given` is what all take.
    """
    from hiercnn.recipe import Run, early_predictor, predictor_of_run
    from hiercnn.train import pick_device

    folder = Path(source)
    if not folder.exists():
        _check_model(source)
    if folder.exists() and not is_exported(folder):
        run, given = Run(folder, trust_imports=trust_imports), {"weights": weights or "last", "device": device, **given}
        if early:
            return early_predictor(run, rule=rule or "argmax", options=options, **early, **given)
        return predictor_of_run(run, rule, options, **given)
    if early:
        raise RecipeError("--level, --budget and --early-loss are for run folders: what was exported, or is timm's, has one network")
    if not folder.exists():
        return pretrained_predictor(source, rule or "climbing", options, weights=weights or "timm", device=pick_device(device), **given)
    if weights not in (None, "last"):
        raise RecipeError(f"--weights: an exported folder has one network, that of its export; leave out --weights {weights}")
    return load_exported(folder, rule, options, device=device if device == "auto" else pick_device(device), **given)


def _check_model(name: str) -> None:
    """Raise RecipeError unless timm has a model of this name."""
    import timm

    if not timm.is_model(name):
        raise RecipeError(f"there is no folder {name}, and timm has no such model{did_you_mean(name, timm.list_models())}")


def print_predictions(predictor: Predictor, paths: Sequence[Path], form: Format) -> int:
    """Print the answers as they come (a table at the end) and return the exit code: 3 if some files could not be read."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise RecipeError(f"there is no file or folder {', '.join(missing)}")
    errors = Console(stderr=True)
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files are not always text, nor every terminal UTF-8
    write = {"table": _Table, "jsonl": _Lines, "csv": _Csv}[form]()
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("images", total=None)
        inputs = predictor.inputs(list(paths))
        progress.update(task, total=len(inputs))
        for prediction in predictor.stream(inputs, done=lambda count: progress.advance(task, count)):
            write(prediction)
    write.end()
    for file, reason in predictor.unreadable.items():
        errors.print(f"left out {file}: {reason.removeprefix(f'unreadable image {file}: ')}", markup=False, highlight=False, soft_wrap=True)
    return 3 if predictor.unreadable else 0


def _cells(prediction: Prediction) -> list[str]:
    path = " > ".join(f"{title} {share:.1%}" for title, share in prediction.path)
    return [prediction.id, prediction.title, prediction.level, f"{prediction.probability:.1%}", path, prediction.reason]


class _Table:
    def __init__(self):
        from rich.table import Table

        self.table = Table()
        for column in COLUMNS:
            self.table.add_column(column, overflow="fold")

    def __call__(self, prediction: Prediction) -> None:
        from rich.text import Text

        self.table.add_row(*map(Text, _cells(prediction)))  # names are no markup

    def end(self) -> None:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 180).print(self.table)


class _Lines:
    def __call__(self, prediction: Prediction) -> None:
        print(json.dumps(prediction.plain()))

    def end(self) -> None:
        pass


class _Csv:
    def __init__(self):
        self.writer = csv.writer(sys.stdout, lineterminator="\n")
        self.writer.writerow(COLUMNS)

    def __call__(self, prediction: Prediction) -> None:
        self.writer.writerow(_cells(prediction))

    def end(self) -> None:
        pass
