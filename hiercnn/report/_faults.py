"""Ranked findings of `hiercnn diagnose` that a run folder holds: `diagnose/SPLIT/DETECTOR.csv`."""

import csv
from pathlib import Path

from hiercnn.recipe import Run

COLUMNS = ("rank", "score", "split", "image", "label", "predicted", "other_image", "sentence")
SHOWN = 200  # findings of a detector on the page


def faults(run: Run) -> tuple[dict[str, list[dict[str, str]]], list[str]]:
    """Findings by detector and split, in order of rank, and a sentence for each file that could not be read."""
    found: dict[str, list[dict[str, str]]] = {}
    problems = []
    for file in sorted((run.path / "diagnose").glob("*/*.csv")):
        try:
            found[f"{file.stem} ({file.parent.name})"] = _read(file)
        except (OSError, ValueError, csv.Error) as error:
            problems.append(f"{file.parent.name}/{file.name} is left out: {error}.")
    return found, problems


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
