"""Mixup and cutmix of a batch by timm, whose labels stay pairs of indices, so that every head can learn from them."""

import numpy as np
import torch
from torch import Tensor

from hiercnn.data._settings import Mix
from hiercnn.ops import Mixed


class Mixer:
    """Mixes the images of a batch with each other, the first with the last, the second with the last but one.

    Args:
        settings: The section `data.augment.mix`.
    """

    def __init__(self, settings: Mix):
        from timm.data import Mixup

        options = {"prob": settings.prob, "switch_prob": settings.switch_prob, "mode": settings.mode}
        self._mixup = Mixup(settings.mixup, settings.cutmix, **options, label_smoothing=0.0, num_classes=2)

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Mixed]:
        """Return mixed images [B, channels, H, W] and pairs of labels. The odd one of a batch stays as it is; draws depend on `seed`.

        The images are changed in place.
        """
        half = len(images) // 2
        side = torch.arange(2 * half, device=images.device).ge(half).long()  # partners lie on different sides, so shares can be read
        mixed, shares = _seeded(seed, self._mixup, images[: 2 * half], side) if half else (images[:0], images.new_zeros(0, 2))
        share = torch.ones(len(images), device=images.device)
        share[: 2 * half] = shares.gather(1, side[:, None]).squeeze(1)
        others = torch.cat([labels[: 2 * half].flip(0), labels[2 * half :]])
        return torch.cat([mixed, images[2 * half :]]) if len(images) % 2 else mixed, Mixed(labels, others, share)


def _seeded(seed: int, function, *arguments):
    """Call with numpy's global generator, which timm draws from, at `seed`; afterwards it is as it was."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        return function(*arguments)
    finally:
        np.random.set_state(state)
