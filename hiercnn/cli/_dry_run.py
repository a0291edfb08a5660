"""`hiercnn train --dry-run`: everything that is known before training."""

import numpy as np

from hiercnn.errors import HierCNNError
from hiercnn.models import stages
from hiercnn.recipe import Recipe, Run, build_data, build_hierarchy, build_source, build_trainer, to_yaml


def print_plan(recipe: Recipe) -> None:
    """Print the complete recipe, read the data, and print what would be trained."""
    print(to_yaml(recipe))
    print(f"reading the data: {recipe.data.name}", flush=True)
    data = build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))
    model = build_trainer(recipe, data, Run("dry-run")).model
    print(f"classes: {data.hierarchy.num_classes}")
    for name in ("train", "val", "test"):
        split = getattr(data, name)
        print(f"{name}: {'none' if split is None else _size(split.labels, data.hierarchy.num_classes)}")
    if data.unreadable:
        print(f"unreadable images left out: {len(data.unreadable)}")
    print(f"backbone: {recipe.model.backbone}, {sum(p.numel() for p in model.backbone.parameters()):,} parameters")
    print("stages: " + ", ".join(f"{i}: {s['num_chs']} channels, stride {s['reduction']}" for i, s in enumerate(_stages(model.backbone))))
    for name, head in model.heads.items():
        parameters = sum(p.numel() for p in head.parameters())
        print(f"head {name}: stage {model.specs[name].stage}, {model.specs[name].cut.name}, {parameters:,} parameters")
    print("dry run: nothing was trained or written")


def _size(labels: np.ndarray, classes: int) -> str:
    coarse = int((labels >= classes).sum())
    return f"{len(labels)} images" + (f", {coarse} of them labelled with a group" if coarse else "")


def _stages(backbone) -> list[dict]:
    try:
        return stages(backbone)
    except HierCNNError:
        return []
