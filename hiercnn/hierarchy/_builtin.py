"""Trees that come with the package, as JSON files made by tools/make_hierarchy.py."""

import json
from importlib import resources

from hiercnn.errors import HierarchyError, did_you_mean
from hiercnn.hierarchy._io import from_dict
from hiercnn.hierarchy._tree import Hierarchy

_FOLDER = resources.files("hiercnn.hierarchy") / "builtin"


def builtin_names() -> list[str]:
    """Names of the built-in hierarchies."""
    return sorted(file.name.removesuffix(".json") for file in _FOLDER.iterdir() if file.name.endswith(".json"))


def builtin(name: str) -> Hierarchy:
    """Load a built-in hierarchy by name; its source and notice stand in `meta`.

    Raises:
        HierarchyError: There is none of that name; lists those there are.
    """
    if name not in builtin_names():
        raise HierarchyError(f"no built-in hierarchy '{name}'{did_you_mean(name, builtin_names())}; there are {', '.join(builtin_names())}")
    return from_dict(json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8")))
