"""Images in class folders, flat or nested."""

from pathlib import Path

import numpy as np

from hiercnn.data._image_set import ImageSet, Source
from hiercnn.data._registry import data_sets
from hiercnn.errors import DataError, did_you_mean

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})


@data_sets.register("folder")
def folder(*, root: Path) -> Source:
    """Read `root/{train,val,test}/…/<class>/<image>`, or `root/…/<class>/<image>` without splits.

    The folder an image lies in is its class, however deep; classes are numbered by name. val and test are optional.

    Raises:
        DataError: No folder, no images, or a split with a class that train lacks.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"data.root: {root} is not a folder; it should hold train/<class>/<image>, or <class>/<image>")
    split_folders = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if split_folders and "train" not in split_folders:
        raise DataError(f"{root} has {', '.join(split_folders)} but no train folder")
    files = {name: _images_below(path) for name, path in (split_folders or {"train": root}).items()}
    if not files["train"]:
        raise DataError(f"no images below {(split_folders or {'train': root})['train']} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    names = tuple(sorted({path.parent.name for path in files["train"]}))
    return Source(names, **{split: file_set(paths, names, root) for split, paths in files.items() if paths})


def file_set(paths: list[Path], names: tuple[str, ...], root: Path) -> ImageSet:
    """An `ImageSet` of files whose class is the folder they lie in; raises DataError for a folder that is no class."""
    position = {name: i for i, name in enumerate(names)}
    strangers = sorted({path.parent.name for path in paths}.difference(position))
    if strangers:
        raise DataError(f"{root}: folder '{strangers[0]}' is not one of the {len(names)} classes{did_you_mean(strangers[0], names)}")
    labels = np.array([position[path.parent.name] for path in paths], dtype=np.int64)
    return ImageSet(labels, [path.relative_to(root).as_posix() for path in paths], paths=paths)


def _images_below(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not _is_hidden(path.relative_to(root)))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
