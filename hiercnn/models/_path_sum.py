"""Path-sum softmax: a class's score is the sum of the scores of the nodes on its path from the root."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hiercnn.errors import RecipeError
from hiercnn.hierarchy import Hierarchy


class PathSum(nn.Module):
    """Rows of all nodes but the root [N − 1, …] → rows of the classes [C, …], each the sum along its path.

    Used as a parametrisation of a linear classifier's weight and bias: the network stays a plain one with N − 1 rows of parameters
    behind its C logits, and folds back into one linear layer. It starts from the classifier's own rows, the inner nodes at zero, so
    that a flat twin has the same function at the start.

    Args:
        hierarchy: Its classes are the classifier's rows.

    Source: Wu et al., "Solving long-tailed recognition with deep realistic taxonomic classifier" (ECCV 2020); as parameter sharing,
    Valmadre, "Hierarchical classification at multiple operating points" (NeurIPS 2022).
    """

    def __init__(self, hierarchy: Hierarchy):
        super().__init__()
        leaf_nodes = torch.tensor(hierarchy.leaf_nodes)
        paths = [torch.tensor(hierarchy.ancestors(int(node))[1:]) for node in leaf_nodes]  # without the root
        self.num_rows = hierarchy.num_nodes - 1
        self.register_buffer("leaf_rows", leaf_nodes - 1, persistent=False)
        self.register_buffer("rows", torch.cat(paths) - 1, persistent=False)  # [sum of path lengths]
        self.register_buffer("classes", torch.arange(len(paths)).repeat_interleave(torch.tensor([len(p) for p in paths])), persistent=False)

    def forward(self, nodes: Tensor) -> Tensor:
        summed = nodes.new_zeros(len(self.leaf_rows), *nodes.shape[1:])
        return summed.index_add(0, self.classes, nodes[self.rows])

    def right_inverse(self, classes: Tensor) -> Tensor:
        nodes = classes.new_zeros(self.num_rows, *classes.shape[1:])
        nodes[self.leaf_rows] = classes
        return nodes


def share_rows(backbone: nn.Module, hierarchy: Hierarchy) -> None:
    """Make the classifier of a timm backbone a path sum, in place. Raises RecipeError unless it is one linear layer."""
    classifier = backbone.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise RecipeError(f"path_sum needs a backbone whose classifier is one linear layer, not {type(classifier).__name__}")
    for name in ("weight", "bias"):
        if getattr(classifier, name) is not None:
            parametrize.register_parametrization(classifier, name, PathSum(hierarchy))


def folded(backbone: nn.Module) -> nn.Module:
    """Fold path sums into plain linear layers, in place."""
    for module in list(backbone.modules()):
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module):
            sums = {name: nn.Parameter(getattr(module, name).detach().clone()) for name in module.parametrizations}
            del module.parametrizations
            module.__class__ = nn.Linear  # not remove_parametrizations: it would take the names away from the class that copies share
            for name, value in sums.items():
                module.register_parameter(name, value)
    return backbone


def has_path_sum(backbone: nn.Module) -> bool:
    """Whether a part of it is a `PathSum`."""
    return any(isinstance(module, PathSum) for module in backbone.modules())
