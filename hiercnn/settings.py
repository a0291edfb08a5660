"""Base of every group of settings that a recipe can hold: typed, closed, frozen."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings with known keys only. Wrong keys or values raise pydantic's error, which recipes turn into theirs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)
