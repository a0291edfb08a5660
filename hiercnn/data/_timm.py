"""Whatever `timm.data.create_dataset` reads: folders, tar files, Hugging Face data sets, webdataset shards, torchvision's, TFDS."""

import importlib.util
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from hiercnn.data._dataset import checked_labels, from_datasets
from hiercnn.data._image_set import ImageSet, Source, open_image
from hiercnn.data._names import Files, Names
from hiercnn.data._registry import data_sets
from hiercnn.errors import DataError, did_you_mean, shorten

PACKAGES = {"hfds": ("datasets", "datasets"), "wds": ("webdataset", "webdataset"), "tfds": ("tensorflow_datasets", "tensorflow-datasets")}
KINDS = ("", *PACKAGES, "torch")
STREAM_LIMIT = 2 * 2**30  # bytes of decoded images of a split that can only be streamed (tfds)


@data_sets.register("timm")
def timm_dataset(
    *,
    dataset: str = "",
    root: Path | None = None,
    train_split: str = "train",
    val_split: str | None = None,
    test_split: str | None = None,
    classes: list[str] | str | None = None,
    input_key: str | None = None,
    target_key: str | None = None,
    download: bool = False,
) -> Source:
    """Read what `timm.data.create_dataset` reads; images become RGB. No remote code is run.

    Args:
        dataset: `` for a folder of class folders or a tar file; `hfds/<folder or hub name>`, `wds/`, `torch/<name>` or `tfds/<name>`.
        root: The folder (or tar file) with the data; a cache folder for hfds.
        train_split, val_split, test_split: timm's names of the splits: a folder or tar file in `root`, a split of the data set
            (`train[:10%]`), or shards (`train-{0000..0003}.tar`).
        classes: Class names in the order of the labels, or a text file with one a line; needed where the data bring none.
        input_key, target_key: Columns of image and label (hfds, tfds), or endings of the members (wds).
        download: Let timm fetch what is not on this machine (hfds, torch, tfds).

    Raises:
        DataError: A package or the data are missing, no class names, labels that are no indices of them, splits with other classes.
    """
    kind, _, name = dataset.partition("/")
    kind = kind.lower()
    _check_request(kind, name, root, download)
    wanted = {"train": train_split, "val": val_split, "test": test_split}
    options = {"input_key": input_key, "target_key": target_key, "download": download} if kind else {}
    made = {key: _create(dataset, root, split, options) for key, split in wanted.items() if split is not None}
    own = _class_names(classes)
    if kind == "torch":
        return from_datasets(**made, classes=own)
    if not kind:
        _check_roots(made, wanted)
    listed = {key: _listed(kind, created.reader, key) for key, created in made.items()}
    names = _named(own, listed["train"])
    return Source(names, **{key: _image_set(split, listed["train"], key, len(names)) for key, split in listed.items()})


class _Listed(NamedTuple):
    """A split as timm brings it: class names (or None), a label an image, and the fields of an `ImageSet` that say where images are."""

    classes: tuple[str, ...] | None
    labels: Sequence
    images: dict[str, object]


# ---- asking timm


def _check_request(kind: str, name: str, root: Path | None, download: bool) -> None:
    if kind not in KINDS:
        known = ", ".join(f"{known}/" for known in KINDS if known)
        folders = "no data.dataset for a folder or tar file in data.root"
        raise DataError(f"data.dataset: unknown prefix '{kind}/'{did_you_mean(kind, KINDS)}; wanted {known}, or {folders}")
    if kind in PACKAGES:
        module, package = PACKAGES[kind]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:  # a folder of that name is no package
            raise DataError(f"data.dataset: {kind}/ needs a package that is not installed: pip install {package}")
    if kind == "hfds" and not Path(name).is_dir() and not download:
        raise DataError(f"data.dataset: {name} is not a folder on this machine; data.download=true fetches it from the Hugging Face hub")
    if kind != "hfds" and root is None:
        raise DataError("data.root is missing: the folder (or tar file) with the data")
    if kind in ("", "wds") and not Path(root).exists():
        raise DataError(f"data.root: {root} does not exist")


def _create(dataset: str, root: Path | None, split: str, options: dict[str, object]):
    from timm.data import create_dataset

    where = None if root is None else os.path.abspath(root)  # an absolute name is never taken for a URL or a command
    try:
        return create_dataset(dataset, root=where, split=split, **options)
    except Exception as error:  # timm and the packages behind it raise a dozen kinds
        place = "" if where is None else f" in {where}"
        raise DataError(f"timm cannot read the split '{split}' of '{dataset}'{place}: {error or type(error).__name__}") from error


def _check_roots(made: dict[str, object], wanted: dict[str, str | None]) -> None:
    """timm takes the root itself where a split has no folder there, and with it the images of the others."""
    places = {key: Path(created.reader.root) for key, created in made.items()}
    for key, other in itertools.permutations(places, 2):
        if places[other].is_relative_to(places[key]):
            raise DataError(f"data.{key}_split: no '{wanted[key]}' in {places[key]}, and as a whole it holds the images of {other}")


# ---- class names


def _class_names(classes: list[str] | str | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, str):
        try:
            classes = Path(classes).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"data.classes: cannot read {classes}: {error}; wanted a text file with one class name a line") from None
    names = tuple(name.strip() for name in classes)
    if not names:
        raise DataError("data.classes: no names; one name a class, in the order of the labels")
    if not all(names):
        raise DataError(f"data.classes: name {names.index('') + 1} is empty; one name a class, in the order of the labels")
    return names


def _named(own: tuple[str, ...] | None, train: _Listed) -> tuple[str, ...]:
    if own is None and train.classes is None:
        raise DataError("the data bring no class names; give data.classes: a list, or a text file with one name a line, in label order")
    if own is not None and train.classes is not None and len(own) != len(train.classes):
        raise DataError(f"data.classes: {len(own)} names, but the data have {len(train.classes)} classes: {shorten(train.classes)}")
    return own or train.classes


def _image_set(split: _Listed, train: _Listed, key: str, count: int) -> ImageSet:
    """With labels in the order of train's classes, whatever order this split has."""
    if not len(split.labels):
        raise DataError(f"the {key} split is empty")
    labels = checked_labels(split.labels, key, count if split.classes is None else len(split.classes))
    if split.classes is not None:
        position = {name: i for i, name in enumerate(train.classes or ())}
        strangers = [name for name in split.classes if name not in position]
        if strangers:
            raise DataError(f"{key} has classes that train lacks: {shorten(strangers)}{did_you_mean(strangers[0], position)}")
        labels = np.array([position[name] for name in split.classes], dtype=np.int64)[labels]
    return ImageSet(labels, **split.images)


# ---- readers


def _listed(kind: str, reader, key: str) -> _Listed:
    if kind == "hfds":
        return _hugging_face(reader, key)
    if kind == "wds":
        return _shards(reader, key)
    if kind == "tfds":
        return _streamed(reader, key)
    return _folder(reader) if hasattr(reader, "class_to_idx") else _tar(reader)


def _in_order(class_to_idx: dict[str, int]) -> tuple[str, ...] | None:
    return tuple(sorted(class_to_idx, key=class_to_idx.get)) or None


def _from_dataset(dataset: Dataset, ids: Sequence[str]) -> dict[str, object]:
    return {"ids": ids, "dataset": dataset, "positions": np.arange(len(ids))}


def _numbered(key: str, count: int) -> Names:
    return Names.of(f"{key}/{i}" for i in range(count))


def _check_class_folders(root: str, ids: Names) -> None:
    """timm takes the last folder for the class, and one of a name for another."""
    places: dict[str, str] = {}
    for place in sorted({os.path.dirname(name) for name in ids}):
        if not place:
            raise DataError(f"{root} holds images outside class folders; move each into the folder of its class")
        first = places.setdefault(os.path.basename(place), place)
        if first != place:
            raise DataError(f"{root}: two class folders are called '{os.path.basename(place)}': {first} and {place}; rename one of them")


def _folder(reader) -> _Listed:
    ids = Names.of(os.path.relpath(path, reader.root) for path, _ in reader.samples)
    _check_class_folders(reader.root, ids)
    labels = [label for _, label in reader.samples]
    return _Listed(_in_order(reader.class_to_idx), labels, {"ids": ids, "paths": Files(Path(reader.root), ids)})


def _tar(reader) -> _Listed:
    """A tar file, or one of tar files."""
    members = [(inner, member) for member, _, inner in reader.samples]
    ids = Names.of(os.path.join(os.path.splitext(inner.name)[0], member.name) if inner else member.name for inner, member in members)
    _check_class_folders(reader.root, ids)
    places = [(0, (inner.offset_data if inner else 0) + member.offset_data, member.size) for inner, member in members]
    return _Listed(_in_order(reader.class_name_to_idx), reader.targets.tolist(), _from_dataset(_Stretches([reader.root], places, ids), ids))


def _hugging_face(reader, key: str) -> _Listed:
    if reader.label_key not in reader.dataset.column_names:
        columns = shorten(reader.dataset.column_names)
        raise DataError(f"data.target_key: the data set has no column '{reader.label_key}'; there are {columns}")
    if len(reader) and reader.dataset[0][reader.image_key] is None:
        raise DataError(f"data.input_key: no image in the column '{reader.image_key}'; there are {shorten(reader.dataset.column_names)}")
    ids = _numbered(key, len(reader))
    return _Listed(_in_order(reader.class_to_idx), list(reader.dataset[reader.label_key]), _from_dataset(_Rows(reader, ids), ids))


class _Rows(Dataset):
    """Images of a Hugging Face data set by row, decoded here, so that a row that cannot be read is named and not replaced by the next."""

    def __init__(self, reader, ids: Names):
        self.reader, self.ids = reader, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int):
        try:
            file, label = self.reader[index]
        except (OSError, TypeError, AssertionError) as error:
            raise DataError(f"unreadable image {self.ids[index]}: {error or 'the row has none'}") from None
        with file:
            return open_image(file, self.ids[index]), label


class _Stretches(Dataset):
    """Images that are stretches of larger files, opened anew for each, so that workers of a DataLoader share no handle.

    Args:
        files: The larger files.
        places: Of each image: position in `files`, first byte, number of bytes.
        ids: What messages call the images.
    """

    def __init__(self, files: Sequence[str], places: Sequence[tuple[int, int, int]], ids: Names):
        self.files, self.places, self.ids = list(files), np.array(places, dtype=np.int64).reshape(-1, 3), ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int):
        number, start, size = self.places[index].tolist()
        name = f"{self.ids[index]} in {self.files[number]}"
        try:
            with open(self.files[number], "rb") as file:
                file.seek(start)
                return open_image(io.BytesIO(file.read(size)), name), -1
        except OSError as error:
            raise DataError(f"unreadable image {name}: {error.strerror}") from None


def _shards(reader, key: str) -> _Listed:
    """Webdataset shards are tar files: an index of their members takes the place of timm's stream, whose order cannot be drawn anew."""
    files = [os.path.join(reader.root, name) for name in reader.split_info.filenames]
    endings = reader.input_key.split(";")
    ids, labels, places = [], [], []
    for number, file in enumerate(files):
        for name, members in _samples(file):
            image = next((members[ending] for ending in endings if ending in members), None)
            if image is None:
                raise DataError(f"{file}: sample '{name}' has no image ({', '.join(endings)}); data.input_key names its ending")
            labels.append(_shard_label(file, name, members, reader.target_key or reader.split_info.alt_label))
            ids.append(name)
            places.append((number, *image))
    classes = reader.info.get("classes")
    names = Names.of(ids)
    return _Listed(tuple(map(str, classes)) if classes else None, labels, _from_dataset(_Stretches(files, places, names), names))


def _samples(file: str) -> Iterator[tuple[str, dict[str, tuple[int, int] | bytes]]]:
    """Each sample of a shard: its name, and by ending where a member lies; the text of small ones, `cls` and `json`."""
    samples: dict[str, dict] = {}
    try:
        with tarfile.open(file, "r:") as shard:
            for member in shard:
                folder, name = os.path.split(member.name)
                name, _, ending = name.partition(".")
                if member.isfile() and name and ending:
                    small = ending.lower() in ("cls", "json")
                    place = shard.extractfile(member).read() if small else (member.offset_data, member.size)
                    samples.setdefault(os.path.join(folder, name), {})[ending.lower()] = place
    except OSError as error:
        raise DataError(f"cannot read shard {file}: {error.strerror}") from None
    except tarfile.TarError as error:
        raise DataError(f"cannot read shard {file}: {error}; it should be a tar file that is not compressed") from None
    yield from samples.items()


def _shard_label(file: str, name: str, members: dict, target_key: str | None) -> int:
    """The text of `cls`, or a field of `json`."""
    try:
        return int(json.loads(members["json"])[target_key] if target_key else members["cls"])
    except (KeyError, TypeError, ValueError):
        wanted = f"a whole number under '{target_key}' in its json" if target_key else "a cls file with a whole number"
        raise DataError(f"{file}: sample '{name}' has no label: wanted {wanted}; data.target_key names a field of json") from None


def _streamed(reader, key: str) -> _Listed:
    """A stream read through once, images kept decoded."""
    images, labels, held = [], [], 0
    for image, label in reader:
        held += 3 * image.width * image.height
        if held > STREAM_LIMIT:
            limit = f"{STREAM_LIMIT / 2**30:g} GiB"
            raise DataError(f"the {key} split takes more than {limit} of memory; write its images to files and list them in a manifest")
        images.append((image.convert("RGB"), label))
        labels.append(label)
    return _Listed(_in_order(reader.class_to_idx), labels, _from_dataset(images, _numbered(key, len(images))))
