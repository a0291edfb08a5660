"""The built-in synthetic data set: rendered shapes whose classes form a known three-level tree."""

import os

import numpy as np

from hiercnn.data._image_set import Source, in_memory
from hiercnn.data._registry import cache_folder, data_sets
from hiercnn.data._synthetic import CLASSES, render

VERSION = 1  # raise it when render() draws differently, so that old caches are not read


@data_sets.register("synthetic")
def synthetic(*, render_train: int = 120, render_test: int = 50, render_size: int = 32, render_seed: int = 0) -> Source:
    """Render (or read from the cache) the synthetic shapes: family → shape → fill.

    Args:
        render_train, render_test: Images of each class in train and test.
        render_size: Side of the images in pixels.
        render_seed: Seed of the drawings; train and test differ whatever it is.
    """
    splits = {"train": (render_train, 2 * render_seed), "test": (render_test, 2 * render_seed + 1)}
    return Source(CLASSES, **{split: in_memory(*_cached(count, seed, render_size), split) for split, (count, seed) in splits.items()})


def _cached(count: int, seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    path = cache_folder() / f"synthetic-v{VERSION}-{count}x{size}-{seed}.npz"
    try:
        with path.open("rb") as file, np.load(file) as stored:
            return stored["images"], stored["labels"]
    except Exception:  # no file, or a damaged one: numpy and zipfile raise a dozen kinds, and drawing again mends them all
        images, labels = render(count, seed, size)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
        np.savez(scratch, images=images, labels=labels)
        os.replace(scratch, path)
    except OSError:
        pass  # a read-only home costs seconds, not the run
    return images, labels
