"""Image classifiers that know their class hierarchy."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiercnn.hierarchy import Hierarchy
    from hiercnn.models import build_model
    from hiercnn.recipe import Run, fit, load_recipe

_HOME = {
    "Hierarchy": "hiercnn.hierarchy",
    "Run": "hiercnn.recipe",
    "build_model": "hiercnn.models",
    "fit": "hiercnn.recipe",
    "load_recipe": "hiercnn.recipe",
}

__all__ = ["Hierarchy", "Run", "build_model", "fit", "load_recipe"]


def __getattr__(name: str) -> Any:
    """Import public names when they are first asked for: importing hiercnn itself costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'hiercnn' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
