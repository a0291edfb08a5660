"""Two labels an image, as mixup and cutmix make them."""

from typing import NamedTuple

from torch import Tensor

from hiercnn.errors import ShapeError


class Mixed(NamedTuple):
    """Labels of images that are mixed from two: their loss is λ times that of the first and 1 − λ times that of the second.

    Attributes:
        first, second: Labels of B images [B], int64.
        share: λ, 0 to 1: one number, or one an image [B].
    """

    first: Tensor
    second: Tensor
    share: Tensor | float

    def mix(self, first: Tensor, second: Tensor) -> Tensor:
        """λ first + (1 − λ) second, of two losses [B]. Raises ShapeError unless λ is 0 to 1, or [B]."""
        if isinstance(self.share, Tensor):
            if self.share.shape not in ((), first.shape):
                raise ShapeError(f"share: wanted one number or [{len(first)}], one an image, got {list(self.share.shape)}")
        elif not isinstance(self.share, int | float) or not 0 <= self.share <= 1:
            raise ShapeError(f"share: wanted a number from 0 to 1 or a tensor [{len(first)}] of them, got {self.share!r}")
        return self.share * first + (1 - self.share) * second
