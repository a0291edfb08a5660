"""The most probable class: what a flat classifier answers."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.inference._marginals import Marginals
from hiercnn.inference._registry import rules
from hiercnn.inference._rule import Rule
from hiercnn.settings import checked_options


@rules.register("argmax")
class Argmax(Rule):
    """The most probable class, the first of equal ones.

    Args:
        hierarchy: Its classes are the logits.
        temperature: T; logits are divided by it. It changes probabilities here, and no answer.
    """

    @checked_options
    def __init__(self, hierarchy: Hierarchy, *, temperature: Annotated[float, Field(gt=0)] = 1.0):
        super().__init__(hierarchy, temperature=temperature)

    def choose(self, marginals: Marginals) -> Tensor:
        return self.leaf_nodes[marginals.best]

    def explain(self, marginals: Marginals, node: int) -> str:
        return f"{self.title(node)} has {self.share(marginals, node)}, and no class has more"
