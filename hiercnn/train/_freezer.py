"""Keeps the backbone still up to a stage that changes with the epoch."""

from collections.abc import Sequence

from hiercnn.models import HierarchicalModel, check_frozen_stage, freeze, parameters_up_to
from hiercnn.train._settings import FreezeSteps, frozen_stage, frozen_stages


class Freezer:
    """Freezes a model's backbone as `train.freeze` says.

    Args:
        model: Its parameters that need no gradient now never learn.
        schedule: A stage, steps of stages, or None.

    Raises:
        RecipeError: A stage that the backbone does not have.
    """

    def __init__(self, model: HierarchicalModel, schedule: int | str | FreezeSteps | None):
        self.model, self.schedule = model, schedule
        for stage in frozen_stages(schedule).values():
            check_frozen_stage(model.backbone, stage)
        self._trainable = frozenset(name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad)
        self._frozen: dict[int | str, frozenset[str]] = {"none": frozenset()}
        self._epoch: int | None = None

    def set(self, epoch: int, shape: Sequence[int]) -> bool:
        """Freeze for a 0-based epoch of images [B, channels, H, W], if that is not done yet, and tell whether other parameters learn now.

        The model is in training mode.
        """
        if self.schedule is None or epoch == self._epoch:
            return False
        stage = frozen_stage(self.schedule, epoch)
        if stage not in self._frozen:
            self._frozen[stage] = parameters_up_to(self.model.backbone, stage, shape)
        before = _learning(self.model)
        freeze(self.model.backbone, self._frozen[stage], self._trainable)
        self._epoch = epoch
        return _learning(self.model) != before


def _learning(model: HierarchicalModel) -> set[str]:
    """Names of the parameters that learn."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
