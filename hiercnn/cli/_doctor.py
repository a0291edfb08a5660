"""`hiercnn doctor`: what is here and what is missing."""

import os
import platform

import torch

from hiercnn.data import cache_folder, data_sets
from hiercnn.errors import HierCNNError
from hiercnn.hierarchy import builtin_names, from_wordnet
from hiercnn.recipe import shipped_recipes
from hiercnn.train import PACKAGES, device_name, git_commit, pick_device, pick_precision, version


def print_findings() -> None:
    """Print versions, device, trees, recipes, data sets and WordNet."""
    device = pick_device("auto")
    print(f"python {platform.python_version()}, " + ", ".join(f"{name} {version(name) or 'missing'}" for name in PACKAGES))
    print(f"commit: {git_commit() or 'installed package, no checkout'}")
    print(
        f"device: {device_name(device)} ({device.type}), {torch.get_num_threads()} threads, auto precision {pick_precision('auto', device)}"
    )
    print(f"built-in trees: {', '.join(builtin_names())}")
    print(f"recipes: {len(shipped_recipes())} (hiercnn recipes list)")
    print(f"cache: {cache_folder()}")
    for name in ("synthetic", "cifar10", "cifar100", "fashion_mnist"):
        print(f"data {name}: {_found(name)}")
    print(f"WordNet: {_wordnet()}")


def _found(name: str) -> str:
    root = data_sets.options(name).get("root")
    if root is None:
        return "built in"
    try:
        source = data_sets[name]()
    except HierCNNError as error:
        return f"not found. {error}"
    return f"found in {root.default}: " + ", ".join(f"{len(split)} {split_name}" for split_name, split in source.present().items())


def _wordnet() -> str:
    try:
        from_wordnet(["dog.n.01", "cat.n.01"])
    except HierCNNError as error:
        return f"not found. {error}"
    return f"found{' through NLTK_DATA=' + os.environ['NLTK_DATA'] if 'NLTK_DATA' in os.environ else ''}"
