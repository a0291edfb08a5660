"""Ranked findings of `hiercnn diagnose` that a run folder holds: `diagnose/SPLIT/DETECTOR.csv`."""

import csv
import json
from pathlib import Path

from hiercnn.recipe import Run

COLUMNS = ("rank", "score", "split", "image", "label", "predicted", "other_image", "sentence")
SHOWN = 200  # findings of a detector on the page


def faults(run: Run) -> tuple[dict[str, list[dict[str, str]]], list[str]]:
    """Findings by detector and split, in order of rank, and a sentence for each file that could not be read, or is of another run."""
    found: dict[str, list[dict[str, str]]] = {}
    problems = []
    for file in sorted((run.path / "diagnose").glob("*/*.csv")):
        try:
            found[f"{file.stem} ({file.parent.name})"] = _read(file)
        except (OSError, ValueError, csv.Error) as error:
            problems.append(f"{file.parent.name}/{file.name} is left out: {error}.")
    problems += [
        f"{file.parent.name} was judged before this run was trained anew: call hiercnn diagnose {run.path} again."
        for file in sorted((run.path / "diagnose").glob("*/facts.json"))
        if _judged_run(file) not in (None, run.digest)
    ]
    return found, problems


def _judged_run(facts: Path) -> str | None:
    """The digest of the run that a folder of findings is of, if it can be told."""
    try:
        return json.loads(facts.read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8", errors="surrogateescape") as opened:
        reader = csv.DictReader(opened)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        rows = [{name: row[name] or "" for name in COLUMNS} for row in reader]
    wrong = [row["rank"] for row in rows if not row["rank"].strip().isdecimal()]
    if wrong:
        raise ValueError(f"rank should be a whole number, got {wrong[0]!r}")
    return sorted(rows, key=lambda row: int(row["rank"]))
