"""Images of two objects, and images in two splits."""

from dataclasses import replace

import numpy as np
import pytest
from evidence import TREE, judged

from hiercnn.diagnose import Evidence, OtherSplit, multi_object, near_duplicates


def test_an_image_of_two_objects():
    torn, sure, near, unsure = {"cat": 0.4, "car": 0.5}, {"cat": 0.05, "car": 0.6}, {"cat": 0.4, "wolf": 0.5}, {"cat": 0.3, "car": 0.35}
    (found,) = multi_object(judged(TREE, *(("cat", row) for row in (sure, near, torn, unsure))))
    assert (found.image, found.classes, found.score) == (2, ("cat", "car"), pytest.approx(0.4))
    assert found.sentence == "labelled cat (40.0%, animal), and looks like car as well (50.0%, thing)"


def test_a_label_behind_the_top_classes_is_none():
    row = {"car": 0.7, "bus": 0.09, "saw": 0.07, "axe": 0.06, "dog": 0.05, "cat": 0.02}
    evidence = judged(TREE, ("cat", row))
    assert multi_object(evidence) == []
    assert len(multi_object(evidence, top=6)) == 1
    assert multi_object(evidence, top=6, together=0.75) == []


def splits(seed: int = 0, rows: int = 60, features: int = 16) -> tuple[Evidence, np.ndarray]:
    """Images of 9 classes in two splits, apart by class, the last four of the second copies of the first."""
    rng = np.random.default_rng(seed)
    centres, labels = 3 * rng.normal(size=(9, features)), np.arange(rows) % 9
    train, test = (centres[labels] + rng.normal(size=(rows, features)) for _ in range(2))
    test[-4:] = train[:4] + 0.01 * rng.normal(size=(4, features))
    others = OtherSplit("train", train + 5, labels, [f"train/{i}" for i in range(rows)])
    probabilities = np.full((rows, 9), 1 / 9)
    return Evidence(TREE, labels, probabilities, [f"test/{i}" for i in range(rows)], test + 5, others), labels


def test_copies_are_found_whatever_their_labels():
    evidence, labels = splits()
    found = near_duplicates(evidence, quantile=0.9)
    assert {(each.image, each.other) for each in found[:4]} == {(56, 0), (57, 1), (58, 2), (59, 3)}
    first = found[0]
    assert first.classes == tuple(TREE.classes[label] for label in (labels[first.image], labels[first.other]))
    assert first.classes[0] != first.classes[1]
    assert f"test/{first.image}" in first.sentence
    assert f"train/{first.other} of train" in first.sentence


def test_scores_and_threshold_by_loops():
    evidence, labels = splits()
    mean = np.concatenate([evidence.features, evidence.others.features]).mean(0)
    one, other = (rows - mean for rows in (evidence.features, evidence.others.features))
    distances = 1 - one @ other.T / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(other, axis=1)
    score, of_strangers = [], []
    for row, label in zip(distances, labels, strict=True):
        (first, _, third), (strange, _, third_strange) = sorted(row)[:3], sorted(row[labels != label])[:3]
        score.append(1 - first / third)
        of_strangers.append(1 - strange / third_strange)
    wanted = {i: each for i, each in enumerate(score) if each > np.quantile(of_strangers, 0.5)}
    assert {each.image: each.score for each in near_duplicates(evidence, quantile=0.5)} == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("times", [1, 2, 3, 5])
def test_more_copies_do_not_hide_one(times):
    evidence, _ = splits()
    others = evidence.others.features.copy()
    others[20 : 20 + times] = evidence.features[7]
    found = near_duplicates(replace(evidence, others=replace(evidence.others, features=others)), quantile=0.9)
    assert found[0].image == 7
    assert found[0].score == pytest.approx(1)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_split_of_one_or_two_images(rows):
    evidence, labels = splits()
    features = np.concatenate([evidence.features[:1], evidence.others.features[5:6]])[:rows]
    others = OtherSplit("train", features, labels[:rows], [f"train/{i}" for i in range(rows)])
    found = near_duplicates(replace(evidence, others=others), quantile=0.5)
    assert (found[0].image, found[0].other, found[0].score) == (0, 0, pytest.approx(1))


def test_blocks_change_nothing(monkeypatch):
    evidence, _ = splits()
    whole = near_duplicates(evidence)
    monkeypatch.setattr("hiercnn.diagnose._near_duplicates.BLOCK", 100)
    found = near_duplicates(evidence)
    assert [(f.image, f.other) for f in found] == [(f.image, f.other) for f in whole]
    np.testing.assert_allclose([f.score for f in found], [f.score for f in whole], rtol=1e-6)
