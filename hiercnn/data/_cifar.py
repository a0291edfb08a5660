"""CIFAR-10 and CIFAR-100, as unpacked PNG folders or as torchvision keeps them."""

from pathlib import Path

import numpy as np

from hiercnn.data._folder import file_set
from hiercnn.data._image_set import Source, in_memory
from hiercnn.data._registry import data_sets
from hiercnn.errors import DataError
from hiercnn.hierarchy import builtin


@data_sets.register("cifar10")
def cifar10(*, root: Path = Path("data/cifar10"), download: bool = False) -> Source:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 images 32×32; see `cifar100` for the layouts that are read."""
    return _cifar("CIFAR10", "cifar-10-batches-py", builtin("cifar10").classes, Path(root), download)


@data_sets.register("cifar100")
def cifar100(*, root: Path = Path("data/cifar100"), download: bool = False) -> Source:
    """CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 images 32×32, classes in the official order.

    Args:
        root: A folder with {train,test}/<class>/<image>.png, or with torchvision's files.
        download: Let torchvision fetch its files into `root` if neither is there.

    Raises:
        DataError: Neither layout is there and download is false, or torchvision's files are damaged.
    """
    return _cifar("CIFAR100", "cifar-100-python", builtin("cifar100").classes, Path(root), download)


def _cifar(name: str, pickles: str, classes: tuple[str, ...], root: Path, download: bool) -> Source:
    if (root / "train").is_dir():
        files = {split: sorted((root / split).glob("*/*.png")) for split in ("train", "test")}
        return Source(classes, **{split: file_set(paths, classes, root) for split, paths in files.items() if paths or split == "train"})
    if not download and not (root / pickles).is_dir():
        raise DataError(
            f"{name} is not in {root}: wanted {{train,test}}/<class>/*.png or torchvision's {pickles}/; "
            "set data.root, or data.download=true to fetch it"
        )
    import torchvision

    dataset = getattr(torchvision.datasets, name)
    try:
        splits = {split: dataset(root, train=split == "train", download=download) for split in ("train", "test")}
    except (RuntimeError, OSError) as error:
        raise DataError(f"{name} in {root} cannot be read: {error}") from error
    if tuple(splits["train"].classes) != classes:
        raise DataError(f"{root}: the classes of {name} are not in the official order; fetch the files again")
    return Source(classes, **{split: in_memory(d.data.transpose(0, 3, 1, 2), np.array(d.targets), split) for split, d in splits.items()})
