"""Named factories: how a recipe's `name:` becomes an object, and how users add their own."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hiercnn.errors import RecipeError, did_you_mean


class Registry(Mapping[str, Callable[..., Any]]):
    """Factories of one kind by name.

    Options of a factory are its keyword-only parameters; their type hints and defaults are the schema of the recipe section.

    Args:
        kind: What the factories make, for messages: `loss`, `data set`, `head`.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._factories: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator that adds a factory under `name`. Raises RecipeError if the name is taken by another one."""

        def add(factory: Callable[..., Any]) -> Callable[..., Any]:
            known = self._factories.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (factory.__module__, factory.__qualname__):
                raise RecipeError(f"a {self.kind} called '{name}' is registered already; choose another name")
            self._factories[name] = factory
            return factory

        return add

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters of a factory, by name."""
        parameters = inspect.signature(self[name]).parameters.values()
        return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in self:
            raise RecipeError(f"unknown {self.kind} '{name}'{did_you_mean(name, self)}; there are {', '.join(sorted(self))}")
        return self._factories[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._factories  # a list or mapping of a recipe is no key

    def __iter__(self) -> Iterator[str]:
        return iter(self._factories)

    def __len__(self) -> int:
        return len(self._factories)
