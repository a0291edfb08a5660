"""From the most probable class up to a node that is probable enough."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.inference._marginals import Marginals
from hiercnn.inference._paths import PathRule
from hiercnn.inference._registry import rules
from hiercnn.inference._rule import deepest, exactly
from hiercnn.settings import checked_options


@rules.register("climbing")
class Climbing(PathRule):
    """The lowest node at or above the most probable class with q ≥ θ: the class itself with θ = 0, the root if none other will do.

    Args:
        hierarchy: Its classes are the logits.
        threshold: θ, 0 to 1, or None, with which every answer is the root; the rule `auto` has one that keeps a promise.
        temperature: T; logits are divided by it.
    """

    @checked_options
    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        threshold: Annotated[float, Field(ge=0, le=1)] | None = 0.8,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ):
        super().__init__(hierarchy, temperature=temperature)
        self.threshold = threshold

    def choose(self, marginals: Marginals) -> Tensor:
        if self.threshold is None:
            return self.starts.new_zeros(len(marginals.logits))
        paths, q = self.along(marginals, marginals.best)
        return deepest(paths, q >= self.threshold)

    def explain(self, marginals: Marginals, node: int) -> str:
        if self.threshold is None:
            return f"every answer is {self.title(node)}, since no threshold is set"
        limit, best = exactly(self.threshold), self.best_node(marginals)
        shares = {v: f"{self.title(v)} has {self.share(marginals, v, self.threshold)}" for v in (best, node)}
        if node == best:
            return f"{shares[node]}, at least {limit}, and no class has more"
        return f"{shares[best]}, below {limit}; {shares[node]}"
