"""CIFAR and Fashion-MNIST from tiny fakes of every layout: same classes, same labels, same pixels."""

import gzip
import pickle

import numpy as np
import pytest
import torchvision
from PIL import Image

from hiercnn.data import data_sets
from hiercnn.errors import DataError
from hiercnn.hierarchy import builtin

COARSE = {"cifar10": "labels", "cifar100": "fine_labels"}
FOLDER = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
FILES = {
    "cifar10": {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    "cifar100": {"train": ["train"], "test": ["test"]},
}
META = {"cifar10": ("batches.meta", "label_names"), "cifar100": ("meta", "fine_label_names")}


def fake_cifar(name: str) -> dict[str, list[tuple[np.ndarray, list[int]]]]:
    """For each split the parts of it: images [6, 3, 32, 32] and labels."""
    rng, classes = np.random.default_rng(0), len(builtin(name).classes)
    parts = {split: len(files) for split, files in FILES[name].items()}
    return {
        split: [(rng.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8), rng.integers(0, classes, 6).tolist()) for _ in range(count)]
        for split, count in parts.items()
    }


def write_pickles(root, name: str, classes) -> None:
    folder = root / FOLDER[name]
    folder.mkdir(parents=True)
    for split, parts in fake_cifar(name).items():
        for file, (images, labels) in zip(FILES[name][split], parts, strict=True):
            (folder / file).write_bytes(pickle.dumps({"data": images.reshape(6, -1), COARSE[name]: labels}))
    (folder / META[name][0]).write_bytes(pickle.dumps({META[name][1]: list(classes)}))


def write_pngs(root, name: str) -> None:
    for split, parts in fake_cifar(name).items():
        for part, (images, labels) in enumerate(parts):
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                folder = root / split / builtin(name).classes[label]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{part}{i}.png")


def content(source, split: str) -> set[tuple[str, bytes]]:
    """Class name and pixels of every image."""
    image_set = getattr(source, split)
    pixels = [np.asarray(image_set.fetch(i)) for i in range(len(image_set))]
    pixels = [image if image.shape[0] == 3 else image.transpose(2, 0, 1) for image in pixels]
    return {(source.names[label], image.tobytes()) for label, image in zip(image_set.labels, pixels, strict=True)}


@pytest.fixture
def unchecked(monkeypatch):
    """Torchvision takes the fakes for its own files."""
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.usefixtures("unchecked")
def test_both_layouts_of_cifar_give_the_same(tmp_path, name):
    write_pickles(tmp_path / "pickles", name, builtin(name).classes)
    write_pngs(tmp_path / "pngs", name)
    pickles, pngs = (data_sets[name](root=tmp_path / layout) for layout in ("pickles", "pngs"))
    assert pickles.names == pngs.names == builtin(name).classes
    wanted = {
        split: {(builtin(name).classes[label], image.tobytes()) for part in parts for image, label in zip(*part, strict=True)}
        for split, parts in fake_cifar(name).items()
    }
    for split in ("train", "test"):
        assert content(pickles, split) == content(pngs, split) == wanted[split]


@pytest.mark.usefixtures("unchecked")
def test_cifar_in_another_class_order_is_refused(tmp_path):
    write_pickles(tmp_path, "cifar10", builtin("cifar10").classes[::-1])
    with pytest.raises(DataError, match="classes of CIFAR10 are not in the official order"):
        data_sets["cifar10"](root=tmp_path)


def test_damaged_cifar_is_named(tmp_path):
    write_pickles(tmp_path, "cifar100", builtin("cifar100").classes)  # other files than the real ones, so their checksums are wrong
    with pytest.raises(DataError, match="CIFAR100 in .* cannot be read: Dataset not found or corrupted"):
        data_sets["cifar100"](root=tmp_path)


def test_cifar_folder_that_is_no_class(tmp_path):
    write_pngs(tmp_path, "cifar10")
    (tmp_path / "train" / "aeroplane").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "train" / "aeroplane" / "0.png")
    with pytest.raises(DataError, match="folder 'aeroplane' is not one of the 10 classes; did you mean 'airplane'"):
        data_sets["cifar10"](root=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_cifar_says_what_was_wanted(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name.upper()} is not in .*: wanted .*{FOLDER[name]}/; set data\.root, or data\.download=true"):
        data_sets[name](root=tmp_path)


def test_official_class_orders():
    """CIFAR is numbered by name; torchvision knows the names of Fashion-MNIST without its files."""
    for name, first, last in (("cifar10", "airplane", "truck"), ("cifar100", "apple", "worm")):
        classes = builtin(name).classes
        assert (classes[0], classes[-1], list(classes)) == (first, last, sorted(classes))
    assert list(builtin("fashion_mnist").classes) == torchvision.datasets.FashionMNIST.classes


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def write_fashion(folder, packed: bool = False) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write the four files; return images and labels by split."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {
        s: (rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8))
        for s, n in (("train", 7), ("t10k", 4))
    }
    for split, (images, labels) in arrays.items():
        for name, array in {f"{split}-images-idx3-ubyte": images, f"{split}-labels-idx1-ubyte": labels}.items():
            file = folder / (name + ".gz" * packed)
            file.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return arrays


LAYOUTS = {"gz": ("", True), "plain": ("", False), "torchvision": ("FashionMNIST/raw", False), "torchvision gz": ("FashionMNIST/raw", True)}


@pytest.mark.parametrize(("below", "packed"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_fashion_mnist(tmp_path, below, packed):
    arrays = write_fashion(tmp_path / below, packed)
    source = data_sets["fashion_mnist"](root=tmp_path)
    assert (source.names, source.channels) == (builtin("fashion_mnist").classes, 1)
    for split, name in {"train": "train", "test": "t10k"}.items():
        assert (getattr(source, split).images[:, 0].numpy() == arrays[name][0]).all()
        assert getattr(source, split).labels.tolist() == arrays[name][1].tolist()


DAMAGE = {
    "truncated": ("train-images-idx3-ubyte.gz", lambda packed: gzip.compress(gzip.decompress(packed)[:-5])),
    "only a header": ("train-images-idx3-ubyte.gz", lambda packed: gzip.compress(gzip.decompress(packed)[:6])),
    "empty": ("t10k-labels-idx1-ubyte.gz", lambda packed: b""),
    "other magic number": ("t10k-images-idx3-ubyte.gz", lambda packed: gzip.compress(bytes(4) + gzip.decompress(packed)[4:])),
    "cut gzip": ("train-images-idx3-ubyte.gz", lambda packed: packed[:-20]),
    "no gzip": ("train-labels-idx1-ubyte.gz", lambda packed: b"<html>not found</html>"),
    "broken gzip": ("train-images-idx3-ubyte.gz", lambda packed: packed[:20] + b"\xff" * 40 + packed[60:]),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_fashion_mnist_names_the_file(tmp_path, name, damage):
    write_fashion(tmp_path, packed=True)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(DataError, match=f"{name} is damaged"):
        data_sets["fashion_mnist"](root=tmp_path)


def test_incomplete_fashion_mnist(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"lacks t10k-labels-idx1-ubyte\[\.gz\]"):
        data_sets["fashion_mnist"](root=tmp_path)


def test_fashion_mnist_with_too_few_labels(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(6, np.uint8)))
    with pytest.raises(DataError, match="7 train images but 6 labels"):
        data_sets["fashion_mnist"](root=tmp_path)


def test_missing_fashion_mnist_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"is not in .*; run apt-get install dataset-fashion-mnist, set data\.root, or data\.download=true"):
        data_sets["fashion_mnist"](root=tmp_path)
