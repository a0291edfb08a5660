"""Leaf probabilities weighed by those of a hypernym head."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, InstanceOf
from torch import Tensor

from hiercnn.errors import RecipeError, ShapeError
from hiercnn.hierarchy import Cut, CutChoice, Hierarchy, chosen_cuts
from hiercnn.inference._argmax import Argmax
from hiercnn.inference._marginals import Marginals
from hiercnn.inference._registry import rules
from hiercnn.ops import check_floats
from hiercnn.settings import checked_options


@rules.register("hie")
class HiE(Argmax):
    """The class with the largest p_leaf · p_head(its group), renormalised.

    Args:
        hierarchy: Its classes are the logits.
        cut: What the head predicts: as recipes name cuts, or a `Cut`.
        head: Name of the head; may be left out where there is one alone.
        temperature: T of the leaf logits. head_temperature: that of the head's.

    Shapes:
        logits [B, C], heads {name: [B, K]}.

    Raises:
        HierarchyError: A cut that does not exist. RecipeError: No such head. ShapeError: logits that are not [B, C] and [B, K].

    Source: Jain, Karthik and Gandhi, "Test-time amendment with a coarse classifier for fine-grained classification" (NeurIPS 2023).
    """

    reads_heads = True

    @checked_options
    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        cut: CutChoice | InstanceOf[Cut],
        head: str | None = None,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        head_temperature: Annotated[float, Field(gt=0)] = 1.0,
    ):
        super().__init__(hierarchy, temperature=temperature)
        self.cut = cut if isinstance(cut, Cut) else chosen_cuts(hierarchy, [cut])[0]
        self.head, self.head_temperature = head, head_temperature
        self.register_buffer("groups", torch.tensor(self.cut.groups), persistent=False)

    def amended(self, logits: Tensor, heads: Mapping[str, Tensor]) -> Tensor:
        leaf = super().amended(logits, heads)
        return leaf + (self._head(heads, len(leaf)).to(leaf.dtype) / self.head_temperature).log_softmax(1)[:, self.groups]

    def explain(self, marginals: Marginals, node: int) -> str:
        return f"{super().explain(marginals, node)}, once its group's probability by the head is multiplied in"

    def _head(self, heads: Mapping[str, Tensor], rows: int) -> Tensor:
        there = ", ".join(heads) or "none"
        if self.head is None and len(heads) != 1:
            raise RecipeError(f"HiE: wanted the logits of one head, or head= to say which; there are: {there}")
        name = self.head or next(iter(heads))
        if name not in heads:
            raise RecipeError(f"HiE: there is no head '{name}'; there are: {there}")
        check_floats(name, heads[name], ("group", len(self.cut)))
        if len(heads[name]) != rows:
            raise ShapeError(f"{name}: wanted {rows} rows, as many as leaf logits, got {len(heads[name])}")
        return heads[name]


def hie_options(cuts: Mapping[str, Cut], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `hie` for a network with heads of these cuts: the first head whose groups are not classes, unless they name a cut.

    Raises:
        RecipeError: There is no such head.
    """
    if "cut" in options:
        return dict(options)
    heads = {head: cut for head, cut in cuts.items() if cut.name != "leaf" and head == options.get("head", head)}
    if not heads:
        wanted = f"a head '{options['head']}'" if "head" in options else "a head"
        raise RecipeError(f"hie needs {wanted} that predicts groups, and there is {', '.join(cuts) or 'none'}")
    head, cut = next(iter(heads.items()))
    return {**options, "head": head, "cut": cut}
