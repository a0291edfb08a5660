"""Builders: from edges, a DAG, a nested mapping, rows of names, folders, or nothing but class names."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from hiercnn.errors import HierarchyError, did_you_mean, shorten
from hiercnn.hierarchy._tree import Hierarchy, describe_cycle

PARENT_RULES = ("longest", "shortest")
ROOT = "root"


def from_classes(classes: Sequence[str]) -> Hierarchy:
    """A one-level tree: every class hangs from the root. What a flat classifier knows."""
    if not len(classes):
        raise HierarchyError("the hierarchy has no classes")
    return Hierarchy([_free_root(classes), *classes], [-1] + [0] * len(classes), classes)


def from_edges(
    edges: Iterable[tuple[str, str]],
    classes: Sequence[str] | None = None,
    *,
    parent_rule: str | None = None,
    titles: Mapping[str, str] | None = None,
    meta: Mapping[str, object] | None = None,
) -> Hierarchy:
    """Build a tree from (parent, child) pairs.

    Args:
        edges: Parent and child names. Several parentless nodes are joined under a new node `root`.
        classes: Leaf names in the data set's order; default: leaves in order of appearance.
        parent_rule: What to do with a node that has several parents: None refuses it; `longest` keeps the parent on the
            longest path to the root, `shortest` the one on the shortest, ties by smallest name. The rule is recorded in `meta`.
        titles: Readable names by node name.
        meta: Facts that travel with the tree.

    Raises:
        HierarchyError: No edges, an empty name, a cycle, several parents without a rule, classes that are not the leaves.
    """
    parents_of: dict[str, dict[str, None]] = {}  # the inner dict is an ordered set
    for number, (parent, child) in enumerate(edges, start=1):
        parent, child = _name(parent, "edge", number), _name(child, "edge", number)
        parents_of.setdefault(parent, {})
        parents_of.setdefault(child, {})[parent] = None
    if not parents_of:
        raise HierarchyError("no edges: the hierarchy is empty")
    chosen = _one_parent(parents_of, parent_rule)
    meta = dict(meta or {}) | ({"parent_rule": parent_rule} if parent_rule else {})
    return _from_parents(chosen, classes, titles, meta)


def from_nested(
    nested: Mapping[str, object], classes: Sequence[str] | None = None, *, meta: Mapping[str, object] | None = None
) -> Hierarchy:
    """Build a tree from a nested mapping, as YAML and JSON files hold it.

    Args:
        nested: `{"animal": {"pet": ["cat", "dog"]}, "car": None}`: a mapping or list below a name are its children; a name
            without anything below it is a class. Several top names are joined under a new node `root`.
        classes: Leaf names in the data set's order; default: in order of appearance.
        meta: Facts that travel with the tree.

    Raises:
        HierarchyError: A value that is neither mapping, list nor name; a name with two parents.
    """
    stack = [(None, name, below) for name, below in reversed(_items(nested, None))]
    parents: dict[str, str | None] = {}
    while stack:
        parent, name, below = stack.pop()
        if name in parents:
            twice = f"{_or_top(parents[name])}, {_or_top(parent)}"
            raise HierarchyError(f"'{name}' has two parents ({twice}); names must be unique in the tree")
        parents[name] = parent
        stack.extend((name, *item) for item in reversed(_items(below, name)))
    if not parents:
        raise HierarchyError("the nested mapping is empty: the hierarchy has no classes")
    return _from_parents(parents, classes, None, meta)


def from_rows(rows: Iterable[Sequence[str]], *, meta: Mapping[str, object] | None = None) -> Hierarchy:
    """Build a tree from rows of names, coarse to fine, one row a class.

    Empty cells are skipped, and a name that follows itself (a group with one class of the same name) counts once, so
    rows may be of uneven depth. Classes keep the order of the rows.

    Raises:
        HierarchyError: No rows, a row without names, a class listed twice or also used as a group, or a name with two
            parents; says which row.
    """
    return from_numbered_rows(enumerate(rows, start=1), "row", meta=meta)


def from_numbered_rows(rows: Iterable[tuple[int, Sequence[str]]], unit: str, *, meta: Mapping[str, object] | None = None) -> Hierarchy:
    """`from_rows` with the numbers that messages give the rows; `unit` is what the numbers count (`row`, `line`)."""
    parents: dict[str, str | None] = {}
    row_of: dict[str, int] = {}
    classes: dict[str, int] = {}
    for number, row in rows:
        cells = (cell.strip() if isinstance(cell, str) else _name(cell, unit, number) for cell in row if cell is not None)
        path = [name for name, _ in groupby(filter(None, cells))]
        if not path:
            raise HierarchyError(f"{unit} {number} names no class; remove it or fill it in")
        if path[-1] in classes:
            raise HierarchyError(f"class '{path[-1]}' stands in {unit}s {classes[path[-1]]} and {number}; list every class once")
        classes[path[-1]] = number
        for parent, name in zip([None, *path], path, strict=False):
            if parents.setdefault(name, parent) != parent:
                raise HierarchyError(
                    f"'{name}' has two parents ({_or_top(parents[name])} in {unit} {row_of[name]}, {_or_top(parent)} in {unit} {number});"
                    " give one of them another name"
                )
            row_of.setdefault(name, number)
    if not classes:
        raise HierarchyError("no rows: the hierarchy is empty")
    group = next((name for name in parents.values() if name in classes), None)
    if group is not None:
        raise HierarchyError(f"'{group}' is the class of {unit} {classes[group]} but a group elsewhere; give one of them another name")
    return _from_parents(parents, list(classes), None, meta)


def from_folders(root: Path | str, *, meta: Mapping[str, object] | None = None) -> Hierarchy:
    """Build the tree that nested class folders form: a folder without sub-folders is a class.

    Where `root` holds splits (`train` beside `val` or `test`, or alone), the tree is that of `train`. A class that is alone in a group
    of its own name counts once.

    Raises:
        HierarchyError: `root` is no folder or has no sub-folders, or two folders of the tree share a name.
    """
    if not os.path.isdir(root):
        raise HierarchyError(f"{root} is not a folder")
    tops = set(_folders_in(root))
    if "train" in tops and (tops == {"train"} or tops & {"val", "test"}):
        root = os.path.join(root, "train")
    parents: dict[str, str | None] = {}
    for folder, below, _ in os.walk(root, followlinks=True):  # a loop of links ends at its first repeated name
        below[:] = sorted(name for name in below if not name.startswith("."))
        above, name = os.path.split(os.path.relpath(folder, root))
        if name == os.path.basename(above) and _folders_in(os.path.dirname(folder)) == [name]:
            continue
        if name in parents:
            raise HierarchyError(f"two folders below {root} are called '{name}'; names must be unique in the tree")
        if name != os.curdir:
            parents[name] = os.path.basename(above) or None
    if not parents:
        raise HierarchyError(f"{root} has no sub-folders, so there are no classes")
    return _from_parents(parents, None, None, meta)


def _folders_in(folder: Path | str) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]


def _from_parents(
    parents: Mapping[str, str | None], classes: Sequence[str] | None, titles: Mapping[str, str] | None, meta: Mapping[str, object] | None
) -> Hierarchy:
    """Build from one parent per name; several roots are joined under a new one."""
    names = list(parents)
    roots = [name for name in names if parents[name] is None]
    if len(roots) > 1:
        top = _free_root(parents)
        parents = {top: None} | {name: parents[name] or top for name in names}
        names = list(parents)
    position = {name: i for i, name in enumerate(names)}
    above = [-1 if parents[name] is None else position[parents[name]] for name in names]
    readable = None if titles is None else [titles.get(name, name) for name in names]
    return Hierarchy(names, above, classes, titles=readable, meta=meta)


def _free_root(names: Iterable[str]) -> str:
    """A name for a new root that no node has yet."""
    taken, root = set(map(str, names)), ROOT
    while root in taken:
        root = f"({root})"
    return root


def _one_parent(parents_of: dict[str, dict[str, None]], rule: str | None) -> dict[str, str | None]:
    several = {child: parents for child, parents in parents_of.items() if len(parents) > 1}
    if several and rule is None:
        child, parents = next(iter(several.items()))
        more = f" ({len(several)} nodes have several parents)" if len(several) > 1 else ""
        raise HierarchyError(f"'{child}' has two parents ({shorten(parents)}); pick one with parent_rule= or remove an edge{more}")
    if rule is None:
        return {child: next(iter(parents), None) for child, parents in parents_of.items()}
    if rule not in PARENT_RULES:
        raise HierarchyError(f"unknown parent_rule '{rule}'; choose {' or '.join(PARENT_RULES)}{did_you_mean(rule, PARENT_RULES)}")
    depth = _dag_depths(parents_of, max if rule == "longest" else min)
    sign = -1 if rule == "longest" else 1
    chosen = {child: min(parents, key=lambda p: (sign * depth[p], p), default=None) for child, parents in parents_of.items()}
    return _without_barren(chosen, parents_of)


def _without_barren(chosen: dict[str, str | None], parents_of: dict[str, dict[str, None]]) -> dict[str, str | None]:
    """Drop inner nodes that lost all their leaves to another parent."""
    inner = {parent for parents in parents_of.values() for parent in parents}
    fertile: set[str] = set()
    for node in chosen.keys() - inner:
        while node is not None and node not in fertile:
            fertile.add(node)
            node = chosen[node]
    return {child: parent for child, parent in chosen.items() if child in fertile}


def _dag_depths(parents_of: dict[str, dict[str, None]], pick: Callable) -> dict[str, int]:
    """Depth of every node of a DAG, by its longest (pick=max) or shortest (pick=min) path to a root."""
    depth: dict[str, int] = {}
    waiting = {child: len(parents) for child, parents in parents_of.items()}
    children: dict[str, list[str]] = {}
    for child, parents in parents_of.items():
        for parent in parents:
            children.setdefault(parent, []).append(child)
    ready = [name for name, count in waiting.items() if count == 0]
    while ready:
        node = ready.pop()
        depth[node] = pick((depth[p] for p in parents_of[node]), default=-1) + 1
        for child in children.get(node, ()):
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)
    if len(depth) < len(parents_of):
        stuck = next(name for name in parents_of if name not in depth)
        cycle = describe_cycle(stuck, lambda name: next(p for p in parents_of[name] if p not in depth))
        raise HierarchyError(f"the parents form a cycle: {cycle}; remove one of these edges")
    return depth


def _items(below: object, parent: str | None) -> list[tuple[str, object]]:
    """The (name, what is below it) pairs in one value of a nested mapping."""
    if below is None:
        return []
    if isinstance(below, Mapping):
        return [(_name(key, "below", _or_top(parent)), value) for key, value in below.items()]
    items: list[tuple[str, object]] = []
    for entry in below if isinstance(below, list | tuple) else [below]:
        items.extend(_items(entry, parent) if isinstance(entry, Mapping) else [(_name(entry, "below", _or_top(parent)), None)])
    return items


def _name(value: object, *place: object) -> str:
    """`value` as a name; `place` says where it stands."""
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise HierarchyError(f"{' '.join(map(str, place))}: {value!r:.60} is no name; names are text (not empty) or whole numbers")
    return str(value)


def _or_top(parent: str | None) -> str:
    return "the top" if parent is None else f"'{parent}'"
