"""Files, folders, arrays and PIL images as one list of images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hiercnn.data import open_image
from hiercnn.errors import DataError


class Inputs:
    """A map-style data set of (PIL image, 0).

    Args:
        images: A file, a folder (all images in it and below, by name), a PIL image, a uint8 array [H, W] or [H, W, 3], or several of these.
        channels: 1 makes them grey; otherwise they are RGB.
        max_pixels: Larger files are not opened.

    Attributes:
        ids: What each is called: its path, or `image 3` by its place.

    Raises:
        DataError: No images, or what is none of these. For single images, when they are read: a file that is missing or no readable image.
    """

    def __init__(self, images: object, channels: int, max_pixels: int):
        several = images if isinstance(images, list | tuple) else [images]
        found = [pair for place, image in enumerate(several) for pair in _expanded(image, place)]
        if not found:
            raise DataError(f"no images in {', '.join(str(image) for image in several) or 'an empty list'}")
        self.ids, self._images = (list(column) for column in zip(*found, strict=True))
        self._mode, self._max_pixels = "L" if channels == 1 else "RGB", max_pixels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int):
        image = self._images[index]
        if isinstance(image, Path):
            image = open_image(image, max_pixels=self._max_pixels)
        return image.convert(self._mode), 0


def _expanded(image: object, place: int) -> Iterator[tuple[str, object]]:
    from PIL import Image

    if isinstance(image, str | Path):
        path = Path(image)
        yield from ((str(file), file) for file in (_images_in(path) if path.is_dir() else [path]))
    elif isinstance(image, Image.Image):
        yield f"image {place}", image
    else:
        yield f"image {place}", _from_array(image, place)


def _images_in(folder: Path) -> list[Path]:
    from PIL import Image

    known = {suffix for suffix, form in Image.registered_extensions().items() if form in Image.OPEN}  # PDF is only written
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in known and file.is_file())


def _from_array(array: object, place: int):
    from PIL import Image

    is_image = isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.size and array.ndim > 1 and array.shape[2:] in ((), (3,))
    if not is_image:
        came = f"{array.dtype} {list(array.shape)}" if hasattr(array, "dtype") else type(array).__name__
        raise DataError(f"image {place}: wanted a file, a folder, a PIL image or a uint8 array [H, W] or [H, W, 3], got {came}")
    return Image.fromarray(array)
