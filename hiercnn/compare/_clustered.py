"""Recipes whose tree is clustered from another recipe of the same comparison: from its run of the same seed, which is trained first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiercnn.clustering import cluster, vector_distances
from hiercnn.errors import HierarchyError, RecipeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.recipe import Recipe, build_hierarchy

ANY = 1000  # classes of a stand-in where nobody knows how many there are


def source_of(recipe: Recipe, names: Sequence[str]) -> str | None:
    """Name of the recipe of this comparison whose run the tree is clustered from, or None."""
    if recipe.hierarchy is None or recipe.hierarchy.cluster is None:
        return None
    path = Path(recipe.hierarchy.cluster.run)
    called = path.name.removesuffix(f"-seed{recipe.seed}")  # a run of this seed is called so already
    return called if called in names and called != recipe.name else None


def from_run_of_seed(recipe: Recipe, seed: int, out: Path, names: Sequence[str]) -> Recipe:
    """The recipe with this seed, and with the other recipe's run of this seed where it is clustered from one."""
    changes: dict[str, object] = {"seed": seed}
    if (source := source_of(recipe, names)) is not None:
        cluster_settings = recipe.hierarchy.cluster.model_copy(update={"run": str(out / f"{source}-seed{seed}")})
        changes["hierarchy"] = recipe.hierarchy.model_copy(update={"cluster": cluster_settings})
    return recipe.model_copy(update=changes)


def stand_in(recipe: Recipe, recipes: Sequence[Recipe]) -> Hierarchy | None:
    """A tree to check the recipe with before the run exists that its own is made from: of as many groups, whichever. None if it needs none.

    Raises:
        RecipeError: The other recipe waits for a run itself, or the recipe is to be tuned.
    """
    names = [other.name for other in recipes]
    if (source := source_of(recipe, names)) is None:
        return None
    theirs = recipes[names.index(source)]
    if source_of(theirs, names) is not None:
        raise RecipeError(f"{recipe.name}: {source} is clustered itself; cluster from a recipe that needs no other run")
    if recipe.search is not None:
        raise RecipeError(
            f"{recipe.name}: a search needs its tree beforehand; cluster from a finished run that is no recipe of this comparison"
        )
    given = next((one.hierarchy for one in (recipe, theirs) if one.hierarchy is not None and one.hierarchy.given), None)
    classes = [f"class {number}" for number in range(ANY)] if given is None else build_hierarchy(given).classes
    vectors = np.random.default_rng(0).normal(size=(len(classes), 4))
    try:
        return cluster(vector_distances(vectors)).hierarchy(classes, recipe.hierarchy.cluster.groups)
    except HierarchyError as error:
        raise RecipeError(f"{recipe.name} has 1 problem:\n  hierarchy.cluster: {error}") from None
