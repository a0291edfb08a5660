"""Images in class folders, flat or nested."""

import os
from pathlib import Path

import numpy as np

from hiercnn.data._image_set import ImageSet, Source
from hiercnn.data._names import Files, Names
from hiercnn.data._registry import data_sets
from hiercnn.errors import DataError, did_you_mean

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})


@data_sets.register("folder")
def folder(*, root: Path) -> Source:
    """Read `root/{train,val,test}/…/<class>/<image>`, or `root/…/<class>/<image>` without splits.

    The folder an image lies in is its class, however deep; classes are numbered by name. val and test are optional.

    Raises:
        DataError: No folder, no images, an image outside class folders, two class folders of one name in a split, or a split with a class
            that train lacks.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"data.root: {root} is not a folder; it should hold train/<class>/<image>, or <class>/<image>")
    split_folders = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if split_folders and "train" not in split_folders:
        raise DataError(f"{root} has {', '.join(split_folders)} but no train folder")
    tops = split_folders or {"train": root}
    files = {name: _images_below(top) for name, top in tops.items()}
    if not files["train"]:
        raise DataError(f"no images below {tops['train']} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    _check_class_folders(tops, files)
    names = tuple(sorted({path.parent.name for path in files["train"]}))
    return Source(names, **{split: file_set(paths, names, root) for split, paths in files.items() if paths})


def file_set(paths: list[Path], names: tuple[str, ...], root: Path) -> ImageSet:
    """An `ImageSet` of files whose class is the folder they lie in; raises DataError for a folder that is no class."""
    position = {name: i for i, name in enumerate(names)}
    strangers = sorted({path.parent.name for path in paths}.difference(position))
    if strangers:
        hint = f"{did_you_mean(strangers[0], names)}; rename it, leave it out, or give train images of it"
        raise DataError(f"{root}: folder '{strangers[0]}' is not one of the {len(names)} classes{hint}")
    labels = np.array([position[path.parent.name] for path in paths], dtype=np.int64)
    ids = Names.of(path.relative_to(root).as_posix() for path in paths)
    return ImageSet(labels, ids, paths=Files(root, ids))


def _check_class_folders(tops: dict[str, Path], files: dict[str, list[Path]]) -> None:
    for split, paths in files.items():
        places: dict[str, Path] = {}
        for folder in sorted({path.parent for path in paths}):
            place = folder.relative_to(tops[split])
            if place == Path():
                raise DataError(f"{tops[split]} holds images outside class folders; move each into the folder of its class")
            if places.setdefault(folder.name, place) != place:
                raise DataError(f"two class folders are called '{folder.name}': {places[folder.name]} and {place}; rename one of them")


def _images_below(root: Path) -> list[Path]:
    found = []
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(folder, name) for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")]
    return sorted(found)
