"""Train recipes over seeds, or reuse finished runs, and set them side by side."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hiercnn.compare._statistics import epochs_to_target, final_accuracy, paired_difference, smoothed_val, spread, train_val_gap
from hiercnn.errors import Interrupted, RecipeError, shorten
from hiercnn.recipe import Recipe, Run, differing_keys, fit, load_recipe
from hiercnn.train import atomic_file

FORMAT = "hiercnn.compare/1"
PAIRED = frozenset({"seed", "epochs", "data.name", "data.root", "data.file", "data.val", "data.seed", "eval.test"})


def compare(
    recipes: Sequence[str | Path | Recipe],
    *,
    seeds: int = 1,
    out: Path | str = "runs/compare",
    overrides: Sequence[str] = (),
    trust_imports: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train every recipe with seeds 0..n−1 (added to the recipe's own), unless that run is finished already, and compare.

    Runs live in `out/<recipe name>-seed<k>`; unfinished ones are resumed. The baseline is the first recipe without heads, else the
    first. Everything is written to `out/compare.json`; tables are made from it.

    Args:
        recipes: Files, shipped names or Recipes, of different names.
        seeds: Number of seeds.
        out: Folder of the runs and of compare.json.
        overrides: Applied to every recipe.
        tell: Called with a line before each run.

    Returns:
        What compare.json holds.

    Raises:
        RecipeError: Two recipes of one name, or recipes on different data or epochs of evaluation.
    """
    out = Path(out)
    loaded = [load_recipe(recipe, overrides, trust_imports=trust_imports) for recipe in recipes]
    _check_comparable(loaded)
    runs: dict[str, list[Run]] = {recipe.name: [] for recipe in loaded}
    for number in range(seeds):
        for recipe in loaded:
            seeded = recipe.model_copy(update={"seed": recipe.seed + number})
            runs[recipe.name].append(_finished_run(seeded, out / f"{recipe.name}-seed{seeded.seed}", trust_imports, tell))
    result = summarise(runs, loaded)
    with atomic_file(out / "compare.json") as scratch:
        scratch.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def summarise(runs: dict[str, list[Run]], recipes: Sequence[Recipe]) -> dict[str, Any]:
    """Everything the tables say, as plain values."""
    baseline = next((recipe.name for recipe in recipes if not recipe.model.heads), recipes[0].name)
    anytime = all(recipe.schedule.name == "constant" and recipe.train.ema is not None for recipe in recipes)
    targets = [_final_smoothed(run) for run in runs[baseline]] if anytime else [None] * len(runs[baseline])
    _check_same_images(runs, baseline)
    levels = _common_levels([listed[0] for listed in runs.values()])
    return {
        "format": FORMAT,
        "baseline": baseline,
        "measured_on": "test" if all("test" in run.end for listed in runs.values() for run in listed) else "val",
        "convergence": "anytime" if anytime else "budget",
        "epochs": recipes[0].epochs,
        "levels": levels,
        "environment": _environment(runs[baseline][0]),
        "splits": runs[baseline][0].events[0]["sizes"],
        "recipes": {recipe.name: _row(recipe, runs[recipe.name], runs[baseline], targets, levels) for recipe in recipes},
    }


def _row(recipe: Recipe, runs: list[Run], baseline: list[Run], targets: list[float | None], levels: list[str]) -> dict[str, Any]:
    per_run = [_measure(run, target) for run, target in zip(runs, targets, strict=True)]
    reference = [final_accuracy(run) for run in baseline]
    reached = [one["epochs_to_target"] for one in per_run]
    return {
        "recipe": recipe.plain(),
        "differs_in": [key for key in differing_keys(recipe, baseline[0].recipe) if key != "name"],
        "runs": per_run,
        "accuracy": {level: spread([one["accuracy"][level] for one in per_run]) for level in levels},
        "difference": {
            level: paired_difference([one["accuracy"][level] for one in per_run], [other[level] for other in reference]) for level in levels
        },
        "gap": spread([one["gap"] for one in per_run]),
        "epochs_to_target": spread(reached)["mean"] if None not in reached else None,
        "seconds": spread([one["seconds"]["train"] for one in per_run]),
        "images": per_run[0]["images"],
    }


def _measure(run: Run, target: float | None) -> dict[str, Any]:
    end, start = run.end, run.events[0]
    return {
        "path": run.path.name,
        "seed": run.recipe.seed,
        "environment": _environment(run),
        "accuracy": final_accuracy(run),
        "gap": train_val_gap(run),
        "target": target,
        "epochs_to_target": None if target is None else epochs_to_target(run, target),
        "seconds": end["seconds"],
        "images": end["images"],
        "parameters": start["parameters"],
        "peak_memory_mib": end["peak_memory_mib"],
    }


def _common_levels(runs: Sequence[Run]) -> list[str]:
    """The levels that every run reports with the same groups, coarse first; the leaf is always one."""
    partitions = [{cut.name: cut.groups.tolist() for cut in run.cuts} for run in runs]
    first = partitions[0]
    return [name for name in first if name != "leaf" and all(other.get(name) == first[name] for other in partitions)] + ["leaf"]


def _check_same_images(runs: Mapping[str, Sequence[Run]], baseline: str) -> None:
    """A difference is paired only if both runs of a seed are validated and tested on the same images."""
    for name, listed in runs.items():
        for run, base in zip(listed, runs[baseline], strict=True):
            ours, theirs = (one.events[0]["digests"] for one in (run, base))
            changed = [split for split in ("val", "test") if ours.get(split) != theirs.get(split)]
            if changed or run.hierarchy.classes != base.hierarchy.classes:
                what = f"{' and '.join(changed)} images" if changed else "classes"
                raise RecipeError(
                    f"{name} and {baseline} cannot be compared: seed {run.recipe.seed} has other {what} in {run.path} and {base.path}"
                )


def _environment(run: Run) -> dict[str, Any]:
    return json.loads((run.path / "environment.json").read_text(encoding="utf-8"))


def _final_smoothed(run: Run) -> float | None:
    points = smoothed_val(run)
    return points[-1][1] if points else None


def _finished_run(recipe: Recipe, path: Path, trust_imports: bool, tell: Callable[[str], None]) -> Run:
    run = Run(path)
    if run.finished:
        tell(f"{recipe.name}, seed {recipe.seed}: finished already, in {path}")
    else:
        tell(f"{recipe.name}, seed {recipe.seed}{': resuming' if run.exists() else ''}")
    try:
        return fit(recipe, run_dir=path, resume=run.exists(), trust_imports=trust_imports)
    except Interrupted as stop:
        raise Interrupted(
            f"stopped in {recipe.name}, seed {recipe.seed}; everything is saved in {path}. Go on with the same command", stop.signal
        ) from None


def _check_comparable(recipes: Sequence[Recipe]) -> None:
    names = [recipe.name for recipe in recipes]
    if len(names) < 1 or len(set(names)) < len(names):
        raise RecipeError(f"compare needs recipes of different names; got {shorten(names)} (set name: in each)")
    first = recipes[0]
    for other in recipes[1:]:
        different = [key for key in differing_keys(first, other) if key in PAIRED]
        if different:
            raise RecipeError(f"{first.name} and {other.name} cannot be compared; they differ in {', '.join(different)}")
