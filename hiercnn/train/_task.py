"""What is minimised. Flat and hierarchical runs differ in their task and nothing else."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiercnn.hierarchy import Cut
from hiercnn.models import Output
from hiercnn.train._settings import Linear, Steps, weight_at


class FlatTask(nn.Module):
    """The leaf loss alone.

    Args:
        loss: Module (logits [B, C], labels [B]) → named terms, each a scalar.
        weight: Weight of the leaf loss, constant or scheduled by epoch.
    """

    def __init__(self, loss: nn.Module, weight: float | Linear | Steps = 1.0):
        super().__init__()
        self.loss = loss
        self.weight = weight

    def weights(self, epoch: int) -> dict[str, float]:
        """Weight of each part in a 0-based epoch."""
        return {"leaf": weight_at(self.weight, epoch)}

    def forward(self, output: Output, labels: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum to minimise and its unweighted terms by name."""
        terms = dict(self.loss(output.leaf, labels))
        return self.weights(epoch)["leaf"] * sum(terms.values()), terms


class HierarchicalTask(FlatTask):
    """The leaf loss plus the cross-entropy of every hypernym head (Zhu & Bain 2017; Bilal et al. 2018).

    A sample whose label is coarser than a head's cut is left out of that head's term.

    Args:
        heads: {head name: (cut, weight)}. In terms and weights a head is called `head/<name>`.
    """

    def __init__(self, loss: nn.Module, weight: float | Linear | Steps = 1.0, *, heads: Mapping[str, tuple[Cut, float | Linear | Steps]]):
        super().__init__(loss, weight)
        self.head_weights = {name: head_weight for name, (_, head_weight) in heads.items()}
        for name, (cut, _) in heads.items():
            self.register_buffer(f"groups_{name}", torch.tensor(cut.label_groups), persistent=False)

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {f"head/{name}": weight_at(weight, epoch) for name, weight in self.head_weights.items()}

    def forward(self, output: Output, labels: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = super().forward(output, labels, epoch)
        weights = self.weights(epoch)
        for name, logits in output.heads.items():
            terms[f"head/{name}"] = self._head_loss(logits, self.get_buffer(f"groups_{name}")[labels])
            total = total + weights[f"head/{name}"] * terms[f"head/{name}"]
        return total, terms

    @staticmethod
    def _head_loss(logits: Tensor, groups: Tensor) -> Tensor:
        summed = F.cross_entropy(logits.float(), groups, ignore_index=-1, reduction="sum")
        return summed / (groups >= 0).sum().clamp(min=1)
