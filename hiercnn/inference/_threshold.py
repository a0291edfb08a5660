"""The most informative node with more than a given probability."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from hiercnn.hierarchy import Hierarchy
from hiercnn.inference._marginals import Marginals
from hiercnn.inference._paths import PathRule
from hiercnn.inference._registry import rules
from hiercnn.inference._rule import deepest, exactly
from hiercnn.settings import checked_options


@rules.register("threshold")
class Threshold(PathRule):
    """The node of fewest classes with q > t. With t = ½ it is the majority's.

    Two nodes with q > ½ share classes, so all of them lie on one path and the deepest is wanted: the root is always there, and of an only
    child and its parent, which hold the same classes, the answer is the child.

    Args:
        hierarchy: Its classes are the logits.
        threshold: t, from ½ to below 1.
        temperature: T; logits are divided by it.

    Source: Valmadre, "Hierarchical classification at multiple operating points" (NeurIPS 2022).
    """

    @checked_options
    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        threshold: Annotated[float, Field(ge=0.5, lt=1)] = 0.5,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ):
        super().__init__(hierarchy, temperature=temperature)
        self.threshold = threshold

    def choose(self, marginals: Marginals) -> Tensor:
        paths, q = self.along(marginals, self.middle(marginals))
        return deepest(paths, q > self.threshold)

    def explain(self, marginals: Marginals, node: int) -> str:
        limit = exactly(self.threshold)
        answer = f"{self.title(node)} has {self.share(marginals, node, self.threshold)}, over {limit}"
        if self.hierarchy.is_leaf(node):
            return answer
        child = self.best_child(marginals, node)
        return f"{answer}; the most probable node below it, {self.title(child)}, has {self.share(marginals, child, self.threshold)}"
