"""Finished runs → everything that tables and figures say, as plain values."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hiercnn.compare._statistics import (
    area_under_curve,
    curve,
    epochs_to_target,
    final,
    gaps_at_equal_nll,
    paired_difference,
    smoothed_val,
    spread,
    train_val_gap,
)
from hiercnn.errors import CheckpointError, RecipeError
from hiercnn.recipe import Recipe, Run, charged_cost, differing_keys

FORMAT = "hiercnn.compare/2"
MISTAKES = ("hd1", "severity")


def summarise(
    runs: Mapping[str, Sequence[Run]],
    recipes: Sequence[Recipe],
    *,
    baseline: str | None = None,
    short: Mapping[tuple[str, float], Sequence[Run]] | None = None,
) -> dict[str, Any]:
    """Compare finished runs.

    Args:
        runs: Runs of each recipe, in the same order of seeds.
        recipes: The recipes, in the order of the table.
        baseline: Default: the first recipe without heads, else the first.
        short: Runs by (recipe name, share of the epochs), the complete ones (share 1) among them; None or only complete ones: no budgets.

    Raises:
        RecipeError: Runs of one seed were validated or tested on different images, or have different classes.
    """
    baseline = baseline or next((recipe.name for recipe in recipes if not recipe.model.heads), recipes[0].name)
    check_same_images([run for listed in [*runs.values(), *(short or {}).values()] for run in listed])
    levels = _common_levels([run for listed in runs.values() for run in listed])
    anytime = _read_at_every_epoch(recipes)
    measured = {name: [_measure(run, levels) for run in listed] for name, listed in runs.items()}
    if anytime:
        targets = [_target(one["curve"]) for one in measured[baseline]]
        for listed in measured.values():
            for one, target in zip(listed, targets, strict=True):
                one["target"] = target
                own = None if target is None else epochs_to_target(one["curve"], target)
                one["epochs_to_target"] = None if own is None else own + _charged_epochs(one)
    return {
        "format": FORMAT,
        "baseline": baseline,
        "measured_on": "test" if all("test" in run.end for listed in runs.values() for run in listed) else "val",
        "convergence": "anytime" if anytime else "budget",
        "epochs": next(recipe.epochs for recipe in recipes if recipe.name == baseline),
        "levels": levels,
        "environment": measured[baseline][0]["environment"],
        "splits": runs[baseline][0].events[0]["sizes"],
        "recipes": {
            recipe.name: _row(recipe, measured[recipe.name], measured[baseline], levels)
            | {"splits": runs[recipe.name][0].events[0]["sizes"]}
            | {"differs_in": [key for key in differing_keys(recipe, runs[baseline][0].recipe) if key not in ("name", "seed", "search")]}
            for recipe in recipes
        },
        "budgets": _budgets(short or {}, runs[baseline], recipes),
    }


def _row(recipe: Recipe, ours: list[dict], baseline: list[dict], levels: list[str]) -> dict[str, Any]:
    pairs = [gaps_at_equal_nll(one["curve"], other["curve"]) for one, other in zip(ours, baseline, strict=True)]
    reached = [one["epochs_to_target"] for one in ours]
    row = {
        "recipe": recipe.plain(),
        "epochs": recipe.epochs,
        "runs": ours,
        "accuracy": {level: spread([one["accuracy"][level] for one in ours]) for level in levels},
        "difference": {level: _difference(level, "accuracy", ours, baseline) for level in levels},
        "gap": spread([one["gap"] for one in ours]),
        "gap_at_equal_nll": None,
        "auc": spread([one["auc"] for one in ours]),
        "epochs_to_target": spread(reached)["mean"] if None not in reached else None,
        "seconds": spread([one["seconds"]["train"] for one in ours]),
        "seconds_ratio": spread([a["seconds"]["train"] / max(b["seconds"]["train"], 1e-9) for a, b in zip(ours, baseline, strict=True)]),
        "images": ours[0]["images"],
    }
    if None not in pairs:
        own, theirs = zip(*pairs, strict=True)
        row["gap_at_equal_nll"] = {"own": spread(own), "baseline": spread(theirs), "difference": paired_difference(own, theirs)}
    same_tree = all(one["hierarchy"] == other["hierarchy"] for one, other in zip(ours, baseline, strict=True))
    for name in MISTAKES:  # heights in another tree say nothing beside these
        own, theirs = ([one[name] if same_tree else None for one in runs] for runs in (ours, baseline))
        row[name] = spread(own) if None not in own else None
        row["difference"][name] = paired_difference(own, theirs) if None not in own + theirs else None
    return row


def _difference(level: str, what: str, ours: list[dict], baseline: list[dict]) -> dict[str, Any]:
    return paired_difference([one[what][level] for one in ours], [other[what][level] for other in baseline])


def _measure(run: Run, levels: list[str]) -> dict[str, Any]:
    try:
        return _measured(run, levels)
    except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the run in {run.path} is damaged ({type(error).__name__}: {error}); delete that folder to begin it again"
        ) from None


def _measured(run: Run, levels: list[str]) -> dict[str, Any]:
    end, start, charged = run.end, run.events[0], charged_cost(run)
    for accuracy in (final(run)["accuracy"], *(event["val"]["accuracy"] for event in run.metrics)):
        _ = [accuracy[level] for level in levels]
    rows = [row | {key: row[key] + charged[key] for key in charged} for row in curve(run)]
    return {
        "path": run.path.name,
        "seed": run.recipe.seed,
        "hierarchy": run.hierarchy.digest,
        "environment": _environment(run),
        "accuracy": final(run)["accuracy"],
        **{name: final(run).get(name) for name in MISTAKES},  # runs of version 0.1.0 have none
        "gap": train_val_gap(rows),
        "auc": area_under_curve(rows),
        "target": None,
        "epochs_to_target": None,
        "charged": charged,
        "seconds": end["seconds"] | {"train": end["seconds"]["train"] + charged["seconds"]},
        "images": end["images"] + charged["images"],
        "parameters": start["parameters"],
        "peak_memory_mib": end["peak_memory_mib"],
        "curve": rows,
    }


def _environment(run: Run) -> dict[str, Any]:
    found = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    told = [found["device"], found["precision"], found["versions"]["torch"], "" if found["git"] is None else found["git"]]
    if not all(isinstance(value, str) for value in told):
        raise ValueError("environment.json")
    return found


def _budgets(short: Mapping[tuple[str, float], Sequence[Run]], baseline: Sequence[Run], recipes: Sequence[Recipe]) -> dict[str, Any] | None:
    """Leaf accuracy of every recipe at every budget, paired with the baseline's complete runs."""
    shares = sorted({share for _, share in short})
    if len(shares) < 2:
        return None
    full = [final(run)["accuracy"]["leaf"] for run in baseline]
    found: dict[str, list[dict[str, Any]]] = {recipe.name: [] for recipe in recipes}
    for recipe in recipes:
        for share in shares:
            runs = short[recipe.name, share]
            accuracies = [final(run)["accuracy"]["leaf"] for run in runs]
            found[recipe.name].append(
                {
                    "share": share,
                    "epochs": runs[0].recipe.epochs,
                    "runs": [run.path.name for run in runs],
                    "accuracy": spread(accuracies),
                    "difference": paired_difference(accuracies, full),
                    "seconds": spread([run.end["seconds"]["train"] + charged_cost(run)["seconds"] for run in runs]),
                }
            )
    return found


def _read_at_every_epoch(recipes: Sequence[Recipe]) -> bool:
    """Whether accuracy before the end means something: a constant rate, averaged weights, and the same epochs for all."""
    constant = all(recipe.schedule.name == "constant" and recipe.train.ema is not None for recipe in recipes)
    return constant and len({(recipe.epochs, recipe.eval.every) for recipe in recipes}) == 1


def _charged_epochs(one: Mapping[str, Any]) -> float:
    """What the run that the tree was clustered from cost, in epochs of this run."""
    own = one["images"] - one["charged"]["images"]
    return one["curve"][-1]["epoch"] * one["charged"]["images"] / own if own else 0.0


def _target(rows: Sequence[Mapping[str, Any]]) -> float | None:
    points = smoothed_val(rows)
    return points[-1][1] if points else None


def _common_levels(runs: Sequence[Run]) -> list[str]:
    """The levels that every run, of every seed, reports with the same groups, coarse first; the leaf is always one."""
    partitions = [{cut.name: cut.groups.tolist() for cut in run.cuts} for run in runs]
    first = partitions[0]
    return [name for name in first if name != "leaf" and all(other.get(name) == first[name] for other in partitions)] + ["leaf"]


def check_same_images(runs: Sequence[Run]) -> None:
    """A difference is paired only if all runs of a seed are validated and tested on the same images. Raises RecipeError otherwise."""
    first: dict[int, Run] = {}
    for run in runs:
        base = first.setdefault(run.recipe.seed, run)
        ours, theirs = (one.events[0].get("digests", {}) for one in (run, base))
        changed = [split for split in ("val", "test") if ours.get(split) != theirs.get(split)]
        if changed or run.hierarchy.classes != base.hierarchy.classes:
            what = f"{' and '.join(changed)} images" if changed else "classes"
            names = f"{run.recipe.name} and {base.recipe.name}"
            raise RecipeError(f"{names} cannot be compared: seed {run.recipe.seed} has other {what} in {run.path} and {base.path}")
