"""`hiercnn dynamics`: a progress bar, and what was learnt when as a table."""

import signal
from collections.abc import Mapping

import numpy as np

from hiercnn.dynamics import LEAF, LOGITS, TREE, Row
from hiercnn.errors import Interrupted
from hiercnn.recipe import Dynamics, Run, dynamics_of_run


def print_dynamics(run: Run, **options: object) -> Dynamics:
    """Measure a run and print a row a moment: accuracy and lift of each cut, and the tree of the last features."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    console = Console()
    with Progress(
        TextColumn("moments"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task("moments", total=None)
        try:
            found = dynamics_of_run(run, **options, tell=lambda done, count: progress.update(task, completed=done, total=count))
        except KeyboardInterrupt:
            raise Interrupted("stopped; the moments measured so far are kept, and the same command goes on", signal.SIGINT) from None
    cuts = [cut.name for cut in found.story.cuts]
    table = Table("epoch", "step", "leaf", *(f"{cut} (random)" for cut in cuts), *(f"lift {cut}" for cut in cuts), "tree r", "r final")
    for step in found.story.steps:
        here = {row[:3]: row for _, at, row in found.story.rows if at == step}
        table.add_row(str(-(-step // found.story.per_epoch)), str(step), *_cells(here, cuts, found.story.layers[-1]))
    console.print(table)
    console.print(f"accuracy on {found.story.split} in %, that of random groups of the same sizes in brackets")
    console.print("lift: right groups of wrong classes ÷ chance")
    if found.live:
        console.print("measured while the run was trained: no probes, nearest means, NC4 nor Mantel's p; checkpoints.keep=log gives these")
    console.print(
        f"{len(found.story.rows):,} numbers in {found.folder}: dynamics.csv, times.csv, means.npz", highlight=False, soft_wrap=True
    )
    return found


def _cells(here: Mapping[tuple[str, str, str], Row], cuts: list[str], last: str) -> list[str]:
    leaf = here[LOGITS, LEAF, "greedy"].value
    groups = [here[LOGITS, cut, "greedy"] for cut in cuts]
    random = ["" if np.isnan(row.random_mean) else f" ({100 * row.random_mean:.1f})" for row in groups]
    accuracy = [f"{100 * row.value:.1f}{beside}" for row, beside in zip(groups, random, strict=True)]
    lifts = [f"{here[LOGITS, cut, 'lift'].value:.2f}" for cut in cuts]
    tree = [f"{here[last, TREE, key].value:.2f}" for key in ("pearson", "r_final")]
    return [f"{100 * leaf:.1f}", *accuracy, *lifts, *tree]
