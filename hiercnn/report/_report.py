"""Run folders → one page."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from hiercnn.compare import cells, difference_cells, notes, seeds, title
from hiercnn.data import ImageSet
from hiercnn.dynamics import findings
from hiercnn.errors import CheckpointError, HierCNNError
from hiercnn.files import atomic_file
from hiercnn.pictures import Saved, make_folder
from hiercnn.recipe import Dynamics, Run, kept_dynamics, source_images
from hiercnn.report._blocks import View, confusion_of, plain, view
from hiercnn.report._faults import SHOWN, faults
from hiercnn.report._figures import learning_figures, on_page, overview_figures, save_figures, view_figures
from hiercnn.report._overview import Comparison, Sentence, blocks_sentences, check_same_classes, comparison, role, sentences
from hiercnn.report._pack import packed
from hiercnn.report._page import MARK, items, page, table
from hiercnn.report._thumbnails import Gallery, chosen, gallery

Tell = Callable[[str], None]


class Report(NamedTuple):
    """What was written: the page, its size in bytes, the runs whose views it has, and what it had to leave out; figures if asked for."""

    path: Path
    size: int
    shown: list[Run]
    notes: list[str]
    figures: Saved | None


def write_report(
    folders: Sequence[Path | str],
    out: Path | str,
    *,
    figures: Path | None = None,
    images: int = 2000,
    thumbnails: int = 4000,
    trust_imports: bool = False,
    tell: Tell = lambda text: None,
) -> Report:
    """Make one self-contained page of run folders.

    Tables compare all finished runs; the linked views show one run of each recipe, that of its first seed.

    Args:
        folders: Run folders, or folders of run folders.
        out: The page. A report that is there already is replaced, another file is not.
        figures: Folder for every figure as SVG, PNG and CSV.
        images: Images of train on which responses of layers are measured, where `hiercnn dynamics` has not; 0 for none.
        thumbnails: Pictures of images on the page, at most; 0 for none.
        trust_imports: Whether the modules that the recipes import may be imported.
        tell: Called with a line before each part.

    Raises:
        CheckpointError: No run, a damaged one, or a page that cannot be written there.
        RecipeError: Runs that cannot share a report: other classes, or one recipe and seed twice.
    """
    out = checked_out(Path(out))
    if figures is not None:
        make_folder(figures)
    named = [Run(folder, trust_imports=trust_imports) for folder in run_folders(folders)]
    runs = [run for run in named if run.events] or named  # if none has begun, the first one's error says so
    check_same_classes(runs)
    compared = comparison(runs)
    if len(runs) < len(named):
        compared.notes.append(f"Not begun, so left out: {', '.join(run.path.name for run in named if run not in runs)}.")
    shown = _one_a_recipe(runs)
    views = []
    for run in shown:
        tell(f"{run.path.name}: predictions and responses")
        views.append(view(run, images=images))
    learnt = [_learnt(run) for run in shown]
    found = [faults(run) for run in shown]
    tell("thumbnails")
    pictures = _pictures(views, [lists for lists, _ in found], thumbnails)
    drawn = {} if compared.result is None else overview_figures(compared.result, compared.runs)
    per_run = [{} if dynamics is None else learning_figures(dynamics) for dynamics, _ in learnt]
    tell("the page")
    text = page(
        title=_title(runs),
        lede=_lede(runs),
        runs=run_names(shown),
        overview=_overview(compared, views, runs),
        footer=_footer(runs),
        data=_data(views, learnt, found, pictures),
        charts={
            "overview": [on_page(figure) for figure in drawn.values()],
            "learning": [[on_page(figure) for figure in each.values()] for each in per_run],
        },
        sheets=pictures.gallery.sheets,
    )
    with atomic_file(out) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="surrogateescape")
    saved = None if figures is None else save_figures(_named_figures(drawn, per_run, views), figures)
    return Report(
        out, out.stat().st_size, shown, [*compared.notes, *(note for each in views for note in each.notes), *pictures.notes], saved
    )


def run_folders(folders: Sequence[Path | str]) -> list[Path]:
    """Run folders, each once: those given, and those inside folders that are none. Raises CheckpointError for a folder without any."""
    found: dict[Path, None] = {}
    for folder in map(Path, folders):
        inside = [folder] if Run(folder).exists() else sorted(file.parent for file in folder.glob("*/recipe.yaml"))
        if not inside:
            raise CheckpointError(f"no run in {folder}; give run folders (with recipe.yaml), or a folder of them: runs/compare")
        found |= dict.fromkeys(inside)
    return list(found)


def checked_out(out: Path) -> Path:
    """Where the page goes, before the work begins. Raises CheckpointError for a file that is no report, or one that cannot be written."""
    try:
        if out.exists():
            with open(out, encoding="utf-8", errors="replace") as file:
                if MARK not in file.read(200):
                    raise CheckpointError(f"{out} exists and is no report; name another file with --out")
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = out.with_name(out.name + ".tmp")
        scratch.touch()
        scratch.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write {out}: {error.strerror}; name another file with --out") from None
    return out


def _one_a_recipe(runs: Sequence[Run]) -> list[Run]:
    first: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.recipe.seed):
        first.setdefault(run.recipe.name, run)
    return [run for run in runs if run in first.values()]


# ---- texts


def _title(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(run.recipe.name for run in runs))
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _lede(runs: Sequence[Run]) -> str:
    first = runs[0]
    sizes = ", ".join(f"{size:,} {split}" for split, size in first.start["sizes"].items() if size)
    data = f"{first.recipe.data.name}: {first.hierarchy.num_classes:,} classes, {sizes} images"
    recipes = len({run.recipe.name for run in runs})
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {recipes} recipe{'s' if recipes > 1 else ''} · {data}"


def _footer(runs: Sequence[Run]) -> str:
    sources = ", ".join(str(run.path) for run in runs)
    return f"Made by hiercnn {version('hiercnn')} from {sources}. This page needs no network and no server."


def _overview(compared: Comparison, views: Sequence[View], runs: Sequence[Run]) -> str:
    parts, result = [], compared.result
    if result is None:
        parts.append(table(_unfinished(runs), "Runs"))
    else:
        parts.append(table(_with_roles(cells(result), result), title(result), "roles"))
        if len(result["recipes"]) > 1 and seeds(result) > 1:
            parts.append(table(difference_cells(result), "Paired differences, 95 % t intervals; accuracy in points, gap in nats"))
        parts += ["<h3>What the numbers support</h3>", _said(sentences(result))]
    parts += [_blocks_said(each, first=number == 0) for number, each in enumerate(views) if each.last is not None and each.cuts]
    parts.append(items(compared.notes))
    if result is not None:
        parts.append(f"<details><summary>How to read the tables</summary>{items(notes(result))}</details>")
    return "".join(parts)


def _blocks_said(each: View, *, first: bool) -> str:
    """What the errors of a run say of blocks; of all runs but the first on request."""
    heading = f"Blocks in the errors of {escape(each.run.path.name)}, {each.last.split}"
    said = _said(blocks_sentences(confusion_of(each.last, each.tree), each.tree, each.cuts))
    return f"<h3>{heading}</h3>{said}" if first else f"<details><summary>{heading}</summary>{said}</details>"


def _with_roles(rows: list[list[str]], result: Mapping[str, Any]) -> list[list[str]]:
    """The table of `hiercnn compare` with what each recipe is beside its name."""
    head, *body = rows
    return [[head[0], "role", *head[1:]], *([row[0], role(result["recipes"][row[0]]["recipe"]), *row[1:]] for row in body)]


def _unfinished(runs: Sequence[Run]) -> list[list[str]]:
    rows = []
    for run in runs:
        last = run.metrics[-1] if run.metrics else None
        leaf = "–" if last is None else f"{100 * last['val']['accuracy']['leaf']:.1f}"
        rows.append([run.path.name, f"{last['epoch'] if last else 0} of {run.recipe.epochs}", leaf])
    return [["run", "epochs", "val leaf accuracy in %"], *rows]


def _said(found: Sequence[Sentence]) -> str:
    return f'<ul class="sentences">{"".join(f"<li class={each.tone}>{escape(each.text)}</li>" for each in found)}</ul>'


# ---- data


class _Pictures(NamedTuple):
    """Pictures, ids by set of images, and why some are not there."""

    gallery: Gallery
    sets: dict[str, list[str]]
    notes: list[str]


def _set_name(run: Run, split: str) -> str:
    """What tells a split's images from others; runs of one seed share theirs."""
    return f"{split} {run.start['digests'].get(split, run.path)}"


def _pictures(views: Sequence[View], lists: Sequence[Mapping[str, Any]], budget: int) -> _Pictures:
    by_set: dict[str, list] = {}
    for each in views:
        for one in each.evaluations:
            if one.ids is not None and one.paths is not None:
                by_set.setdefault(_set_name(each.run, one.split), []).append(one)
    sets = {name: found[0].ids for name, found in by_set.items()}
    shown = [row for found in lists for rows in found.values() for row in rows[:SHOWN]]
    of_faults = [row[key] for row in shown for key in ("image", "other_image") if row[key]]
    if not budget or not (sets or of_faults):
        return _Pictures(Gallery(64, [], {}, 0), sets, [])
    images, problems = _images(views, with_train=bool(of_faults))
    wanted: list[str] = []
    for left, found in zip(range(len(by_set), 0, -1), sorted(by_set.values(), key=lambda found: len(found[0].labels)), strict=True):
        wanted += chosen(found, (budget - len(wanted)) // left)  # small sets leave room for others
    return _Pictures(gallery(images, [*wanted, *of_faults]), sets, problems)


def _images(views: Sequence[View], *, with_train: bool) -> tuple[dict[str, ImageSet], list[str]]:
    """Every split that a run has, those of runs with the same images once."""
    images: dict[str, ImageSet] = {}
    problems = []
    for each in views:
        splits = [split for split in each.run.start["digests"] if with_train or split != "train"]
        if all(_set_name(each.run, split) in images for split in splits):
            continue
        try:
            images |= {_set_name(each.run, name): split for name, split in source_images(each.run).items() if name in splits}
        except HierCNNError as error:
            problems.append(f"No pictures of {each.run.path.name}: {error}.")
    return images, problems


def _learnt(run: Run) -> tuple[Dynamics | None, str]:
    """What is known of how a run learnt, and a sentence that says where it comes from, or how to make it."""
    again = f"call hiercnn dynamics {run.path}, and make the report again."
    try:
        dynamics = kept_dynamics(run)
    except HierCNNError as error:
        return None, f"{error}."
    if dynamics is None and any(run.checkpoints.glob("step-*.safetensors")):
        return None, f"Weights of several moments are kept but not measured: {again}"
    if dynamics is None:
        return None, f"Nothing was measured of how this run learnt. Train it with checkpoints.keep=log, {again}"
    story = dynamics.story
    where = "while it was trained" if dynamics.live else "from weights that it has kept"
    return dynamics, f"{len(story.steps)} moments, measured {where}; accuracy on {story.split}."


def _data(
    views: Sequence[View],
    learnt: Sequence[tuple[Dynamics | None, str]],
    found: Sequence[tuple[dict[str, list[dict[str, str]]], list[str]]],
    pictures: _Pictures,
) -> dict[str, object]:
    numbers = pictures.gallery.numbers
    sets = {name: {"ids": ids, "pictures": packed([numbers.get(each, -1) for each in ids], "int32")} for name, ids in pictures.sets.items()}
    runs = []
    for each in views:
        names = {one.split: _set_name(each.run, one.split) for one in each.evaluations if _set_name(each.run, one.split) in sets}
        runs.append(plain(each, names))
    return {
        "runs": runs,
        "sets": sets,
        "side": pictures.gallery.side,
        "pictures": _told(pictures),
        "learning": [{"text": text, "findings": [] if one is None else _findings(one)} for one, text in learnt],
        "faults": [_faults(each.run, lists, problems, numbers) for each, (lists, problems) in zip(views, found, strict=True)],
    }


def _told(pictures: _Pictures) -> str:
    """How many images have a picture, or why none has."""
    shown, all_of_them = len(pictures.gallery.numbers), sum(map(len, pictures.sets.values()))
    if pictures.notes:
        return " ".join(pictures.notes)
    if not shown:
        return "No pictures: the page was made without, or the run has kept no names of images."
    lost = f"; {pictures.gallery.unreadable} could not be opened" if pictures.gallery.unreadable else ""
    return f"{shown:,} of {all_of_them:,} images have a picture{lost}" if shown < all_of_them or lost else ""


def _findings(dynamics: Dynamics) -> list[dict[str, object]]:
    tones = {True: "yes", False: "no", None: "open"}
    return [
        {"cells": [each.claim, each.what, f"{each.value:.3g}", f"{each.against:.3g}"], "tone": tones[each.supported]}
        for each in findings(dynamics.story)
    ]


def _numbers_of(row: Mapping[str, str], numbers: Mapping[str, int]) -> list[int]:
    """Those of the pictures of a finding's images; -1 for an image that has none."""
    return [numbers.get(row[key], -1) for key in ("image", "other_image") if row[key]]


def _faults(run: Run, lists: Mapping[str, list[dict[str, str]]], problems: list[str], numbers: Mapping[str, int]) -> dict[str, object]:
    how = f"No detector has looked at this run: call hiercnn diagnose {run.path}, and make the report again."
    text = problems if lists or problems else [how]
    shown = [
        {"detector": name, "total": len(rows), "rows": [row | {"pictures": _numbers_of(row, numbers)} for row in rows[:SHOWN]]}
        for name, rows in lists.items()
    ]
    return {"text": text, "lists": shown}


def _named_figures(drawn: Mapping[str, Any], per_run: Sequence[Mapping[str, Any]], views: Sequence[View]) -> dict[str, Any]:
    """Every figure by a name of its own: those of runs begin with the run."""
    named = dict(drawn)
    for learnt, each, name in zip(per_run, views, run_names([each.run for each in views]), strict=True):
        named |= {f"{name}-{what}": figure for what, figure in {**learnt, **view_figures(each)}.items()}
    return named


def run_names(runs: Sequence[Run]) -> list[str]:
    """What tells runs apart: names of their folders, with the recipe's behind where folders are namesakes."""
    names = [run.path.resolve().name for run in runs]
    return [name if names.count(name) == 1 else f"{name}-{run.recipe.name}" for name, run in zip(names, runs, strict=True)]
