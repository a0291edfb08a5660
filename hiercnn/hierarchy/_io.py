"""Reading and writing hierarchies: our own JSON, nested JSON or YAML, and CSV."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hiercnn.errors import HierarchyError, did_you_mean, shorten, why_unread
from hiercnn.hierarchy._build import from_edges, from_nested, from_numbered_rows
from hiercnn.hierarchy._cut import Cut
from hiercnn.hierarchy._tree import Hierarchy

FORMAT = "hiercnn.hierarchy/1"
_TOO_DEEP = "nested too deeply; write the tree as a CSV with the columns parent,child"


def read_hierarchy(path: Path | str, *, columns: Sequence[str] | None = None, parent_rule: str | None = None) -> Hierarchy:
    """Read a tree from a file.

    Args:
        path: `.json` (ours, or a nested mapping), `.yaml`/`.yml` (nested mapping; names stay as written, so `no` and `007`
            need no quotes) or `.csv` (the columns `parent` and `child`, or one row a class with columns coarse → fine).
        columns: Columns of the CSV to use, coarse → fine; default: all, from left to right.
        parent_rule: For `parent,child` files in which a node has several parents; see `from_edges`.

    Raises:
        HierarchyError: The file is missing, unreadable, not UTF-8, or holds no tree; names the file and the place.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    readers = {".json": _read_json, ".yaml": _read_yaml, ".yml": _read_yaml, ".csv": _read_csv}
    if suffix not in readers:
        raise HierarchyError(f"{path}: cannot read a hierarchy from '{path.suffix}'; use .json, .yaml or .csv")
    if suffix != ".csv" and (columns or parent_rule):
        raise HierarchyError(f"{path}: columns= and parent_rule= are for .csv files")
    text = _read_text(path)
    try:
        return _read_csv(text, columns, parent_rule) if suffix == ".csv" else readers[suffix](text)
    except HierarchyError as error:
        raise HierarchyError(f"{path}: {error}") from None


def save_hierarchy(hierarchy: Hierarchy, path: Path | str, cuts: Iterable[Cut] = ()) -> None:
    """Write the tree, and cuts of it, as JSON; the file appears whole or not at all. Raises HierarchyError if it cannot."""
    path = Path(path)
    document = to_dict(hierarchy) | {"cuts": [cut_to_dict(cut) for cut in cuts]}
    scratch = path.with_name(path.name + ".tmp")
    try:
        scratch.unlink(missing_ok=True)  # if it is a link, what it leads to is not ours to write
        scratch.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        raise HierarchyError(f"cannot write hierarchy {path}: {error.strerror}") from None


def to_dict(hierarchy: Hierarchy) -> dict[str, object]:
    """The tree as plain JSON values; `from_dict` reads them back."""
    document: dict[str, object] = {"format": FORMAT, "meta": dict(hierarchy.meta)}
    document |= {"classes": list(hierarchy.classes), "names": list(hierarchy.names), "parents": hierarchy.parents.tolist()}
    if hierarchy.titles != hierarchy.names:
        document["titles"] = list(hierarchy.titles)
    return document


def from_dict(document: Mapping[str, object]) -> Hierarchy:
    """Build the tree that `to_dict` described. Raises HierarchyError if a part is missing or of the wrong kind."""
    if not isinstance(document, Mapping) or document.get("format", FORMAT) != FORMAT:
        raise HierarchyError(f"not a hierarchy of the format '{FORMAT}'; was it written by another version?")
    meta = document.get("meta", {})
    kinds = {"names": str, "classes": str, "parents": int} | ({"titles": str} if "titles" in document else {})
    wrong = [key for key, kind in kinds.items() if not _is_list_of(kind, document.get(key))]
    if wrong or not isinstance(meta, Mapping):
        raise HierarchyError(f"not a hierarchy file: {shorten(wrong or ['meta'])} missing or of the wrong kind")
    return Hierarchy(document["names"], document["parents"], document["classes"], titles=document.get("titles"), meta=meta)


def to_nested(hierarchy: Hierarchy) -> dict[str, object]:
    """The tree as the nested mapping that `from_nested` reads; the order of the classes is not kept."""
    below: list[dict[str, object]] = [{} for _ in hierarchy.names]
    for node, parent in enumerate(hierarchy.parents.tolist()):
        if parent >= 0:
            below[parent][hierarchy.names[node]] = None if hierarchy.is_leaf(node) else below[node]
    return {hierarchy.names[0]: below[0]}


def read_cuts(path: Path | str, hierarchy: Hierarchy) -> list[Cut]:
    """Read the cuts that `save_hierarchy` wrote beside the tree. Raises HierarchyError if the file or a cut is unusable."""
    try:
        document = _mapping(_json(_read_text(Path(path))))
        return [cut_from_dict(item, hierarchy) for item in document.get("cuts", [])]
    except (HierarchyError, KeyError, TypeError) as error:
        raise HierarchyError(f"{path} holds no cuts of this hierarchy: {error}") from None


def _is_list_of(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)  # isinstance would take true for 1


def cut_to_dict(cut: Cut) -> dict[str, object]:
    """The cut as plain JSON values; `cut_from_dict` reads them back."""
    return {"name": cut.name, "names": list(cut.names), "groups": cut.groups.tolist(), "tree": cut.nodes is not None}


def cut_from_dict(item: Mapping[str, object], hierarchy: Hierarchy) -> Cut:
    """The cut of a hierarchy that `cut_to_dict` described. Raises HierarchyError, or KeyError or TypeError for anything else."""
    if item["tree"]:
        return replace(hierarchy.cut_at([hierarchy.node(name) for name in item["names"]]), name=item["name"])
    return hierarchy.partition(item["groups"], item["names"], name=item["name"])


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise HierarchyError(f"cannot read hierarchy {path}: {why_unread(path, error)}") from None
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise HierarchyError(f"{path} is not UTF-8 (line {line}, byte {byte:#04x}); save it as UTF-8 and try again") from None


def _read_json(text: str) -> Hierarchy:
    document = _json(text)
    if isinstance(document, dict) and str(document.get("format")).startswith("hiercnn."):
        return from_dict(document)
    return from_nested(_mapping(document))


def _json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise HierarchyError(_TOO_DEEP) from None
    except ValueError as error:
        raise HierarchyError(f"not valid JSON: {error}") from None


def _read_yaml(text: str) -> Hierarchy:
    import yaml

    class Loader(yaml.BaseLoader):  # leaves every scalar as text, runs no tags
        def construct_scalar(self, node):
            empty = node.style is None and node.value in ("", "~", "null")
            return None if empty else node.value

        def construct_mapping(self, node, deep=False):
            return _unique([(key.value, self.construct_object(value)) for key, value in node.value])

    try:
        return from_nested(_mapping(yaml.load(text, Loader)))
    except RecursionError:
        raise HierarchyError(_TOO_DEEP) from None
    except yaml.YAMLError as error:
        raise HierarchyError(f"not valid YAML: {error}") from None


def _unique(pairs: Iterable[tuple[object, object]]) -> dict[str, object]:
    """The pairs as a dict, which by itself would silently drop the first of two equal keys."""
    mapping: dict[str, object] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise HierarchyError("a key is a list or mapping; names are text")
        if key in mapping:
            raise HierarchyError(f"'{key}' stands twice in one mapping; merge the two")
        mapping[key] = value
    return mapping


def _mapping(document: object) -> Mapping[str, object]:
    if not isinstance(document, dict):
        raise HierarchyError("expected a nested mapping such as {animal: {pet: [cat, dog]}, car: null}")
    return document


def _read_csv(text: str, columns: Sequence[str] | None, parent_rule: str | None) -> Hierarchy:
    rows = _csv_rows(text)
    if not rows:
        raise HierarchyError("the file is empty")
    header = rows.pop(0)[1]
    _check_columns(header, columns or header)
    for line, cells in rows:
        if len(cells) > len(header):
            raise HierarchyError(f"line {line} has {len(cells)} cells, the header {len(header)}; put names that hold a comma in quotes")
        cells.extend([""] * (len(header) - len(cells)))
    if columns is None and set(header) == {"parent", "child"}:
        return _from_edge_rows(_pick(rows, header, ("parent", "child")), parent_rule)
    if parent_rule:
        raise HierarchyError("parent_rule= is for files with the columns parent and child alone")
    return from_numbered_rows(_pick(rows, header, columns or header), "line")


def _pick(rows: list[tuple[int, list[str]]], header: list[str], columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    positions = [header.index(name) for name in columns]
    return [(line, [cells[i] for i in positions]) for line, cells in rows]


def _csv_rows(text: str) -> list[tuple[int, list[str]]]:
    """Rows with anything in them, each with the line on which it ends."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise HierarchyError(f"not valid CSV, line {reader.line_num}: {error}") from None


def _check_columns(header: list[str], wanted: Sequence[str]) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1]
    missing = [name for name in wanted if name not in header]
    if twice:
        raise HierarchyError(f"columns named twice: {shorten(twice)}")
    if missing:
        raise HierarchyError(f"no column {shorten(missing)}{did_you_mean(missing[0], header)}; its columns are {shorten(header)}")
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise HierarchyError(f"one column, {header[0]!r}; separate the columns with commas")


def _from_edge_rows(rows: list[tuple[int, list[str]]], parent_rule: str | None) -> Hierarchy:
    parent_of: dict[str, str] = {}
    for line, (parent, child) in rows:
        if not parent or not child:
            raise HierarchyError(f"line {line} has no {'child' if parent else 'parent'}; fill it in or remove the line")
        known = parent_of.setdefault(child, parent)
        if known != parent and parent_rule is None:
            raise HierarchyError(f"'{child}' has two parents ('{known}', '{parent}'); pick one with parent_rule= or edit line {line}")
    return from_edges((edge for _, edge in rows), parent_rule=parent_rule)
