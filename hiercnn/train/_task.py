"""What is minimised. Flat and hierarchical runs differ in their task and nothing else."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiercnn.models import HeadSpec, Output
from hiercnn.ops import Mixed
from hiercnn.train._settings import Linear, Steps, weight_at


class FlatTask(nn.Module):
    """The leaf loss alone.

    Args:
        loss: Module (logits [B, C], labels [B]) → named terms, each a scalar.
        weight: Weight of the leaf loss, constant or scheduled by epoch.
        adjustment: What is added to the leaf logits while training, [C]: τ log of the classes' shares adjusts them to a long tail
            (Menon et al., ICLR 2021).
    """

    def __init__(self, loss: nn.Module, weight: float | Linear | Steps = 1.0, *, adjustment: Tensor | None = None):
        super().__init__()
        self.loss = loss
        self.weight = weight
        self.register_buffer("adjustment", adjustment, persistent=False)

    def weights(self, epoch: int) -> dict[str, float]:
        """Weight of each part in a 0-based epoch."""
        return {"leaf": weight_at(self.weight, epoch)}

    def forward(self, output: Output, labels: Tensor | Mixed, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum to minimise and its unweighted terms by name."""
        scores = output.nodes if getattr(self.loss, "scores", "leaf") == "nodes" else output.leaf
        if self.adjustment is not None:
            scores = scores.float() + self.adjustment
        terms = dict(self.loss(scores, labels))
        return self.weights(epoch)["leaf"] * sum(terms.values()), terms


class HierarchicalTask(FlatTask):
    """The leaf loss plus the cross-entropy of every hypernym head (Zhu & Bain 2017; Bilal et al. 2018).

    A sample whose label is coarser than a head's cut is left out of that head's term, unless the head is distilled: then it still learns
    from the leaf's probabilities of the groups, which are not trained by it.

    Args:
        heads: What each head is, by name. In terms and weights a head is called `head/<name>`.
    """

    def __init__(
        self, loss: nn.Module, weight: float | Linear | Steps = 1.0, *, heads: Mapping[str, HeadSpec], adjustment: Tensor | None = None
    ):
        super().__init__(loss, weight, adjustment=adjustment)
        self.specs = dict(heads)
        for name, spec in heads.items():
            self.register_buffer(f"groups_{name}", torch.tensor(spec.cut.label_groups), persistent=False)

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {f"head/{name}": weight_at(spec.weight, epoch) for name, spec in self.specs.items()}

    def forward(self, output: Output, labels: Tensor | Mixed, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = super().forward(output, labels, epoch)
        weights = self.weights(epoch)
        for name, logits in output.heads.items():
            terms[f"head/{name}"] = self._head_loss(name, logits.float(), output.leaf, labels)
            total = total + weights[f"head/{name}"] * terms[f"head/{name}"]
        return total, terms

    def _head_loss(self, name: str, logits: Tensor, leaf: Tensor, labels: Tensor | Mixed) -> Tensor:
        groups, distill = self.get_buffer(f"groups_{name}"), self.specs[name].distill
        hard = _mixed_nll(logits, groups, labels) if isinstance(labels, Mixed) else _nll(logits, groups[labels])
        if not distill:
            return hard
        probabilities = leaf.detach().float().softmax(1)
        soft = torch.zeros_like(logits).index_add_(1, groups[: leaf.shape[1]], probabilities)  # [B, K]
        return (1 - distill) * hard + distill * F.cross_entropy(logits, soft)


def _nll(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross-entropy of logits [B, K] over the images that have a group, those with `wanted` [B] >= 0."""
    summed = F.cross_entropy(logits, wanted, ignore_index=-1, reduction="sum")
    return summed / (wanted >= 0).sum().clamp(min=1)


def _mixed_nll(logits: Tensor, groups: Tensor, labels: Mixed) -> Tensor:
    """The same over pairs of labels; each of a pair counts by its share."""
    first, second = groups[labels.first], groups[labels.second]
    losses = labels.mix(*(F.cross_entropy(logits, wanted, ignore_index=-1, reduction="none") for wanted in (first, second)))
    counted = labels.mix((first >= 0).float(), (second >= 0).float())
    return losses.sum() / counted.sum().clamp(min=1e-6)
