"""Small pictures and data sets that the tests in this folder share."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from hiercnn.data import DataSettings, Source, in_memory


def settings(**values) -> DataSettings:
    return DataSettings(name="test", **values)


def noise(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> np.ndarray:
    """Random images [count, channels, size, size], uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def save(path: Path, seed: int = 0, size: int = 8) -> Path:
    """Write a random RGB image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(1, size=size, seed=seed)[0].transpose(1, 2, 0)).save(path)
    return path


def save_all(root: Path, names: Iterable[str]) -> Path:
    for seed, name in enumerate(names):
        save(root / name, seed)
    return root


def memory_source(counts: Mapping[str, int], **splits: Mapping[str, int]) -> Source:
    """A source in memory with so many train images of each name, and other splits alike; classes come in turn, not in blocks."""
    names = tuple(counts)
    sets = {"train": counts, **splits}
    return Source(names, **{split: _memory_set(names, wanted, split) for split, wanted in sets.items()})


def _memory_set(names, counts, split):
    labels = np.concatenate([np.full(counts.get(name, 0), i) for i, name in enumerate(names)])
    labels = np.random.default_rng(0).permutation(labels)
    return in_memory(noise(len(labels), seed=len(split)), labels, split)
