"""`hiercnn report`: what was written, and what it had to leave out."""

from pathlib import Path

from rich.console import Console

from hiercnn.report import write_report


def print_report(runs: list[Path], out: Path, *, quiet: bool, **options: object) -> None:
    """Write the page, with a line before each part."""
    console = Console(soft_wrap=True, highlight=False)
    tell = (lambda text: None) if quiet else (lambda text: console.print(text, style="dim", markup=False))
    found = write_report(runs, out, tell=tell, **options)
    if quiet:
        return
    for note in found.notes:
        console.print(note, markup=False)
    if found.figures is not None:
        console.print(f"{len(found.figures.paths)} files of figures", markup=False)
        if found.figures.left_out is not None:
            console.print(found.figures.left_out, markup=False)
    console.print(f"written to {found.path}, {found.size / 1e6:.1f} MB; open it in a browser", markup=False)
