"""Networks that stop at a hypernym head: always, or where the head is sure."""

import math

import torch
from torch import Tensor, nn

from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.models._backbone import feature_map, features_up_to, stages, tapped_forward
from hiercnn.models._model import HierarchicalModel


class Truncated(nn.Module):
    """A network that ends at one of its hypernym heads.

    Args:
        model: A model with heads.
        head: Name of one.

    Shapes:
        images [B, in_chans, H, W] → the head's logits [B, K]. What lies behind its stage is not computed.

    Raises:
        RecipeError: No such head.
    """

    def __init__(self, model: HierarchicalModel, head: str):
        super().__init__()
        self.backbone, self.head = model.backbone, _head(model, head)
        self.stage, self.cut = model.specs[head].stage, model.specs[head].cut

    def forward(self, images: Tensor) -> Tensor:
        return self.head(features_up_to(self.backbone, images, self.stage))


class EarlyExit(nn.Module):
    """A network whose images leave at a hypernym head that is sure of their group; the others go on, alone, to the end.

    Args:
        model: A model with heads, whose backbone is made of modules that `feature_info` names, and a linear classifier.
        head: Name of the head.
        threshold: Probability of its best group from which on the head is sure; over 1 for never.
        input_size: Channels, height and width of the images, with which it is tried whether the head sees there what it was trained on.

    Shapes:
        images [B, in_chans, H, W] → log-probabilities of the head's groups [B, K]: the head's, or sums of the classes'.

    Attributes:
        left: Images of the last batch that left early [B] bool.

    Raises:
        RecipeError: No such head, or a backbone that cannot be left at its stage.
    """

    def __init__(self, model: HierarchicalModel, head: str, threshold: float, *, input_size: tuple[int, int, int]):
        super().__init__()
        self.backbone, self.head, self.threshold = model.backbone, _head(model, head), threshold
        self.stage, self.cut = model.specs[head].stage, model.specs[head].cut
        self.register_buffer("groups", torch.tensor(self.cut.groups), persistent=False)
        self.left = torch.zeros(0, dtype=torch.bool)
        if model.reader is not None or len(model.feeds):
            raise RecipeError("only models whose backbone scores the classes by itself can be left early")
        self.eval()._check(input_size)

    def forward(self, images: Tensor) -> Tensor:
        answers: list[Tensor] = []
        hook = self._module().register_forward_hook(lambda _, __, features: self._leave(features, answers))
        try:
            scores = self.backbone(images)
        except _AllLeft:
            return answers[0]
        finally:
            hook.remove()
        probabilities = scores.float().softmax(1)
        sums = probabilities.new_zeros(len(scores), len(self.cut)).index_add_(1, self.groups, probabilities)
        answers[0][~self.left] = sums.log()
        return answers[0]

    def _leave(self, features: Tensor, answers: list[Tensor]) -> Tensor:
        """Answer for the images whose group is sure, and hand the others on."""
        found = self.head(features).float().log_softmax(1)
        self.left = found.amax(1).exp() >= self.threshold
        answers.append(found)
        if self.left.all():
            raise _AllLeft
        return features[~self.left]

    def _module(self) -> nn.Module:
        return self.backbone.get_submodule(stages(self.backbone)[self.stage]["module"])

    @torch.no_grad()
    def _check(self, input_size: tuple[int, int, int]) -> None:
        """Compare what passes the module with what the head was trained on."""
        images = torch.linspace(-1, 1, 2 * math.prod(input_size), device=self.groups.device).reshape(2, *input_size)
        wanted, passed = tapped_forward(self.backbone, images, [self.stage])[1][self.stage], []
        hook = self._module().register_forward_hook(lambda _, __, output: passed.append(output))
        try:
            self.backbone(images)
        finally:
            hook.remove()
        whole = len(passed) == 1 and isinstance(passed[0], Tensor) and passed[0].shape == wanted.shape
        if not whole or not torch.allclose(feature_map(passed[0], wanted.shape[1]), wanted):
            raise RecipeError(
                f"this backbone cannot be left after stage {self.stage} and gone on with; answer with the head for all images"
            )


class _AllLeft(Exception):
    """Nobody is left to go on."""


def _head(model: HierarchicalModel, name: str) -> nn.Module:
    if name not in model.heads:
        raise RecipeError(
            f"there is no head '{name}'{did_you_mean(name, model.heads)}; this network has {', '.join(model.heads) or 'none'}"
        )
    return model.heads[name]
