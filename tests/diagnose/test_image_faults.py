"""Images of two objects, and images in two splits."""

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


def test_the_threshold_is_a_quantile_of_strangers():
    evidence, labels = splits()
    mean = np.concatenate([evidence.features, evidence.others.features]).mean(0)
    one, other = (rows - mean for rows in (evidence.features, evidence.others.features))
    cosines = one @ other.T / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(other, axis=1)
    strangers = np.where(labels[:, None] == labels, -1, cosines).max(1)
    wanted = np.flatnonzero(cosines.max(1) > np.quantile(strangers, 0.5))
    assert sorted(finding.image for finding in near_duplicates(evidence, quantile=0.5)) == wanted.tolist()


def test_blocks_change_nothing(monkeypatch):
    evidence, _ = splits()
    whole = near_duplicates(evidence)
    monkeypatch.setattr("hiercnn.diagnose._near_duplicates.BLOCK", 100)
    found = near_duplicates(evidence)
    assert [(f.image, f.other) for f in found] == [(f.image, f.other) for f in whole]
    np.testing.assert_allclose([f.score for f in found], [f.score for f in whole], rtol=1e-6)
