"""Images listed in a CSV file."""

import csv
import io
import posixpath
from pathlib import Path

import numpy as np

from hiercnn.data._image_set import ImageSet, Source
from hiercnn.data._registry import data_sets
from hiercnn.errors import DataError, did_you_mean, shorten


@data_sets.register("manifest")
def manifest(*, file: Path, root: Path | None = None) -> Source:
    """Read a UTF-8 CSV with the columns `path,label[,split]`.

    Paths are relative to `root` (default: the folder of the file). A label is a class or an inner node of the hierarchy (the image
    then counts as coarsely labelled). `split` is train, val or test; without the column everything is train.

    Raises:
        DataError: The file cannot be read, lacks a column, has an empty cell or unknown split (with the line), or gives one path
            two labels (multi-label data are not supported), two splits or two rows.
    """
    file = Path(file)
    rows = _read(file)
    root = Path(root) if root is not None else file.parent
    names = tuple(sorted({label for _, label, _ in rows}))
    position = {name: i for i, name in enumerate(names)}
    by_split: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    for path, label, split in rows:
        by_split[split].append((path, label))
    if not by_split["train"]:
        raise DataError(f"{file}: no row belongs to the split 'train'")
    sets = {split: _image_set(listed, position, root) for split, listed in by_split.items() if listed}
    return Source(names, inner_labels=True, **sets)


def _image_set(rows: list[tuple[str, str]], position: dict[str, int], root: Path) -> ImageSet:
    labels = np.array([position[label] for _, label in rows], dtype=np.int64)
    return ImageSet(labels, [path for path, _ in rows], paths=[root / path for path, _ in rows])


def _read(file: Path) -> list[tuple[str, str, str]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read manifest {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{file} is not UTF-8 (line {line}); save it as UTF-8 and try again") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = {"path", "label"}.difference(reader.fieldnames or [])
    if missing:
        wanted = sorted(missing)[0]
        raise DataError(
            f"{file} lacks the column '{wanted}'{did_you_mean(wanted, reader.fieldnames or [])}; wanted path,label[,split],"
            f" found {shorten(reader.fieldnames or []) or 'nothing'}"
        )
    rows, seen = [], {}
    for row in reader:
        line = reader.line_num
        path, label, split = ((row.get(column) or "").strip() for column in ("path", "label", "split"))
        if not path or not label or split not in ("", "train", "val", "test"):
            wanted = "a path, a label and a split of train, val, test (or none)"
            raise DataError(f"{file} line {line}: needs {wanted}; got {path!r}, {label!r}, {split!r}")
        split = split or "train"
        key = posixpath.normpath(path)
        before_label, before_split, before_line = seen.get(key, (label, split, None))
        if before_label != label:
            raise DataError(f"{file} line {line}: {path} has the labels '{before_label}' and '{label}'; multi-label data are not supported")
        if before_split != split:
            raise DataError(f"{file} line {line}: {path} stands in {before_split} and in {split}; an image belongs to one split")
        if before_line is not None:
            raise DataError(f"{file} line {line}: {path} is listed already, in line {before_line}; list every image once")
        seen[key] = (label, split, line)
        rows.append((path, label, split))
    return rows
