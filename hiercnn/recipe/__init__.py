"""YAML → typed, closed Recipe → objects: the only place that knows every factory."""

from hiercnn.recipe._build import build_data, build_hierarchy, build_recipe_model, build_source, build_task, report_cuts
from hiercnn.recipe._cluster import Clustered, charged_cost, cluster_run
from hiercnn.recipe._dynamics import Dynamics, dynamics_of_run, kept_steps
from hiercnn.recipe._fit import Run, build_trainer, differing_keys, fit
from hiercnn.recipe._load import load_recipe, to_yaml
from hiercnn.recipe._push import push_run
from hiercnn.recipe._schema import Recipe
from hiercnn.recipe._yaml import find_recipe, recipes_folder, shipped_recipes

__all__ = [
    "Clustered",
    "Dynamics",
    "Recipe",
    "Run",
    "build_data",
    "build_hierarchy",
    "build_recipe_model",
    "build_source",
    "build_task",
    "build_trainer",
    "charged_cost",
    "cluster_run",
    "differing_keys",
    "dynamics_of_run",
    "find_recipe",
    "fit",
    "kept_steps",
    "load_recipe",
    "push_run",
    "recipes_folder",
    "report_cuts",
    "shipped_recipes",
    "to_yaml",
]
