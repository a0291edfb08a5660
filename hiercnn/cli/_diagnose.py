"""`hiercnn diagnose`: suspicions as tables, CSV or JSON; progress and notes go to stderr."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence

from hiercnn.recipe import FAULT_COLUMNS, Diagnosis, Run, diagnose_run

FORMATS = ("table", "csv", "json")


def print_diagnosis(run: Run, names: Sequence[str] | None, form: str, top: int, **options: object) -> Diagnosis:
    """Judge a run's images and print the `top` worst of every detector."""
    from rich.console import Console

    errors = Console(stderr=True)

    def tell(text: str) -> None:
        errors.print(text, markup=False, highlight=False, soft_wrap=True)

    found = diagnose_run(run, names, **options, tell=tell)
    {"table": _print_tables, "csv": _print_csv, "json": _print_json}[form](found, top)
    for note in found.facts["notes"]:
        tell(f"note: {note}")
    tell(f"all of it in {found.folder}: {', '.join(f'{name}.csv' for name in found.rows)}")
    return found


def _print_tables(found: Diagnosis, top: int) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 180)
    facts = found.facts
    how = f"out of {facts['folds']} folds" if facts["folds"] else f"held out, {facts['weights']} weights"
    console.print(f"{facts['images']:,} images of {facts['split']}, {how}, {100 * facts['accuracy']:.1f} % as labelled", highlight=False)
    for name, rows in found.rows.items():
        console.print(f"{name}: {len(rows):,} suspicion{'' if len(rows) == 1 else 's'}", style="italic", highlight=False)
        if not rows:
            continue
        console.print(_table([dict(zip(FAULT_COLUMNS, row, strict=True)) for row in rows[:top]]))


def _table(found: Sequence[Mapping[str, object]]):
    """Score, image and reason of each suspicion; without a column of images where classes are suspected."""
    from rich.table import Table
    from rich.text import Text

    images = [" and ".join(str(row[key]) for key in ("image", "other_image") if row[key]) for row in found]
    table = Table("score", *(["image"] if any(images) else []), "why")
    for row, image in zip(found, images, strict=True):
        cells = (f"{row['score']:.3g}", *([image] if any(images) else []), row["sentence"])
        table.add_row(*map(Text, cells))  # names are no markup
    return table


def _print_csv(found: Diagnosis, top: int) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["detector", *FAULT_COLUMNS])
    writer.writerows([name, *row] for name, rows in found.rows.items() for row in rows[:top])


def _print_json(found: Diagnosis, top: int) -> None:
    faults = {name: [dict(zip(FAULT_COLUMNS, row, strict=True)) for row in rows[:top]] for name, rows in found.rows.items()}
    print(json.dumps(found.facts | {"faults": faults}, indent=1, ensure_ascii=False))
