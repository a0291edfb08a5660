"""How a recipe names a cut: a number of groups, `{depth: d}`, `{groups: k}` or `leaf`."""

from typing import Annotated

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from hiercnn.hierarchy._cut import Cut
from hiercnn.hierarchy._tree import Hierarchy
from hiercnn.settings import Settings


class CutSettings(Settings):
    """`{depth: 1}` or `{groups: 20}`."""

    depth: Annotated[int, Field(ge=0)] | None = None
    groups: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self):
        if (self.depth is None) == (self.groups is None):
            raise ValueError("give either depth or groups")
        return self


def _plain_cut(value: object) -> object:
    if value != "leaf" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("should be a number of groups, {depth: d}, {groups: k} or leaf")
    return value


CutChoice = Annotated[
    Annotated[int | str, BeforeValidator(_plain_cut), Tag("plain")] | Annotated[CutSettings, Tag("settings")],
    Discriminator(lambda value: "settings" if isinstance(value, dict | CutSettings) else "plain"),
]


def chosen_cuts(hierarchy: Hierarchy, choices: list[int | str | CutSettings]) -> list[Cut]:
    """The cuts of a hierarchy that a recipe names, coarse first. Raises HierarchyError as `Hierarchy.cuts` does."""
    return hierarchy.cuts([choice.model_dump(exclude_none=True) if isinstance(choice, CutSettings) else choice for choice in choices])
