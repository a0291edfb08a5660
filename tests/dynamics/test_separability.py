"""Block strength, relevance of channels and probes against loops and scikit-learn; paths of class means."""

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.metrics import roc_auc_score

from hiercnn.dynamics import aligned_path, block_strength, chance_corrected, channel_relevance, class_similarity, probe_accuracy
from hiercnn.errors import DataError, ShapeError

GROUPS = np.repeat(np.arange(3), 4)


def responses(strength: float, seed: int = 0, channels: int = 30) -> np.ndarray:
    """Of 12 classes whose groups of 4 share offsets."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(12, channels)) + strength * rng.normal(size=(3, channels))[GROUPS]


def test_block_strength_is_the_loop():
    values = responses(0.7)
    z = (values - values.mean(0)) / values.std(0)
    inside, between = [], []
    for a in range(12):
        for b in range(a):
            (inside if GROUPS[a] == GROUPS[b] else between).append(np.corrcoef(z[a], z[b])[0, 1])
    found = block_strength(class_similarity(values), GROUPS)
    assert found == pytest.approx(np.mean(inside) - np.mean(between))


def test_blocks_show_only_where_there_are_some():
    strengths = [np.mean([block_strength(class_similarity(responses(s, seed)), GROUPS) for seed in range(30)]) for s in (0, 1, 3)]
    assert abs(strengths[0]) < 0.02
    assert strengths[0] < 0.3 < strengths[1] < strengths[2]


def test_channels_that_are_the_same_for_all_classes_do_not_count():
    values = responses(1)
    with_constant = np.column_stack([values, np.ones(12)])
    np.testing.assert_allclose(class_similarity(with_constant), class_similarity(values))


def test_relevance_is_the_area_under_the_curve():
    values = np.round(responses(1), 1)  # with ties
    for group in range(3):
        members = group == GROUPS
        wanted = [roc_auc_score(members, values[:, j]) for j in range(values.shape[1])]
        np.testing.assert_allclose(channel_relevance(values, members), wanted)


@pytest.mark.parametrize("groups", [np.zeros(12, dtype=int), np.arange(12)], ids=["one group", "no pairs"])
def test_partitions_without_blocks(groups):
    with pytest.raises(DataError, match="needs two groups or more, and one with two classes"):
        block_strength(np.eye(12), groups)


def test_what_has_no_similarity_or_relevance():
    with pytest.raises(DataError, match="two channels or more that differ between classes, got 1"):
        class_similarity(np.column_stack([np.ones((4, 3)), np.arange(4)]))
    with pytest.raises(DataError, match="a group of no class, or of all"):
        channel_relevance(responses(1), np.ones(12))


def blobs(distance: float, seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    labels = np.random.default_rng(seed).integers(0, 4, count)
    centres = distance * np.random.default_rng(99).normal(size=(4, 10))
    return (np.random.default_rng(seed + 1).normal(size=(count, 10)) + centres[labels]) * np.logspace(0, 3, 10), labels


def test_probes_see_what_is_there_and_nothing_else():
    assert probe_accuracy(blobs(3, 0), blobs(3, 10)) > 0.98
    assert 0.3 < probe_accuracy(blobs(0.5, 0), blobs(0.5, 10)) < 0.8
    noise = [probe_accuracy(blobs(0, seed), blobs(0, seed + 10)) for seed in range(3)]
    assert abs(np.mean(noise)) < 0.1


def test_the_penalty_is_chosen_on_held_out_images():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 120)
    few = (np.column_stack([labels + 0.5 * rng.normal(size=120), rng.normal(size=(120, 300))]), labels)  # one channel of 301 tells
    labels = rng.integers(0, 2, 500)
    many = (np.column_stack([labels + 0.5 * rng.normal(size=500), rng.normal(size=(500, 300))]), labels)
    assert probe_accuracy(few, many) >= probe_accuracy(few, many, penalties=[1e-6])


def test_a_probe_of_one_group():
    with pytest.raises(DataError, match="a probe needs images of two groups at least"):
        probe_accuracy((np.ones((4, 2)), np.zeros(4, dtype=int)), blobs(1, 0))
    with pytest.raises(ShapeError, match=r"train: wanted features \[n, F\] and labels \[n\], got \[4, 2\] and \[3\]"):
        probe_accuracy((np.ones((4, 2)), np.zeros(3, dtype=int)), blobs(1, 0))


def test_chance_is_the_most_frequent_label():
    assert chance_corrected(0.75, np.array([0, 0, 0, 1])) == 0
    assert chance_corrected(1.0, np.array([0, 0, 0, 1])) == 1
    assert np.isnan(chance_corrected(1.0, np.zeros(3, dtype=int)))


def test_a_turned_and_grown_space_does_not_move_the_path():
    means = responses(2, channels=8)
    turned = [means, 3 * means @ ortho_group.rvs(8, random_state=1), means @ ortho_group.rvs(8, random_state=2) + 5]
    path = aligned_path(turned)
    assert path.shape == (3, 12, 2)
    np.testing.assert_allclose(path[0], path[2], atol=1e-9)
    np.testing.assert_allclose(path[1], path[2], atol=1e-9)
    assert (path[2] ** 2).sum(1).mean() == pytest.approx(1)


def test_the_path_keeps_the_plane_s_distances():
    moments = [responses(s, channels=6) for s in (0.5, 1, 2)]
    for moment, plane in zip(moments, aligned_path(moments), strict=True):
        left, values, _ = np.linalg.svd(moment - moment.mean(0))
        flat = (left[:, :6] * values)[:, :2]
        wanted = np.linalg.norm(flat[:, None] - flat, axis=2)
        found = np.linalg.norm(plane[:, None] - plane, axis=2)
        np.testing.assert_allclose(found / found.max(), wanted / wanted.max(), atol=1e-9)


def test_means_that_are_all_the_same_stay_at_the_origin():
    assert not aligned_path([np.ones((4, 3)), responses(1)[:4, :3]])[0].any()


def test_moments_of_other_classes():
    with pytest.raises(ShapeError, match="of one K at every moment"):
        aligned_path([np.ones((4, 3)), np.ones((5, 3))])
