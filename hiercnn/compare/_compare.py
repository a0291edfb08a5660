"""Train recipes over seeds, or reuse finished runs, and set them side by side."""

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from hiercnn.compare._budgets import shortened
from hiercnn.compare._clustered import from_run_of_seed, source_of, stand_in
from hiercnn.compare._runs import Job, Tell, finished_runs
from hiercnn.compare._search import check_equal_search, tuned
from hiercnn.compare._summary import check_same_images, summarise
from hiercnn.compare._table import csv_text, markdown
from hiercnn.errors import RecipeError, TrainingError, did_you_mean, shorten
from hiercnn.files import atomic_file
from hiercnn.recipe import Recipe, Run, differing_keys, load_recipe
from hiercnn.train import process_number

PAIRED = frozenset({"seed", "data.name", "data.root", "data.file", "data.val", "data.seed", "eval.test"})


def compare(
    recipes: Sequence[str | Path | Recipe],
    *,
    seeds: int = 1,
    out: Path | str = "runs/compare",
    baseline: str | None = None,
    budgets: Sequence[float] = (),
    jobs: int = 1,
    overrides: Sequence[str] = (),
    trust_imports: bool = False,
    tell: Tell = lambda text: None,
) -> dict[str, Any]:
    """Train every recipe with seeds 0..n−1 (added to the recipe's own), unless that run is finished already, and compare.

    Runs live in `out/<recipe name>-seed<k>`, shorter ones in `out/<recipe name>-0.6E-seed<k>`; unfinished ones are resumed. Recipes with
    a `search:` section are tuned first, in `out/search`. Everything is written to `out/compare.json`; `compare.md` (tables) and
    `compare.csv` (a row a run) are made from it. A comparison of other recipes that is there already is kept as `compare-1.json`, ….

    Args:
        recipes: Files, shipped names or Recipes, of different names.
        seeds: Number of seeds.
        out: Folder of the runs and of compare.json.
        baseline: Name of the recipe that the others are compared with; default: the first without heads, else the first.
        budgets: Shares of the epochs, such as 0.4, 0.6, 0.8, at which complete, shorter schedules are trained as well.
        jobs: Runs at once, in processes of their own.
        overrides: Applied to every recipe.
        tell: Called with a line before each run.

    Returns:
        What compare.json holds.

    Raises:
        RecipeError: Two recipes of one name, an unknown baseline, recipes on different data, unequal search, impossible budgets.
        TrainingError: The loss of a run was not finite; all others are finished.
    """
    out = Path(out)
    loaded = [load_recipe(recipe, overrides, trust_imports=trust_imports, check=False) for recipe in recipes]
    _check_comparable(loaded, baseline)
    check_equal_search(loaded)
    shares = sorted({float(share) for share in budgets} - {1.0})
    for recipe in loaded:
        for share in [1.0, *shares]:  # before anything is trained: is it possible?
            load_recipe(shortened(recipe, share), trust_imports=trust_imports, stand_in=stand_in(recipe, loaded))
    _check_budgets(loaded, shares)
    _check_folders([_job(recipe, share, number, out) for recipe in loaded for share in [1.0, *shares] for number in range(seeds)])
    how = {"processes": jobs, "trust_imports": trust_imports, "tell": tell}
    loaded, search = tuned(loaded, out, **how)
    names = [recipe.name for recipe in loaded]
    wanted = {
        (recipe.name, share): [_job(shortened(recipe, share), share, number, out, names) for number in range(seeds)]
        for share in [1.0, *shares]
        for recipe in loaded
    }
    by_seed = [listed[number] for number in range(seeds) for listed in wanted.values()]
    first: dict[int, Run] = {}

    def check(run: Run) -> None:  # as soon as two runs of a seed show it, not after the last of many
        check_same_images([first.setdefault(run.recipe.seed, run), run])

    finished: dict[Path, Run] = {}
    waiting = [job for job in by_seed if source_of(job.recipe, names)]  # for the runs that their trees are clustered from
    for jobs_now in ([job for job in by_seed if job not in waiting], waiting):
        runs_now = finished_runs(jobs_now, **how, may_fail=True, check=check)
        finished |= {job.path: run for job, run in zip(jobs_now, runs_now, strict=True)}
        _check_finite(runs_now)
    runs = {key: [finished[job.path] for job in listed] for key, listed in wanted.items()}
    result = summarise({name: listed for (name, share), listed in runs.items() if share == 1.0}, loaded, baseline=baseline, short=runs)
    result["search"] = search
    if not process_number():
        _write(out, result)
    return result


def _job(recipe: Recipe, share: float, number: int, out: Path, names: Sequence[str] = ()) -> Job:
    seed = recipe.seed + number
    budget = "" if share == 1.0 else f"-{share:g}E"
    return Job(from_run_of_seed(recipe, seed, out, names), out / f"{recipe.name}{budget}-seed{seed}")


def _write(out: Path, result: dict[str, Any]) -> None:
    _keep_other(out, result)
    texts = {"json": json.dumps(result, indent=1), "md": markdown(result), "csv": csv_text(result)}
    for suffix, text in texts.items():
        with atomic_file(out / f"compare.{suffix}") as scratch:
            scratch.write_text(text, encoding="utf-8")


def _keep_other(out: Path, result: dict[str, Any]) -> None:
    """Put a comparison of other recipes, or of more seeds, aside as compare-1, compare-2, …; its runs stay where they are."""
    old = out / "compare.json"
    try:
        runs = {run["path"] for row in json.loads(old.read_text(encoding="utf-8"))["recipes"].values() for run in row["runs"]}
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        runs = {"not readable"}
    if runs <= {run["path"] for row in result["recipes"].values() for run in row["runs"]}:
        return
    number = next(number for number in count(1) if not (out / f"compare-{number}.json").exists())
    for suffix in ("json", "md", "csv"):
        with suppress(FileNotFoundError):
            (out / f"compare.{suffix}").rename(out / f"compare-{number}.{suffix}")


def _check_finite(runs: Sequence[Run]) -> None:
    lost = [run for run in runs if run.failed]
    if lost:
        raise TrainingError(
            f"the loss was not finite in {shorten(str(run.path) for run in lost)}; the other runs are finished and will be used again. "
            "Lower optim.lr or set optim.clip_norm=1 in the recipe, delete these folders, and call again"
        )


def _check_budgets(recipes: Sequence[Recipe], shares: Sequence[float]) -> None:
    for recipe in recipes:
        epochs = [shortened(recipe, share).epochs for share in (*shares, 1.0)]
        if len(set(epochs)) < len(epochs):
            listed = ", ".join(f"{share:g} → {n}" for share, n in zip((*shares, 1.0), epochs, strict=True))
            raise RecipeError(f"{recipe.name}: two budgets have the same number of epochs ({listed}); take others")


def _check_folders(jobs: Sequence[Job]) -> None:
    paths = [job.path for job in jobs]
    shared = sorted({path for path in paths if paths.count(path) > 1})
    if shared:
        raise RecipeError(f"two runs would share {shorten(shared)}; rename a recipe, or take other budgets")


def _check_comparable(recipes: Sequence[Recipe], baseline: str | None) -> None:
    names = [recipe.name for recipe in recipes]
    if len(names) < 1 or len(set(names)) < len(names):
        raise RecipeError(f"compare needs recipes of different names; got {shorten(names)} (set name: in each)")
    if baseline is not None and baseline not in names:
        raise RecipeError(f"no recipe here is called '{baseline}'{did_you_mean(baseline, names)}; the baseline is one of {shorten(names)}")
    fixed = sorted({key for recipe in recipes if recipe.search for key in recipe.search.space if key in {*PAIRED, "name"}})
    if fixed:
        raise RecipeError(f"search.space cannot have {shorten(fixed)}: all runs of a comparison have that in common")
    first = recipes[0]
    for other in recipes[1:]:
        different = [key for key in differing_keys(first, other) if key in PAIRED]
        if different:
            raise RecipeError(f"{first.name} and {other.name} cannot be compared; they differ in {', '.join(different)}")
