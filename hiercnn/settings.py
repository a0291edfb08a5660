"""Typed settings: the base of every group that a recipe can hold, and options that are checked in Python as in a recipe."""

from collections.abc import Callable
from functools import wraps

from pydantic import BaseModel, ConfigDict, ValidationError, validate_call

from hiercnn.errors import RecipeError


class Settings(BaseModel):
    """Settings with known keys only. Wrong keys or values raise pydantic's error, which recipes turn into theirs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


def checked_options(init: Callable[..., None]) -> Callable[..., None]:
    """Decorator of `__init__`: arguments become what their type hints say, or RecipeError names all that cannot."""
    validated = validate_call(config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))(init)

    @wraps(init)
    def checked(self, *args, **kwargs) -> None:
        try:
            validated(self, *args, **kwargs)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r})" for one in error.errors())
            raise RecipeError(f"{type(self).__name__}: " + "; ".join(problems)) from None

    return checked
