"""Recipes as text: YAML that reads 2e-5 as a number and refuses a key given twice, `extends`, and overrides."""

import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hiercnn.errors import RecipeError, did_you_mean


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats, unique keys, and characters that JSON writes as two escapes."""

    yaml_implicit_resolvers = {
        first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:float"]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_scalar(self, node):
        text = super().construct_scalar(node)
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            what = "half of a surrogate pair is no character; write both halves, or the character itself"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None

    def construct_mapping(self, node, deep=False):
        seen = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)$|^[-+]?([0-9]+\.[0-9]*|\.[0-9]+)$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def recipes_folder() -> Path:
    """The shipped recipes: inside the installed package, or beside it in a checkout."""
    installed = Path(str(resources.files("hiercnn"))) / "_recipes"
    return installed if installed.is_dir() else installed.parents[1] / "recipes"


def shipped_recipes() -> list[str]:
    """Names of the shipped recipes, such as `quickstart/flat`."""
    root = recipes_folder()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given by path or by shipped name. Raises RecipeError with a suggestion."""
    path = Path(name)
    if os.path.isfile(path):
        return path
    shipped = recipes_folder() / f"{str(name).removeprefix('recipes/').removesuffix('.yaml')}.yaml"
    if os.path.isfile(shipped):
        return shipped
    raise RecipeError(
        f"no recipe {name}: neither a file nor a shipped recipe{did_you_mean(str(name), shipped_recipes())} (hiercnn recipes list)"
    )


def read_text(text: str, where: str) -> Any:
    """Parse YAML. Raises RecipeError with file and line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(f"{where} is not valid YAML: {error}") from None


def read_recipe_file(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe and everything it extends into one mapping."""
    if path.resolve() in below:
        raise RecipeError(f"{path} extends itself, through {' → '.join(p.name for p in below)}")
    try:
        raw = read_text(path.read_bytes().decode("utf-8-sig"), str(path))
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"recipe {path} is not UTF-8") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path} should hold a mapping of settings, such as 'epochs: 10'")
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str) or not os.path.isfile(path.parent / parent):
        raise RecipeError(f"{path}: extends: there is no file {parent!r} beside it")
    return merge(read_recipe_file(path.parent / parent, (*below, path.resolve())), raw)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `key.sub=value` overrides; values are YAML, list items are numbers (`model.heads.0.weight=0.5`)."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RecipeError(
                f"override '{override}' should look like key.sub=value, such as optim.lr=0.05 (several recipes: hiercnn compare)"
            )
        raw = _set(raw, key.strip().split("."), read_text(text, f"override '{override}'"), override)
    return raw


def _set(node: Any, path: list[str], value: Any, override: str) -> Any:
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(node, list):
        if not key.isdigit() or int(key) >= len(node):
            raise RecipeError(f"override '{override}': '{key}' is no item of a list of {len(node)}; items are 0..{len(node) - 1}")
        return [_set(item, rest, value, override) if i == int(key) else item for i, item in enumerate(node)]
    if node is not None and not isinstance(node, Mapping):
        raise RecipeError(f"override '{override}': there is nothing below the value {node!r}")
    node = dict(node or {})
    return node | {key: _set(node.get(key), rest, value, override)}
