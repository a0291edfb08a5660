"""Clustering by rounds against scipy and against a sequential loop; dendrograms, their groups and their trees."""

import re
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.interpreted import Interpreted
from scipy.cluster.hierarchy import cophenet, fcluster, is_valid_linkage, linkage
from scipy.spatial.distance import pdist, squareform

from hiercnn.clustering import (
    ClassDistances,
    Dendrogram,
    Linkage,
    agglomerate,
    cluster,
    dendrogram_figure,
    group_titles,
    similarity_distances,
    typical_members,
    vector_distances,
)
from hiercnn.errors import DataError, HierarchyError, ShapeError

LINKAGES = get_args(Linkage)
every_linkage = pytest.mark.parametrize("method", LINKAGES)


def drawn(count: int, seed: int) -> np.ndarray:
    """Vectors of classes in groups of groups."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, max(1, count // 4), count)
    return rng.normal(size=(count, 8)) + 3 * rng.normal(size=(count, 8))[groups]


def sequential(table: np.ndarray, method: str) -> np.ndarray:
    """Rounds of mutual nearest neighbours, merged one after the other by loops: cophenetic distances [K, K]."""
    table = table.astype(np.float64) ** (2 if method == "ward" else 1)
    members = {number: [number] for number in range(len(table))}
    near = {(i, j): table[i, j] for i in members for j in members if i != j}
    height = np.zeros_like(table)
    while len(members) > 1:
        nearest = {i: min((near[i, j], j) for j in members if j != i)[1] for i in members}
        pairs = [(i, j) for i, j in nearest.items() if nearest[j] == i and i < j]
        for one, other in pairs:
            between, a, b = near[one, other], len(members[one]), len(members[other])
            for i in members[one]:
                height[i, members[other]] = height[members[other], i] = between
            for k in members:
                if k not in (one, other):
                    ak, bk, c = near[one, k], near[other, k], len(members[k])
                    near[one, k] = near[k, one] = {
                        "single": min(ak, bk),
                        "complete": max(ak, bk),
                        "average": (a * ak + b * bk) / (a + b),
                        "ward": ((a + c) * ak + (b + c) * bk - c * between) / (a + b + c),
                    }[method]
            members[one] += members.pop(other)
    return np.sqrt(height) if method == "ward" else height


@every_linkage
@given(st.integers(2, 60), st.integers(0, 9999))
@settings(max_examples=40, deadline=None)
def test_rounds_are_scipys_dendrogram(method, count, seed):
    distances = pdist(drawn(count, seed))
    found = agglomerate(torch.from_numpy(squareform(distances)), method)
    wanted = linkage(distances, method)
    assert is_valid_linkage(found, throw=True)
    np.testing.assert_allclose(found[:, 2:], wanted[:, 2:], rtol=1e-10)
    np.testing.assert_allclose(cophenet(found), cophenet(wanted), rtol=1e-10)


@pytest.mark.long
@every_linkage
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_rounds_of_triton_s_kernel_are_scipys_dendrogram(method, dtype):
    distances = pdist(drawn(150, 1))  # so many that the table is made smaller on the way
    with Interpreted():
        found = agglomerate(torch.from_numpy(squareform(distances)).to(dtype), method)
    np.testing.assert_allclose(cophenet(found), cophenet(linkage(distances, method)), rtol=1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.long
@every_linkage
@pytest.mark.parametrize("seed", range(5))
def test_ties_are_merged_by_triton_s_kernel_as_by_the_reference(method, seed):
    table = torch.from_numpy(squareform(np.random.default_rng(seed).integers(1, 4, 9 * 17).astype(float)))
    with Interpreted():
        found = agglomerate(table, method)
    np.testing.assert_array_equal(found, agglomerate(table, method))


@every_linkage
def test_classes_that_are_all_equally_far(method):
    for count in (2, 3, 7, 30):
        found = agglomerate(1.0 - torch.eye(count, dtype=torch.float64), method)
        assert is_valid_linkage(found, throw=True)
        np.testing.assert_array_equal(found, agglomerate(1.0 - torch.eye(count, dtype=torch.float64), method))


def test_overwritten_distances_give_the_same():
    table = torch.from_numpy(squareform(pdist(drawn(40, 0))))
    np.testing.assert_array_equal(agglomerate(table, "ward"), agglomerate(table.clone(), "ward", overwrite=True))
    np.testing.assert_array_equal(agglomerate(table, "ward"), agglomerate(table.T, "ward", overwrite=True))


@pytest.mark.parametrize("table", [torch.full((3, 3), torch.nan), torch.tensor([[0.0, 1, 2], [2, 0, 1], [1, 2, 0]])], ids=["nan", "circle"])
def test_what_are_no_distances(table):
    with pytest.raises(DataError, match="wanted a symmetric table of finite numbers"):
        agglomerate(table, "average")


@every_linkage
def test_rounds_of_many_classes_in_float32(method):
    distances = pdist(drawn(700, 0))
    found, wanted = agglomerate(torch.from_numpy(squareform(distances)).float(), method), linkage(distances, method)
    np.testing.assert_allclose(cophenet(found), cophenet(wanted), rtol=1e-5)


@every_linkage
@given(st.integers(2, 14), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_tied_distances_are_merged_as_by_the_loop(method, count, seed):
    table = squareform(np.random.default_rng(seed).integers(1, 4, count * (count - 1) // 2).astype(float))
    found = agglomerate(torch.from_numpy(table), method)
    assert is_valid_linkage(found, throw=True)
    assert np.array_equal(found, agglomerate(torch.from_numpy(table), method))
    np.testing.assert_allclose(squareform(cophenet(found)), np.maximum(sequential(table, method), 0), rtol=1e-10)


def test_the_distances_are_not_written_to():
    table = torch.from_numpy(squareform(pdist(drawn(9, 0))))
    before = table.clone()
    agglomerate(table, "average")
    assert torch.equal(table, before)


def test_two_classes():
    assert agglomerate(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), "average").tolist() == [[0, 1, 2, 2]]


# --- Dendrograms ----------------------------------------------------------------------------------------------------------------------


@every_linkage
def test_a_cpu_asks_scipy(method):
    vectors = drawn(20, 0)
    found = cluster(vector_distances(vectors, "euclidean"), method)
    np.testing.assert_allclose(cophenet(found.merges), cophenet(linkage(vectors, method)), rtol=1e-9)
    np.testing.assert_array_equal(found.cophenetic(), cophenet(found.merges))


@given(st.integers(2, 30), st.integers(0, 999), st.integers(1, 30))
def test_groups_are_those_of_scipy_and_nested(count, seed, groups):
    groups = min(groups, count)
    dendrogram = cluster(vector_distances(drawn(count, seed), "euclidean"))
    found, wanted = dendrogram.groups(groups), fcluster(dendrogram.merges, groups, "maxclust")
    assert sorted(set(found)) == list(range(groups))
    assert len(set(zip(found, wanted, strict=True))) == groups
    firsts = [found[leaf] for leaf in dendrogram.leaf_order()]
    assert list(dict.fromkeys(firsts)) == list(range(groups))  # from left to right
    if groups < count:
        finer = dendrogram.groups(groups + 1)
        assert len(set(zip(finer, found, strict=True))) == groups + 1


def test_groups_are_as_many_as_asked_for_also_with_ties():
    dendrogram = cluster(similarity_distances(np.zeros((6, 6))))
    assert [len(set(dendrogram.groups(count))) for count in range(1, 7)] == [1, 2, 3, 4, 5, 6]


def test_a_tree_of_the_partitions_asked_for():
    dendrogram = cluster(vector_distances(drawn(30, 1)))
    names = [f"c{number}" for number in range(30)]
    tree = dendrogram.hierarchy(names, [12, 4])
    assert tree.classes == names or list(tree.classes) == names
    assert tree.height == 3
    for depth, count in ((1, 4), (2, 12)):
        cut = tree.cut(depth=depth)
        assert len(cut) == count
        assert len(set(zip(cut.groups, dendrogram.groups(count), strict=True))) == count
    assert [names.index(tree.names[node]) for node in np.sort(tree.leaf_nodes)] == dendrogram.leaf_order().tolist()


def test_a_tree_of_all_merges():
    dendrogram = cluster(vector_distances(drawn(12, 1)))
    tree = dendrogram.hierarchy([f"c{number}" for number in range(12)])
    assert tree.num_nodes == 23
    fan_out = np.bincount(tree.parents[1:], minlength=23)
    assert set(fan_out) == {0, 2}
    order = [int(tree.names[node][1:]) for node in np.sort(tree.leaf_nodes)]
    assert order == dendrogram.leaf_order().tolist()
    for count in (2, 3, 5):
        groups = dendrogram.groups(count)
        for group in range(count):
            assert sorted(np.flatnonzero(groups == group).tolist()) in [sorted(tree.leaves(node).tolist()) for node in range(23)]


def test_groups_are_titled_by_their_most_typical_members():
    vectors = np.array([[0.0, 0], [1, 0], [1.5, 0], [10, 0], [10, 1]])
    distances, names = vector_distances(vectors, "euclidean"), ["far left", "middle", "right", "car", "bus"]
    tree = cluster(distances).hierarchy(names, [2], titles=typical_members(distances, names))
    titles = [tree.titles[node] for node in range(tree.num_nodes) if not tree.is_leaf(node)][1:]
    assert sorted(titles) == ["car, bus", "middle, right + 1"]


def test_near_classes_stand_side_by_side():
    distances = vector_distances(np.array([[0.0], [5.0], [1.0], [6.0], [2.6]]), "euclidean")
    plain, ordered = cluster(distances), cluster(distances).ordered(distances)
    np.testing.assert_allclose(ordered.cophenetic(), plain.cophenetic())
    assert ordered.leaf_order().tolist() in ([0, 2, 4, 1, 3], [3, 1, 4, 2, 0])


# --- Bad input ------------------------------------------------------------------------------------------------------------------------


def test_ward_needs_euclidean_distances():
    for distances in (
        vector_distances(drawn(5, 0), "cosine"),
        vector_distances(drawn(5, 0), "correlation"),
        similarity_distances(np.eye(5)),
    ):
        with pytest.raises(
            HierarchyError,
            match="ward linkage needs euclidean distances: of features or weights",
        ):
            cluster(distances, "ward")
    assert isinstance(cluster(vector_distances(drawn(5, 0), "unit"), "ward"), Dendrogram)


def test_unknown_linkage():
    with pytest.raises(HierarchyError, match="linkage: wanted one of average, complete, ward, single, got 'centroid'"):
        cluster(vector_distances(drawn(5, 0)), "centroid")


@pytest.mark.parametrize("groups", [0, 6, -1])
def test_impossible_groups(groups):
    dendrogram = cluster(vector_distances(drawn(5, 0)))
    with pytest.raises(HierarchyError, match=f"groups: wanted 1 to 5, the number of classes, got {groups}"):
        dendrogram.groups(groups)


@pytest.mark.parametrize("groups", [[], [1], [5], [2, 9]])
def test_impossible_trees(groups):
    dendrogram = cluster(vector_distances(drawn(5, 0)))
    with pytest.raises(HierarchyError, match="groups: wanted numbers from 2 to 4"):
        dendrogram.hierarchy(list("abcde"), groups)


def test_names_for_other_classes():
    with pytest.raises(ShapeError, match="names: wanted 5, one a class, got 2"):
        cluster(vector_distances(drawn(5, 0))).hierarchy(["a", "b"], [2])


@pytest.mark.parametrize("merges", [np.zeros((0, 4)), np.zeros((3, 3)), np.zeros(4)])
def test_other_matrices_are_no_dendrogram(merges):
    with pytest.raises(ShapeError, match=re.escape("merges: wanted scipy's linkage matrix [K - 1, 4]")):
        Dendrogram(merges)


def test_distances_know_their_size():
    assert len(ClassDistances(None, np.zeros((4, 4)), euclidean=False)) == 4


@pytest.mark.long
def test_titles_begin_with_the_common_hypernym_where_wordnet_knows_all(wordnet):
    names = ["ray", "shark", "zebra", "gizmo 7"]
    distances = vector_distances(np.array([[0.0, 1], [0.1, 1], [1.0, 0], [5.0, 5]]), "euclidean")
    title = group_titles(distances, names)
    assert title(np.array([0, 1])) == "elasmobranch: ray, shark"
    assert title(np.array([0, 1, 2])) == "vertebrate: shark, ray + 1"
    assert title(np.array([2, 3])) == "zebra, gizmo 7"
    assert title(np.array([2])) == "zebra"


def test_a_chain_of_many_classes_can_be_drawn():
    found = cluster(vector_distances(np.cumsum(np.arange(1.0, 1200))[:, None], "euclidean"), "single")
    assert len(dendrogram_figure(found, [str(n) for n in range(1199)], 3).data) > 1


@pytest.mark.parametrize("groups", [["x"], [2.5], [None], []])
def test_numbers_of_groups_are_whole(groups):
    found = cluster(vector_distances(drawn(9, 0), "euclidean"))
    with pytest.raises(HierarchyError, match="groups: wanted numbers from 2 to 8"):
        found.hierarchy([str(n) for n in range(9)], groups)


def test_what_is_no_linkage():
    with pytest.raises(ShapeError, match="every cluster merged once"):
        Dendrogram(np.zeros((3, 4)))
    with pytest.raises(ShapeError, match="distances: wanted those of 9 classes, got 4"):
        cluster(vector_distances(drawn(9, 0), "euclidean")).ordered(vector_distances(drawn(4, 0), "euclidean"))
