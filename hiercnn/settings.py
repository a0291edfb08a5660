"""Typed settings: the base of every group that a recipe can hold, and options that are checked in Python as in a recipe."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, validate_call

from hiercnn.errors import RecipeError


class Settings(BaseModel):
    """Settings with known keys only. Wrong keys or values raise pydantic's error, which recipes turn into theirs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


def checked_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of `__init__` or of a function: arguments become what their type hints say, or RecipeError names all that cannot."""
    validated = validate_call(config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))(function)

    @wraps(function)
    def checked(*args, **kwargs) -> Any:
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            name = type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__
            problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r})" for one in error.errors())
            raise RecipeError(f"{name}: " + "; ".join(problems)) from None

    return checked
