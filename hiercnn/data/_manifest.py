"""Images listed in a CSV file."""

import csv
import posixpath
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hiercnn.data._image_set import ImageSet, Source
from hiercnn.data._names import Files, Names
from hiercnn.data._registry import data_sets
from hiercnn.errors import DataError, did_you_mean, shorten, why_unread

SPLITS = ("train", "val", "test")


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
    table = _read(file)
    _check_repeats(file, table)
    if not (table.splits == 0).any():
        raise DataError(f"{file}: no row belongs to the split 'train'")
    names = tuple(sorted(table.names))
    position = {name: i for i, name in enumerate(names)}
    labels = np.array([position[name] for name in table.names], dtype=np.int64)[table.labels]
    root = Path(root) if root is not None else file.parent
    chosen = {split: np.flatnonzero(table.splits == number) for number, split in enumerate(SPLITS)}
    sets = {split: _image_set(table.paths.take(rows), labels[rows], root) for split, rows in chosen.items() if len(rows)}
    return Source(names, inner_labels=True, **sets)


def _image_set(paths: Names, labels: np.ndarray, root: Path) -> ImageSet:
    return ImageSet(labels, paths, paths=Files(root, paths))


class _Table(NamedTuple):
    """The rows [n] of a manifest in columns: labels are positions in `names`, splits in SPLITS; lines of the file; hashes of paths."""

    paths: Names
    names: list[str]
    labels: np.ndarray
    splits: np.ndarray
    lines: np.ndarray
    hashes: np.ndarray


def _read(file: Path) -> _Table:
    names: dict[str, int] = {}
    labels, splits, lines, hashes = array("i"), array("b"), array("q"), array("q")

    def paths() -> Iterator[str]:
        for line, path, label, split in _rows(file):
            labels.append(names.setdefault(label, len(names)))
            splits.append(SPLITS.index(split or "train"))
            lines.append(line)
            hashes.append(hash(posixpath.normpath(path)))
            yield path

    block = Names.of(paths())
    return _Table(block, list(names), *(np.array(column) for column in (labels, splits, lines, hashes)))


def _rows(file: Path) -> Iterator[tuple[int, str, str, str]]:
    """Line, path, label and split of every row."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text)
            columns = _columns(file, next(reader, []))
            for row in filter(None, reader):
                path, label, split = [row[at].strip() if at < len(row) else "" for at in columns]
                if not path or not label or split not in ("", *SPLITS):
                    wanted = "a path, a label and a split of train, val, test (or none)"
                    raise DataError(f"{file} line {reader.line_num}: needs {wanted}; got {path!r}, {label!r}, {split!r}")
                yield reader.line_num, path, label, split
    except OSError as error:
        raise DataError(f"cannot read manifest {file}: {why_unread(file, error)}") from None
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8 (line {_undecodable_line(file)}); save it as UTF-8 and try again") from None
    except csv.Error as error:
        raise DataError(f"{file} line {reader.line_num}: {error}; look for a quotation mark that is never closed") from None


def _columns(file: Path, header: Sequence[str]) -> tuple[int, int, int]:
    """Where path, label and split stand; a split that is missing stands behind every row."""
    at = {name: number for number, name in enumerate(header)}
    missing = {"path", "label"}.difference(at)
    if missing:
        wanted = sorted(missing)[0]
        raise DataError(
            f"{file} lacks the column '{wanted}'{did_you_mean(wanted, header)}; wanted path,label[,split],"
            f" found {shorten(header) or 'nothing'}"
        )
    return at["path"], at["label"], at.get("split", sys.maxsize)


def _undecodable_line(file: Path) -> int:
    try:
        file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return error.object[: error.start].count(b"\n") + 1


def _check_repeats(file: Path, table: _Table) -> None:
    """Raise DataError for the first path that is listed twice; hashes find the few rows whose paths have to be looked at."""
    counts = np.unique(table.hashes, return_counts=True)
    suspects = np.flatnonzero(np.isin(table.hashes, counts[0][counts[1] > 1]))
    seen: dict[str, int] = {}
    for row in suspects.tolist():
        path = table.paths[row]
        first = seen.setdefault(posixpath.normpath(path), row)
        if first != row:
            raise DataError(f"{file} line {table.lines[row]}: {path} {_twice(table, first, row)}")


def _twice(table: _Table, first: int, row: int) -> str:
    labels, splits = ([values[i] for i in (first, row)] for values in (table.labels, table.splits))
    if labels[0] != labels[1]:
        return "has the labels '{}' and '{}'; multi-label data are not supported".format(*(table.names[label] for label in labels))
    if splits[0] != splits[1]:
        return "stands in {} and in {}; an image belongs to one split".format(*(SPLITS[split] for split in splits))
    return f"is listed already, in line {table.lines[first]}; list every image once"
