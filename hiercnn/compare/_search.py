"""Equal tuning: every recipe gets the same candidates, and val alone chooses."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiercnn.compare._runs import Job, Tell, finished_runs
from hiercnn.errors import RecipeError, TrainingError
from hiercnn.recipe import Recipe, load_recipe

SEARCH_SEED = 10_000  # added to the recipe's seed: no compared run shares its weights, order and (unless data.seed says so) images


def check_equal_search(recipes: Sequence[Recipe]) -> None:
    """Raise RecipeError unless all recipes have the same `search:` section, or none has one."""
    for other in recipes[1:]:
        if other.search != recipes[0].search:
            raise RecipeError(f"{recipes[0].name} and {other.name} search differently; equal tuning needs the same search: section in both")


def tuned(
    recipes: Sequence[Recipe], out: Path, *, processes: int, trust_imports: bool, tell: Tell
) -> tuple[list[Recipe], dict[str, Any] | None]:
    """Run every recipe's trials in `out/search` and return the recipes with the values that were best on val, and a record of it.

    Trial 0 has the recipe's own values; the others have values that optuna draws from the space, the same for every recipe. A trial is
    scored by its last val leaf accuracy, one whose loss is not finite is never chosen; test is not read.

    Raises:
        RecipeError: The space has keys or values that a recipe does not take.
        TrainingError: No trial of a recipe has a finite loss.
    """
    if recipes[0].search is None:
        return list(recipes), None
    candidates = draw_candidates(recipes[0])
    trials = {recipe.name: [_trial(recipe, values, trust_imports) for values in candidates] for recipe in recipes}
    jobs = [Job(trial, out / "search" / f"{name}-trial{i}") for name, listed in trials.items() for i, trial in enumerate(listed)]
    finished = finished_runs(jobs, processes=processes, trust_imports=trust_imports, tell=tell, may_fail=True)
    runs = {run.path: run for run in finished}
    record, chosen = {}, []
    for recipe in recipes:
        ends = [runs[out / "search" / f"{recipe.name}-trial{i}"].end for i in range(len(candidates))]  # None: its loss was not finite
        scores = [None if end is None else end["val"]["accuracy"]["leaf"] for end in ends]
        if all(score is None for score in scores):
            raise TrainingError(
                f"search: no trial of {recipe.name} has a finite loss; lower the rates in search.space, or set optim.clip_norm=1"
            )
        best = max((i for i, score in enumerate(scores) if score is not None), key=scores.__getitem__)
        record[recipe.name] = {
            "trials": [{"values": values, "val": score} for values, score in zip(candidates, scores, strict=True)],
            "chosen": best,
            "seconds": sum(end["seconds"]["train"] for end in ends if end),
            "images": sum(end["images"] for end in ends if end),
        }
        chosen.append(_with_values(recipe, candidates[best], trust_imports))
    return chosen, record


def draw_candidates(recipe: Recipe) -> list[dict[str, Any]]:
    """The values of every trial, by dotted key: none for trial 0, then draws that depend on the search section alone."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=recipe.search.seed))
        space = {key: _distribution(values) for key, values in recipe.search.space.items()}
        drawn = (study.ask(space).params for _ in range(recipe.search.trials - 1))
        return [{}, *{json.dumps(values): values for values in drawn}.values()]  # lists of values are drawn from with repetition
    finally:
        optuna.logging.set_verbosity(before)


def _distribution(values: Any):
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(values, list):
        return CategoricalDistribution(values)
    return FloatDistribution(values.low, values.high, log=values.log)


def _trial(recipe: Recipe, values: dict[str, Any], trust_imports: bool) -> Recipe:
    recipe = _with_values(recipe, values, trust_imports)
    evaluation = recipe.eval.model_copy(update={"test": False, "predictions": False})
    return recipe.model_copy(update={"seed": recipe.seed + SEARCH_SEED, "eval": evaluation})


def _with_values(recipe: Recipe, values: dict[str, Any], trust_imports: bool) -> Recipe:
    recipe = recipe.model_copy(update={"search": None})
    return load_recipe(recipe, [f"{key}={json.dumps(value)}" for key, value in values.items()], trust_imports=trust_imports)
