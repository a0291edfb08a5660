"""Two labels an image, as mixup and cutmix make them."""

from typing import NamedTuple

from torch import Tensor


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
        """λ first + (1 − λ) second, of two losses [B]."""
        return self.share * first + (1 - self.share) * second
