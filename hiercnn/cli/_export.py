"""`hiercnn export`: what was written, and what the check of it found."""

from hiercnn.recipe import Exported


def print_export(found: Exported, form: str) -> None:
    from rich.console import Console

    if found.difference is None:
        checked = "not checked: onnxruntime is not installed (pip install hiercnn[export])"
    else:
        checked = f"its decisions are the run's, its logits differ by {found.difference:.1g} at most"
    lines = f"{found.folder}: {found.file}, hiercnn.json, README.md\n{form}: {checked}"
    Console().print(lines, markup=False, highlight=False, soft_wrap=True)
