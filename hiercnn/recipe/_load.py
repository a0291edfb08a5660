"""From a file, a shipped name or a mapping to a valid `Recipe`; all problems are reported together."""

import copy
import importlib
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from hiercnn.data import DataSettings, data_sets
from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.hierarchy import Hierarchy
from hiercnn.losses import losses
from hiercnn.models import heads, pretrained_config
from hiercnn.recipe._check import Problem, find_problems, report
from hiercnn.recipe._schema import Recipe
from hiercnn.recipe._yaml import apply_overrides, find_recipe, read_recipe_file
from hiercnn.registry import Registry

OF_WEIGHTS = ("image_size", "interpolation", "mean", "std")  # keys of data that pretrained weights know best
SET_BY_RUN = frozenset({"inner_labels", "seed"})  # options of losses that are not the recipe's to choose


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    trust_imports: bool = False,
    check: bool = True,
    stand_in: Hierarchy | None = None,
) -> Recipe:
    """Read, merge, override and validate a recipe.

    Args:
        recipe: A file, a shipped name (`quickstart/flat`), a mapping, or a Recipe.
        overrides: `key.sub=value` texts.
        trust_imports: Whether the modules of `imports:` may be imported; they are code, and a recipe may come from anywhere.
        check: Whether to build the tree and the backbone to find wrong names, cuts and stages (no data are read, but for a tree
            that is clustered from a run).
        stand_in: Takes the place of such a tree, if the run does not exist yet.

    Returns:
        The complete recipe, options of its data set, loss and heads included.

    Raises:
        RecipeError: Lists every problem with its dotted path and a suggestion.
    """
    if isinstance(recipe, Recipe):
        raw, where = recipe.plain(), recipe.name
    elif isinstance(recipe, Mapping):
        raw, where = dict(recipe), str(recipe.get("name", "the recipe"))
    else:
        raw, where = read_recipe_file(find_recipe(recipe)), str(recipe)
    raw = apply_overrides(raw, overrides)
    _import_modules(raw.get("imports"), trust_imports, where)
    loaded, problems = _parse(raw)
    checkable = loaded or _parse(_without(raw, problems))[0]
    if check and checkable is not None:
        problems = problems + find_problems(
            checkable, tree_failed=any(path.startswith("hierarchy") for path, _ in problems), stand_in=stand_in
        )
    report(where, problems)
    return _as_pretrained(loaded)


def _as_pretrained(recipe: Recipe) -> Recipe:
    """With the image size, interpolation, mean and standard deviation that belong to pretrained weights, where the recipe gives none."""
    if recipe.model.weights is None or all(getattr(recipe.data, key) is not None for key in OF_WEIGHTS):
        return recipe
    missing = {key: value for key, value in _of_weights(recipe).items() if getattr(recipe.data, key) is None}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=missing)})


def _of_weights(recipe: Recipe) -> dict[str, Any]:
    """What pretrained weights say of `OF_WEIGHTS`."""
    run = Path(recipe.model.weights, "recipe.yaml")
    if os.path.isfile(run):
        theirs = read_recipe_file(run).get("data") or {}
    else:
        theirs = pretrained_config(recipe.model.backbone, recipe.model.weights)
        theirs = theirs | ({"image_size": theirs["input_size"][-1]} if theirs.get("input_size") else {})
    found = {key: theirs[key] for key in OF_WEIGHTS if theirs.get(key) is not None}
    return found | {key: list(found[key]) for key in ("mean", "std") if key in found}


def data_settings(recipe: Recipe, channels: int) -> DataSettings:
    """The `data:` section for images of so many channels: mean and std that are those of pretrained weights for RGB are averaged."""
    values = {key: getattr(recipe.data, key) for key in ("mean", "std")}
    other = [key for key, value in values.items() if value is not None and len(value) != channels]
    if not other or recipe.model.weights is None:
        return recipe.data
    theirs = _of_weights(recipe)
    averaged = {key: [sum(values[key]) / len(values[key])] * channels for key in other if values[key] == theirs.get(key)}
    return recipe.data.model_copy(update=averaged)


def _parse(raw: Mapping[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    """Plain values as a complete `Recipe`, or None and what is wrong."""
    try:
        plain, problems = Recipe.model_validate(raw).plain(), []
    except ValidationError as error:
        plain, problems = raw, list(_problems(error, raw))
    filled, more = _fill_options(plain)
    problems += more
    return (None if problems else Recipe.model_validate(filled)), problems


def _without(raw: Mapping[str, Any], problems: Iterable[Problem]) -> dict[str, Any]:
    """The recipe without the values that are wrong, so that the rest can be checked as well."""
    kept = copy.deepcopy(dict(raw))
    for path, _ in problems:
        node, owner = kept, (kept, "")
        for part in [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", path)]:
            if not (isinstance(node, dict) and part in node) and not (
                isinstance(node, list) and isinstance(part, int) and part < len(node)
            ):
                break
            owner, node = (node, part), node[part]
        if isinstance(owner[0], dict):
            owner[0].pop(owner[1], None)
    return kept


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML text."""
    return yaml.safe_dump(recipe.plain(), sort_keys=False, allow_unicode=True)


def _import_modules(modules: Any, trusted: bool, where: str) -> None:
    names = modules if isinstance(modules, list) else [modules] if modules else []
    if names and not trusted:
        raise RecipeError(f"{where} imports code: {', '.join(map(str, names))}. Read it first; if you trust it, add --trust-imports")
    for name in names:
        sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(str(name))
        except Exception as error:  # whatever a stranger's module raises
            raise RecipeError(f"{where}: imports: cannot import '{name}': {error}") from error
        finally:
            sys.path.remove(os.getcwd())


# ---- options of data sets, losses and heads -------------------------------------------------------------------------


def _fill_options(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Validate the options that belong to registered factories and write their defaults out."""
    filled, problems = dict(raw), []
    for section, registry, key in (("data", data_sets, "name"), ("loss", losses, "name")):
        if isinstance(raw.get(section), Mapping):
            common = Recipe.model_fields[section].annotation.model_fields
            filled[section], found = _fill(raw[section], registry, key, common, section)
            problems += found
    model = raw.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("heads"), list):
        common = typing.get_args(Recipe.model_fields["model"].annotation.model_fields["heads"].annotation)[0].model_fields
        listed = []
        for number, head in enumerate(model["heads"]):
            head, found = _fill(head, heads, "type", common, f"model.heads[{number}]") if isinstance(head, Mapping) else (head, [])
            listed.append(head)
            problems += found
        filled["model"] = dict(model) | {"heads": listed}
    return filled, problems


def _fill(section: Mapping[str, Any], registry: Registry, key: str, common: Mapping[str, Any], path: str) -> tuple[dict, list[Problem]]:
    default = common[key].default if not common[key].is_required() else None
    name = section.get(key, default)
    if name not in registry:
        text = f"unknown {registry.kind} '{name}'{did_you_mean(str(name), registry)}; there are {', '.join(sorted(registry))}"
        return dict(section), [(f"{path}.{key}", text)] if name is not None else []
    schema = _options_model(registry, name)
    given = {option: value for option, value in section.items() if option not in common}
    known = [*common, *schema.model_fields]
    try:
        options = schema.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        return dict(section), [(f"{path}.{where}", text) for where, text in _problems(error, given, known)]
    return dict(section) | options, []


def _options_model(registry: Registry, name: str) -> type[BaseModel]:
    factory = registry[name]
    hints = typing.get_type_hints(factory.__init__ if isinstance(factory, type) else factory, include_extras=True)
    fields = {
        option: (hints.get(option, Any), ... if parameter.default is parameter.empty else parameter.default)
        for option, parameter in registry.options(name).items()
        if option not in SET_BY_RUN
    }
    return create_model("Options", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False), **fields)


# ---- pydantic's errors in our words ---------------------------------------------------------------------------------


def _problems(error: ValidationError, raw: Any, known: Iterable[str] | None = None) -> Iterable[Problem]:
    """One problem a path; alternatives of a union are joined."""
    grouped: dict[str, list[str]] = {}
    for item in error.errors():
        parts = _real_path(item["loc"], raw)
        if item["type"] == "missing" and parts[-1:] != [item["loc"][-1]]:
            parts.append(item["loc"][-1])
        texts = grouped.setdefault(_dotted(parts), [])
        text = _in_words(item, parts, known)
        if text not in texts:
            texts.append(text)
    for path, texts in grouped.items():
        yield path or "(top level)", "; or ".join(texts)


def _in_words(item: Mapping[str, Any], parts: Sequence[str | int], known: Iterable[str] | None) -> str:
    if item["type"] == "extra_forbidden":
        return f"unknown key{did_you_mean(str(parts[-1]), known if known is not None else _fields_at(parts[:-1]))}"
    if item["type"] == "missing":
        return "is missing"
    if item["type"] == "string_pattern_mismatch":
        letters = "may hold letters, digits and _ (the name of a run also . + -)"
        return f"{'should be auto, cpu, cuda or cuda:<number>' if parts[-1] == 'device' else letters} (got {item['input']!r})"
    text = item["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return f"{text} (got {item['input']!r})" if not isinstance(item["input"], Mapping | list) else text


def _real_path(location: Sequence[str | int], raw: Any) -> list[str | int]:
    """The parts of pydantic's location that are keys of the recipe; names of union members are left out."""
    parts, node = [], raw
    for number, part in enumerate(location):
        last = number == len(location) - 1
        if isinstance(node, Mapping) and (
            part in node or (last and isinstance(part, str) and not part[:1].isupper() and part in _fields_at(parts))
        ):
            node = node.get(part)
            parts.append(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
            parts.append(part)
    return parts


def _dotted(parts: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _fields_at(parts: Sequence[str | int]) -> list[str]:
    """Field names of the settings at a path of the recipe."""
    models: list[Any] = [Recipe]
    for part in parts:
        if isinstance(part, int):
            continue
        models = [inner for model in models if part in model.model_fields for inner in _models_in(model.model_fields[part].annotation)]
    return [field for model in models for field in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]
