"""Fashion-MNIST, from Debian's package, a folder of idx files, or torchvision."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from hiercnn.data._image_set import ImageSet, Source, in_memory
from hiercnn.data._registry import data_sets
from hiercnn.errors import DataError
from hiercnn.hierarchy import builtin

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_PREFIX = {"train": "train", "test": "t10k"}


@data_sets.register("fashion_mnist")
def fashion_mnist(*, root: Path = DEBIAN, download: bool = False) -> Source:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 grey images 28×28, classes in the official order.

    Args:
        root: A folder with the four idx files (gzipped or not), such as the one Debian's package dataset-fashion-mnist installs, or
            torchvision's root.
        download: Let torchvision fetch its files into `root` if they are not there.

    Raises:
        DataError: The files are not there and download is false, or one is damaged.
    """
    root = Path(root)
    folder = next((f for f in (root, root / "FashionMNIST" / "raw") if _find(f, "train-images-idx3-ubyte")), None)
    if folder is None and not download:
        raise DataError(
            f"Fashion-MNIST is not in {root}; run apt-get install dataset-fashion-mnist, set data.root, or data.download=true to fetch it"
        )
    if folder is None:
        import torchvision

        for train in (True, False):
            torchvision.datasets.FashionMNIST(root, train=train, download=True)
        folder = root / "FashionMNIST" / "raw"
    return Source(builtin("fashion_mnist").classes, **{split: _split(folder, split) for split in _PREFIX}, channels=1)


def _split(folder: Path, split: str) -> ImageSet:
    images = _idx(folder, f"{_PREFIX[split]}-images-idx3-ubyte", 3)
    labels = _idx(folder, f"{_PREFIX[split]}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} {split} images but {len(labels)} labels")
    return in_memory(images[:, None], labels, split)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _idx(folder: Path, name: str, rank: int) -> np.ndarray:
    """Read one idx file: magic number, `rank` big-endian sizes, then bytes."""
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder} lacks {name}[.gz]")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if content[:4] != bytes([0, 0, 8, rank]):
            raise ValueError("another magic number")
        sizes = np.frombuffer(content, ">u4", count=rank, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes).copy()  # writable, as torch wants it
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is damaged: not the idx file it should be ({error})") from None
