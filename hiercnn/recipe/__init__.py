"""YAML → typed, closed Recipe → objects: the only place that knows every factory."""

from hiercnn.recipe._build import build_data, build_hierarchy, build_recipe_model, build_source, build_task, report_cuts
from hiercnn.recipe._cluster import Clustered, charged_cost, cluster_run
from hiercnn.recipe._diagnose import COLUMNS as FAULT_COLUMNS
from hiercnn.recipe._diagnose import Diagnosis, diagnose_run
from hiercnn.recipe._dynamics import Dynamics, dynamics_of_run, kept_steps
from hiercnn.recipe._early import Early, early_heads, early_predictor, input_size
from hiercnn.recipe._export import Exported, export_run
from hiercnn.recipe._fit import Run, build_trainer, differing_keys, fit
from hiercnn.recipe._folds import look_at, out_of_fold
from hiercnn.recipe._load import data_settings, load_recipe, to_yaml
from hiercnn.recipe._predict import calibrate_run, predictor_of_run, rule_of_run, run_scores
from hiercnn.recipe._push import push_run
from hiercnn.recipe._schema import Recipe
from hiercnn.recipe._views import class_responses, kept_dynamics, source_images
from hiercnn.recipe._yaml import find_recipe, read_text, recipes_folder, shipped_recipes

__all__ = [
    "FAULT_COLUMNS",
    "Clustered",
    "Diagnosis",
    "Dynamics",
    "Early",
    "Exported",
    "Recipe",
    "Run",
    "build_data",
    "build_hierarchy",
    "build_recipe_model",
    "build_source",
    "build_task",
    "build_trainer",
    "calibrate_run",
    "charged_cost",
    "class_responses",
    "cluster_run",
    "data_settings",
    "diagnose_run",
    "differing_keys",
    "dynamics_of_run",
    "early_heads",
    "early_predictor",
    "export_run",
    "find_recipe",
    "fit",
    "input_size",
    "kept_dynamics",
    "kept_steps",
    "load_recipe",
    "look_at",
    "out_of_fold",
    "predictor_of_run",
    "push_run",
    "read_text",
    "recipes_folder",
    "report_cuts",
    "rule_of_run",
    "run_scores",
    "shipped_recipes",
    "source_images",
    "to_yaml",
]
