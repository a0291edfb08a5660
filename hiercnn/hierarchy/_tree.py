"""The immutable class tree. Everything is a numpy array; nothing of size [C, C] or [C, N] is stored."""

import hashlib
import heapq
import json
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from hiercnn.errors import HierarchyError, did_you_mean, shorten
from hiercnn.hierarchy._cut import Cut, check_nested

DISTANCES = ("lca", "path", "wup", "information")


class Hierarchy:
    """A rooted tree whose leaves are the classes.

    Nodes are numbered 0..N-1 in depth-first order, so node 0 is the root, a parent comes before its children and the
    leaves below a node are one contiguous range of *ranks*. Classes keep the order the data set gives them:
    `leaf_order` maps rank to class, `leaf_rank` maps class to rank.

    A *label* is what a sample carries: classes are 0..C-1, inner nodes follow as C..N-1 (see `label` and `label_nodes`).

    Args:
        names: Name of every node [N], unique, in any order.
        parents: Position in `names` of each node's parent [N]; -1 for the root.
        classes: Leaf names in the data set's order [C]; default: in the order of `names`.
        titles: Readable name of every node [N] where `names` are identifiers; default: `names`.
        meta: Facts that travel with the tree (source, licence notice, parent rule).

    Raises:
        HierarchyError: Empty or repeated names, no root or several, a cycle, classes that are not exactly the leaves.

    Attributes:
        names, titles: Tuples [N], in depth-first order.
        parents, depths, heights: int64 [N]; root has parent -1, depth 0; height is the most edges down to a leaf.
        starts, stops: int64 [N]; node v holds the leaf ranks starts[v] .. stops[v]-1.
        leaf_nodes: Node of each class [C]. leaf_order: class at each rank [C]. leaf_rank: rank of each class [C].
    """

    def __init__(
        self,
        names: Sequence[str],
        parents: Sequence[int],
        classes: Sequence[str] | None = None,
        *,
        titles: Sequence[str] | None = None,
        meta: Mapping[str, object] | None = None,
    ):
        names = _checked_names(names, parents, titles)
        parents = _checked_parents(names, parents)
        order, depths = _depth_first(names, parents)
        position = np.empty(len(names), dtype=np.int64)
        position[order] = np.arange(len(names))
        given = parents[order]
        self.names = tuple(names[i] for i in order)
        self.titles = self.names if titles is None else tuple(str(titles[i]) for i in order)
        self._meta = dict(meta or {})
        self.parents = _frozen(np.where(given < 0, -1, position[given]))
        self.depths = _frozen(depths)
        self._index = {name: node for node, name in enumerate(self.names)}
        self.starts, self.stops, self.heights, leaves = _leaf_ranges(self.parents)
        if classes is None:
            classes = [names[i] for i in sorted(order[leaves])]
        self.leaf_nodes = _frozen(self._class_nodes([str(name) for name in classes], leaves))
        self.leaf_rank = _frozen(self.starts[self.leaf_nodes])
        self.leaf_order = _frozen(np.argsort(self.leaf_rank))

    def __setattr__(self, name: str, value: object) -> None:
        if "leaf_order" in self.__dict__:  # the last to be set
            raise AttributeError("a Hierarchy cannot be changed; build another one")
        super().__setattr__(name, value)

    # ---- names and sizes -------------------------------------------------------------------------------------------

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names in the data set's order [C]."""
        return tuple(self.names[node] for node in self.leaf_nodes)

    @property
    def meta(self) -> dict[str, object]:
        """Facts that travel with the tree (a copy)."""
        return dict(self._meta)

    @property
    def num_classes(self) -> int:
        """Number of leaves C."""
        return len(self.leaf_nodes)

    @property
    def num_nodes(self) -> int:
        """Number of nodes N, the root included."""
        return len(self.names)

    @property
    def height(self) -> int:
        """Most edges between the root and a leaf."""
        return int(self.heights[0])

    def node(self, name: str) -> int:
        """Number of the node called `name`; raises HierarchyError with a suggestion if there is none."""
        if name not in self._index:
            raise HierarchyError(f"no node is called '{name}'{did_you_mean(name, self.names)}")
        return self._index[name]

    def __contains__(self, name: str) -> bool:
        return name in self._index

    @cached_property
    def digest(self) -> str:
        """Short fingerprint of names, parents and class order; equal trees have equal digests."""
        text = json.dumps([self.names, self.parents.tolist(), self.leaf_nodes.tolist()], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hierarchy):
            return NotImplemented
        return (
            self.names == other.names and np.array_equal(self.parents, other.parents) and np.array_equal(self.leaf_nodes, other.leaf_nodes)
        )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Hierarchy({self.num_classes} classes, {self.num_nodes} nodes, height {self.height})"

    def __rich__(self):
        from hiercnn.hierarchy._draw import draw

        return draw(self)

    # ---- labels ----------------------------------------------------------------------------------------------------

    @cached_property
    def label_nodes(self) -> np.ndarray:
        """Node of each label [N]: the classes in the data set's order, then the inner nodes in depth-first order."""
        inner = np.setdiff1d(np.arange(self.num_nodes), self.leaf_nodes)
        return _frozen(np.concatenate([self.leaf_nodes, inner]))

    @cached_property
    def _node_labels(self) -> np.ndarray:
        labels = np.empty(self.num_nodes, dtype=np.int64)
        labels[self.label_nodes] = np.arange(self.num_nodes)
        return labels

    def label(self, name: str) -> int:
        """Label of the class or inner node called `name`: below `num_classes` exactly if it is a class."""
        return int(self._node_labels[self.node(name)])

    # ---- walking the tree ------------------------------------------------------------------------------------------

    def is_leaf(self, node: int) -> bool:
        return bool(self.heights[self._checked_node(node)] == 0)

    def children(self, node: int) -> np.ndarray:
        """Children of a node, in depth-first order, int64."""
        node = self._checked_node(node)
        first, last = np.searchsorted(self._by_parent[0], [node, node + 1])
        return self._by_parent[1][first:last]

    @cached_property
    def _by_parent(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.parents, kind="stable")
        return self.parents[order], _frozen(order)

    def ancestors(self, node: int) -> np.ndarray:
        """The path from the root down to `node`, both included, int64."""
        path = [self._checked_node(node)]
        while self.parents[path[-1]] >= 0:
            path.append(int(self.parents[path[-1]]))
        return np.array(path[::-1], dtype=np.int64)

    def leaves(self, node: int) -> np.ndarray:
        """Classes below a node (or the class itself), in depth-first order, int64."""
        node = self._checked_node(node)
        return self.leaf_order[self.starts[node] : self.stops[node]]

    def lca(self, a: np.ndarray | int, b: np.ndarray | int) -> np.ndarray:
        """Lowest common ancestor of nodes, element by element with broadcasting, int64."""
        a, b = (np.array(x) for x in np.broadcast_arrays(*(_indices(x, self.num_nodes, "node") for x in (a, b))))
        while (differs := a != b).any():
            higher = np.maximum(a, b)  # depth-first numbers: the larger of two is no ancestor of the smaller
            a, b = np.where(differs, self.parents[higher], a), np.minimum(a, b)
        return a

    def distances(self, a: np.ndarray | int, b: np.ndarray | int, kind: str = "lca") -> np.ndarray:
        """Distances between classes, element by element with broadcasting, float64.

        Ask for a block with `distances(rows[:, None], columns)`; no [C, C] table is made unless you ask for all of it.

        Args:
            a, b: Class indices (data set order), broadcast against each other.
            kind: `lca` height of the lowest common ancestor ÷ height of the tree (Bertinetto et al., CVPR 2020);
                `path` edges between them; `wup` 1 − 2·depth(lca)/(depth(a)+depth(b)) (Wu & Palmer, 1994);
                `information` log2 of the leaves below the lca ÷ log2 C.

        Raises:
            HierarchyError: Unknown `kind`, or a class index out of range.
        """
        if kind not in DISTANCES:
            raise HierarchyError(f"unknown distance '{kind}'; choose one of {', '.join(DISTANCES)}{did_you_mean(kind, DISTANCES)}")
        a, b = (self.leaf_nodes[_indices(x, self.num_classes, "class")] for x in (a, b))
        lca = self.lca(a, b)
        if kind == "lca":
            return self.heights[lca] / max(self.height, 1)
        if kind == "path":
            return (self.depths[a] + self.depths[b] - 2 * self.depths[lca]).astype(np.float64)
        if kind == "wup":
            return np.where(a == b, 0.0, 1 - 2 * self.depths[lca] / np.maximum(self.depths[a] + self.depths[b], 1))
        return np.log2(self.stops[lca] - self.starts[lca]) / np.log2(max(self.num_classes, 2))

    # ---- cuts ------------------------------------------------------------------------------------------------------

    def cut(self, *, depth: int | None = None, groups: int | None = None) -> Cut:
        """Cut the tree at a depth, or into a number of groups.

        Args:
            depth: Nodes at this depth; classes that hang higher stay groups of their own. 0 is the root; the height of the
                tree, or more, is the leaf cut.
            groups: Start at the root and expand the node with most leaves (ties: depth-first) until there are this many
                groups; stops before the step that would pass the number, so cuts by groups are always nested.

        Raises:
            HierarchyError: Neither or both given, no whole number, out of range, or the root alone has more children
                than `groups`.
        """
        if (depth is None) == (groups is None):
            raise HierarchyError("give cut() either depth= or groups=")
        if groups is None:
            return self.cut_at(self._nodes_at_depth(_whole(depth, "depth=")))
        return self.cut_at(self._nodes_by_groups(_whole(groups, "groups=")))

    def leaf_cut(self) -> Cut:
        """The finest cut: every class its own group, in the data set's order."""
        labels = np.full(self.num_nodes, -1, dtype=np.int64)
        labels[: self.num_classes] = np.arange(self.num_classes)
        return Cut("leaf", self.classes, _frozen(labels[: self.num_classes]), _frozen(labels), self.leaf_nodes)

    def cuts(self, wanted: Iterable[int | str | Mapping[str, int]]) -> list[Cut]:
        """Several nested cuts, coarse first: numbers of groups, `{"depth": d}`, `{"groups": k}` or `"leaf"`.

        Raises:
            HierarchyError: A cut that does not exist, or one that does not refine the one before it.
        """
        return check_nested([self._cut_from(item) for item in wanted])

    def random_like(self, cut: Cut, seed: int) -> Cut:
        """A random partition of the classes with the group sizes of `cut` (the control of every claim).

        One seed draws one permutation of the classes, so partitions made from nested cuts are nested too. Labels that
        are inner nodes belong to no random group.

        Raises:
            HierarchyError: `cut` is of another number of classes.
        """
        shuffled = np.random.default_rng(seed).permutation(len(cut.groups))
        return self.partition(cut.groups[shuffled], [f"random {k}" for k in range(len(cut))], name=f"random {cut.name}")

    def partition(self, groups: Sequence[int] | np.ndarray, names: Sequence[str], *, name: str) -> Cut:
        """A cut whose groups are no nodes of the tree: the group of each class [C], and the names of the groups [K].

        Raises:
            HierarchyError: Not one group a class, or a group without a name.
        """
        groups = _indices(groups, len(names), "group")
        if groups.shape != (self.num_classes,):
            raise HierarchyError(f"cut '{name}' gives groups to {groups.size} classes; the hierarchy has {self.num_classes}")
        labels = np.full(self.num_nodes, -1, dtype=np.int64)
        labels[: self.num_classes] = groups
        return Cut(name, tuple(names), _frozen(groups), _frozen(labels))

    def _cut_from(self, item: int | str | Mapping[str, int]) -> Cut:
        if isinstance(item, Mapping) and item.keys() <= {"depth", "groups"}:
            return self.cut(**item)
        if isinstance(item, str) and item == "leaf":
            return self.leaf_cut()
        if isinstance(item, int | np.integer) and not isinstance(item, bool):
            return self.cut(groups=item)
        raise HierarchyError(f"cannot cut by {item!r}; use a number of groups, {{depth: d}}, {{groups: k}} or 'leaf'")

    def _nodes_at_depth(self, depth: int) -> np.ndarray:
        if depth < 0:
            raise HierarchyError(f"depth={depth}: depths start at 0, the root")
        return np.flatnonzero((self.depths == depth) | ((self.heights == 0) & (self.depths < depth)))

    def _nodes_by_groups(self, groups: int) -> np.ndarray:
        if not 1 <= groups <= self.num_classes:
            raise HierarchyError(f"groups={groups}: the tree has {self.num_classes} classes, so ask for 1 to {self.num_classes} groups")
        sizes, done = self.stops - self.starts, []
        heap, count = [(-int(sizes[0]), 0)], 1
        while heap and count < groups:
            children = self.children(heap[0][1])
            if count + len(children) - 1 > groups:
                break
            heapq.heappop(heap)
            count += len(children) - 1
            for child in children.tolist():
                if self.heights[child] == 0:
                    done.append(child)
                else:
                    heapq.heappush(heap, (-int(sizes[child]), child))
        if count == 1 < groups:
            least = len(self.children(heap[0][1]))
            raise HierarchyError(f"groups={groups}: the first split already makes {least} groups; ask for 1 or for at least {least}")
        return np.sort(np.array(done + [node for _, node in heap], dtype=np.int64))

    def cut_at(self, nodes: Sequence[int] | np.ndarray) -> Cut:
        """Cut at these nodes, which must cover every class exactly once (an antichain); raises HierarchyError otherwise."""
        nodes = np.sort(_indices(nodes, self.num_nodes, "node"), axis=None)
        if not np.array_equal(np.append(self.starts[nodes], self.num_classes), np.append(0, self.stops[nodes])):
            listed = shorten(self.names[node] for node in nodes) or "no nodes"
            raise HierarchyError(f"{listed} do not cover every class exactly once, so they are no cut")
        if len(nodes) == self.num_classes and (self.heights[nodes] == 0).all():
            return self.leaf_cut()
        group_at_rank = np.repeat(np.arange(len(nodes)), self.stops[nodes] - self.starts[nodes])
        of_node = group_at_rank[self.starts]
        coarser = nodes[of_node] > np.arange(self.num_nodes)  # the cut lies below this node
        labels = np.where(coarser, -1, of_node)[self.label_nodes]
        names = tuple(self.names[node] for node in nodes)
        return Cut(f"{len(nodes)} groups", names, _frozen(labels[: self.num_classes]), _frozen(labels), _frozen(nodes))

    # ---- other trees from this one ---------------------------------------------------------------------------------

    def with_classes(self, classes: Sequence[str]) -> "Hierarchy":
        """The same tree with its classes numbered in this order. Raises HierarchyError listing every mismatch."""
        return Hierarchy(self.names, self.parents, classes, titles=self.titles, meta=self.meta)

    def prune(self, classes: Sequence[str]) -> "Hierarchy":
        """The tree of these classes alone, numbered in this order; nodes left without leaves go."""
        known = set(self.classes)
        unknown = [name for name in map(str, classes) if name not in known]
        if unknown:
            raise HierarchyError(f"cannot prune to {shorten(unknown)}: not classes of this hierarchy{did_you_mean(unknown[0], known)}")
        if not len(classes):
            raise HierarchyError("cannot prune to no classes: a hierarchy has at least one")
        kept_ranks = np.zeros(self.num_classes + 1, dtype=np.int64)
        kept_ranks[[self.starts[self._index[str(name)]] + 1 for name in classes]] = 1
        before = np.cumsum(kept_ranks)  # kept leaves before each rank [C + 1]
        return self._keep(before[self.stops] > before[self.starts], classes)

    def collapse(self) -> "Hierarchy":
        """The tree without inner nodes that have a single child; the more specific name stays."""
        fanout = np.bincount(self.parents[1:], minlength=self.num_nodes)
        return self._keep(fanout != 1, self.classes)

    def _checked_node(self, node: int) -> int:
        return int(_indices(_whole(node, "node"), self.num_nodes, "node"))

    def above(self, cut: Cut) -> "Hierarchy":
        """The tree that ends at a cut: its groups are the classes, in their order. Raises HierarchyError if they are no nodes of it."""
        if cut.nodes is None or len(cut.groups) != self.num_classes:
            raise HierarchyError(f"the groups of '{cut.name}' are no nodes of this tree, so no tree ends at them")
        depths = self.depths[cut.nodes][cut.groups[self.leaf_order]]  # of the group of each leaf rank
        return self._keep(self.depths <= depths[self.starts], cut.names)

    def _keep(self, keep: np.ndarray, classes: Sequence[str]) -> "Hierarchy":
        lifted = np.empty(self.num_nodes, dtype=np.int64)  # nearest kept node at or above, -1 above the new root
        for node, parent in enumerate(self.parents.tolist()):
            lifted[node] = node if keep[node] else (lifted[parent] if parent >= 0 else -1)
        kept = np.flatnonzero(keep)
        position = np.cumsum(keep) - 1
        above = np.where(self.parents[kept] < 0, -1, lifted[self.parents[kept]])
        parents = np.where(above < 0, -1, position[above])
        names, titles = ([column[node] for node in kept] for column in (self.names, self.titles))
        return Hierarchy(names, parents, classes, titles=titles, meta=self.meta)

    def _class_nodes(self, classes: list[str], leaves: np.ndarray) -> np.ndarray:
        leaf_names = {self.names[node] for node in leaves}
        unknown = [name for name in classes if name not in leaf_names]
        unused = sorted(leaf_names.difference(classes))
        twice = sorted(name for name, count in Counter(classes).items() if count > 1)
        problems = [
            f"classes that are not leaves of the tree: {shorten(unknown)}{did_you_mean(unknown[0], leaf_names)}" if unknown else "",
            f"leaves of the tree that are no class: {shorten(unused)} (prune them away, or add the classes)" if unused else "",
            f"classes listed twice: {shorten(twice)}" if twice else "",
        ]
        if any(problems):
            raise HierarchyError("classes and tree do not match: " + "; ".join(filter(None, problems)))
        return np.array([self._index[name] for name in classes], dtype=np.int64)


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.array(array, dtype=np.int64)
    array.flags.writeable = False
    return array


def _whole(value: object, what: str) -> int:
    """`value` as an int; a bool, a float or text is refused."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise HierarchyError(f"{what} must be a whole number; got {value!r}")


def _indices(values: object, limit: int, what: str) -> np.ndarray:
    """`values` as int64, refused unless they are whole numbers in 0 .. limit-1."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise HierarchyError(f"{what} numbers must be whole numbers; got {values!r:.60}")
    outside = array[(array < 0) | (array >= limit)]
    if outside.size:
        raise HierarchyError(f"there is no {what} number {outside[0]}; they go from 0 to {limit - 1}")
    return array.astype(np.int64)


def _checked_names(names: Sequence[str], parents: Sequence[int], titles: Sequence[str] | None) -> list[str]:
    names = [str(name) for name in names]
    if not names:
        raise HierarchyError("the hierarchy has no nodes")
    for what, column in {"parents": parents, "titles": titles}.items():
        if column is not None and len(column) != len(names):
            raise HierarchyError(f"{len(names)} names need as many {what}; got {len(column)}")
    if not all(name.strip() for name in names):
        raise HierarchyError("a node has an empty name; name every class and group")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise HierarchyError(f"names must be unique in the tree; used twice: {shorten(twice)}")
    try:
        "".join([*names, *map(str, titles or ())]).encode()
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 10) : error.end + 10]
        raise HierarchyError(f"a name cannot be written as UTF-8, near {around!a}; rename that class or folder") from None
    return names


def _checked_parents(names: list[str], parents: Sequence[int]) -> np.ndarray:
    array = np.asarray(parents)
    if array.dtype.kind not in "iu":
        raise HierarchyError("parents must be positions in the list of names, -1 for the root")
    outside = np.flatnonzero((array < -1) | (array >= len(names)))
    if outside.size:
        raise HierarchyError(f"parents point outside the list of names, for {shorten(names[i] for i in outside)}")
    return array.astype(np.int64)


def _depth_first(names: list[str], parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positions in depth-first order [N] and their depths [N]; children keep the given order."""
    children: list[list[int]] = [[] for _ in names]
    roots = []
    for node, parent in enumerate(parents.tolist()):
        (roots if parent < 0 else children[parent]).append(node)
    if len(roots) > 1:
        raise HierarchyError(f"a tree has one root; these have no parent: {shorten(names[r] for r in roots)}")
    order, depths, stack = [], [], [(root, 0) for root in roots]
    while stack:
        node, depth = stack.pop()
        order.append(node)
        depths.append(depth)
        stack.extend((child, depth + 1) for child in reversed(children[node]))
    if len(order) < len(names):
        parent_of = {name: names[parent] for name, parent in zip(names, parents, strict=True)}
        cycle = describe_cycle(names[min(set(range(len(names))).difference(order))], parent_of.__getitem__)
        raise HierarchyError(f"the parents form a cycle: {cycle}; remove one of these edges")
    return np.array(order, dtype=np.int64), np.array(depths, dtype=np.int64)


def describe_cycle(name: str, parent_of: Callable[[str], str]) -> str:
    """Return `'a' → 'b' → 'a'`: the cycle that one comes to by going up from `name`."""
    path: dict[str, int] = {}
    while name not in path:
        path[name] = len(path)
        name = parent_of(name)
    cycle = [*list(path)[path[name] :], name]
    return " → ".join(f"'{node}'" for node in cycle[:8]) + (" → …" if len(cycle) > 8 else "")


def _leaf_ranges(parents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return starts [N], stops [N], heights [N] and the leaf nodes in depth-first order."""
    n = len(parents)
    has_child = np.zeros(n, dtype=bool)
    has_child[parents[1:]] = True
    leaves = np.flatnonzero(~has_child)
    starts = np.searchsorted(leaves, np.arange(n))
    sizes, heights, above = (~has_child).astype(int).tolist(), [0] * n, parents.tolist()
    for node in range(n - 1, 0, -1):  # children come after their parent
        parent = above[node]
        sizes[parent] += sizes[node]
        heights[parent] = max(heights[parent], heights[node] + 1)
    return _frozen(starts), _frozen(starts + np.array(sizes)), _frozen(np.array(heights)), leaves
