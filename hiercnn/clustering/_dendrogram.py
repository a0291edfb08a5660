"""Agglomerative clustering of classes, and the tree that comes of it."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from hiercnn.clustering._agglomerate import agglomerate
from hiercnn.clustering._distances import ClassDistances
from hiercnn.errors import HierarchyError, ShapeError, shorten
from hiercnn.hierarchy import Hierarchy, common_hypernyms

Linkage = Literal["average", "complete", "ward", "single"]
MOST_ORDERED = 2000  # classes whose order scipy makes optimal in seconds
NAMED = 2  # members that name a group
META = MappingProxyType({"source": "clustering"})

Title = Callable[[np.ndarray], str]  # of a group of classes


class Dendrogram:
    """Merges of K classes, nearest first.

    Attributes:
        merges: scipy's linkage matrix [K − 1, 4], float64: two clusters, height, number of classes.
    """

    def __init__(self, merges: np.ndarray):
        try:
            merges = np.asarray(merges, dtype=np.float64)
        except (TypeError, ValueError):
            raise ShapeError("merges: wanted scipy's linkage matrix [K - 1, 4], got values that are no numbers") from None
        if merges.ndim != 2 or merges.shape[1] != 4 or not len(merges):
            raise ShapeError(f"merges: wanted scipy's linkage matrix [K - 1, 4], got {list(merges.shape)}")
        from scipy.cluster.hierarchy import is_valid_linkage

        if not np.isfinite(merges).all() or not _merged_once(merges) or not is_valid_linkage(merges):
            raise ShapeError("merges: wanted scipy's linkage matrix: every cluster merged once, of as many classes as its parts have")
        self.merges = merges

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.merges) + 1

    def cophenetic(self) -> np.ndarray:
        """Height at which every two classes are together, for all pairs in scipy's order [K (K − 1) / 2]."""
        from scipy.cluster.hierarchy import cophenet

        return cophenet(self.merges)

    def leaf_order(self) -> np.ndarray:
        """Classes from left to right [K]."""
        from scipy.cluster.hierarchy import leaves_list

        return leaves_list(self.merges).astype(np.int64)

    def ordered(self, distances: ClassDistances) -> "Dendrogram":
        """The same merges, with near classes side by side where a merge can be turned; from 2,000 classes on as it is."""
        from scipy.cluster.hierarchy import optimal_leaf_ordering

        if len(distances) != self.num_classes:
            raise ShapeError(f"distances: wanted those of {self.num_classes} classes, got {len(distances)}")
        if self.num_classes > MOST_ORDERED:
            return self
        return Dendrogram(optimal_leaf_ordering(self.merges, distances.condensed()))

    def groups(self, count: int) -> np.ndarray:
        """Group of each class [K] in the partition of so many groups, numbered from left to right.

        Raises:
            HierarchyError: Fewer than one group, or more than classes.
        """
        if not isinstance(count, int | np.integer) or not 1 <= count <= self.num_classes:
            raise HierarchyError(f"groups: wanted 1 to {self.num_classes}, the number of classes, got {count}")
        owner = np.arange(self.num_classes)
        cluster = {number: np.array([number]) for number in range(self.num_classes)}
        for row, (one, other) in enumerate(self.merges[: self.num_classes - count, :2].astype(int)):
            cluster[self.num_classes + row] = np.concatenate([cluster.pop(one), cluster.pop(other)])
        for number, members in enumerate(cluster.values()):
            owner[members] = number
        _, first = np.unique(owner[self.leaf_order()], return_index=True)
        place = np.empty(len(cluster), dtype=np.int64)
        place[np.argsort(first)] = np.arange(len(cluster))
        return place[owner]

    def hierarchy(
        self, names: Sequence[str], groups: Sequence[int] | None = None, *, titles: Title | None = None, meta: Mapping[str, object] = META
    ) -> Hierarchy:
        """The tree of the classes: root, the partitions asked for, classes; or every merge a node.

        Args:
            names: Of the classes [K], in their order.
            groups: Numbers of groups, such as [8, 20]; None keeps every merge.
            titles: Title of a group of classes (indices); its node's name otherwise.
            meta: Facts that travel with the tree.

        Raises:
            HierarchyError: Numbers of groups that do not exist; ShapeError: not a name for every class.
        """
        if len(names) != self.num_classes:
            raise ShapeError(f"names: wanted {self.num_classes}, one a class, got {len(names)}")
        names = [str(name) for name in names]
        if groups is None:
            return self._of_merges(names, titles, meta)
        if not len(groups) or not all(isinstance(count, int | np.integer) and 2 <= count < self.num_classes for count in groups):
            raise HierarchyError(f"groups: wanted numbers from 2 to {self.num_classes - 1}, got {shorten(groups)}")
        return self._of_partitions(names, sorted({int(count) for count in groups}), titles, meta)

    def _of_partitions(self, names: list[str], counts: list[int], titles: Title | None, meta: Mapping[str, object]) -> Hierarchy:
        nodes, parents, labels = ["root"], [-1], ["root"]
        above = np.zeros(self.num_classes, dtype=np.int64)  # node of each class, so far
        for count in counts:
            groups = self.groups(count)
            for group in range(count):
                members = np.flatnonzero(groups == group)
                name = f"cluster {group + 1} of {count}"
                parents.append(int(above[members[0]]))
                above[members] = len(nodes)
                nodes, labels = [*nodes, name], [*labels, name if titles is None else titles(members)]
        leaves = self.leaf_order()
        listed = [names[leaf] for leaf in leaves]
        return Hierarchy([*nodes, *listed], [*parents, *above[leaves].tolist()], names, titles=[*labels, *listed], meta=meta)

    def _of_merges(self, names: list[str], titles: Title | None, meta: Mapping[str, object]) -> Hierarchy:
        count, members = self.num_classes, {number: np.array([number]) for number in range(self.num_classes)}
        parents, labels = [-1] * (2 * count - 1), list(names)
        for row, pair in enumerate(self.merges[:, :2].astype(int).tolist()):
            parents[pair[0]] = parents[pair[1]] = count + row
            members[count + row] = np.concatenate([members.pop(one) for one in pair])
            labels.append(f"merge {row + 1}" if titles is None else titles(members[count + row]))
        rank = np.argsort(self.leaf_order())
        first = [rank[number] for number in range(count)]
        for one, other in self.merges[:, :2].astype(int).tolist():
            first.append(min(first[one], first[other]))
        order = sorted(range(2 * count - 1), key=lambda node: (first[node], -node))  # parents, then what is left of them
        place = np.argsort(order)
        nodes = [*names, *(f"merge {row + 1}" for row in range(count - 1))]
        above = [-1 if parents[node] < 0 else int(place[parents[node]]) for node in order]
        return Hierarchy([nodes[node] for node in order], above, names, titles=[labels[node] for node in order], meta=meta)


def _merged_once(merges: np.ndarray) -> bool:
    """Whether every merge is of two clusters that are there, and counts their classes; scipy trusts the counts."""
    count = len(merges) + 1
    sizes = dict.fromkeys(range(count), 1)
    for row, (one, other, _, size) in enumerate(merges.tolist()):
        sizes[count + row] = sizes.pop(one, 0) + sizes.pop(other, 0)
        if len(sizes) != count - row - 1 or sizes[count + row] != size:
            return False
    return True


def cluster(distances: ClassDistances, linkage: Linkage = "average") -> Dendrogram:
    """Merge the nearest classes, again and again.

    Distances on a GPU are clustered there; others by scipy.

    Raises:
        HierarchyError: An unknown linkage; ward of distances that are not euclidean.
    """
    if linkage not in get_args(Linkage):
        raise HierarchyError(f"linkage: wanted one of {', '.join(get_args(Linkage))}, got {linkage!r}")
    if linkage == "ward" and not distances.euclidean:
        raise HierarchyError("ward linkage needs euclidean distances: of features or weights, by metric euclidean or unit; or use average")
    if distances.on_gpu:
        return Dendrogram(agglomerate(distances.square(), linkage, overwrite=True))
    from scipy.cluster.hierarchy import linkage as scipy_linkage

    return Dendrogram(scipy_linkage(distances.condensed(), linkage))


def typical_members(distances: ClassDistances, names: Sequence[str]) -> Title:
    """Titles of groups: the members that are nearest to all others of theirs, and how many more there are."""

    def title(members: np.ndarray) -> str:
        nearest = members[np.argsort(distances.among(members).sum(1), kind="stable")]
        listed, more = [str(names[member]) for member in nearest[:NAMED]], len(members) - NAMED
        return ", ".join(listed) + (f" + {more}" if more > 0 else "")

    return title


def group_titles(distances: ClassDistances, names: Sequence[str]) -> Title:
    """Titles of groups: the lowest common hypernym, where WordNet is installed and knows all members, and the typical members."""
    members_of, hypernym_of = typical_members(distances, names), common_hypernyms(names)

    def title(members: np.ndarray) -> str:
        listed = members_of(members)
        hypernym = hypernym_of(members) if hypernym_of is not None and len(members) > 1 else None
        return listed if hypernym is None else f"{hypernym}: {listed}"

    return title
