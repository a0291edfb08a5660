"""What counts as evidence, and what is said of evidence that does not tell everything."""

import numpy as np
import pytest
from evidence import FLAT, TREE, judged, likely, right

from hiercnn.diagnose import Evidence, OtherSplit, detectors, near_duplicates
from hiercnn.errors import DataError, HierarchyError, RecipeError, ShapeError
from hiercnn.hierarchy import from_nested

LABELS = np.array([0, 1, 2])
PROBABILITIES = np.full((3, 3), 1 / 3)


def changed(row: int, value: float) -> np.ndarray:
    wrong = PROBABILITIES.copy()
    wrong[row, 0] = value
    return wrong


@pytest.mark.parametrize(
    ("labels", "probabilities", "more", "error", "said"),
    [
        (LABELS.astype(float), PROBABILITIES, {}, ShapeError, "labels: wanted whole numbers"),
        (LABELS[:2], PROBABILITIES, {}, ShapeError, r"probabilities: wanted \[2, 3\].*got \[3, 3\]"),
        (LABELS, PROBABILITIES[:, :2], {}, ShapeError, r"got \[3, 2\]"),
        (LABELS[:0], PROBABILITIES[:0], {}, DataError, "no image to judge"),
        (LABELS + 1, PROBABILITIES, {}, DataError, r"labels: wanted classes 0 to 2, got '3'"),
        (LABELS, changed(1, np.nan), {}, DataError, "not finite in 1 of 3 rows, the first of them row 1"),
        (LABELS, changed(2, 5.0), {}, DataError, "row 2 has .* sum other than 1; give logits a softmax"),
        (LABELS, changed(2, -1.0), {}, DataError, "row 2 has negative numbers"),
        (LABELS, PROBABILITIES, {"ids": ["a"]}, ShapeError, "ids: wanted 3, one for each label, got 1"),
        (LABELS, PROBABILITIES, {"features": np.zeros((2, 4))}, ShapeError, r"features: wanted \[3, F\], got \[2, 4\]"),
        (LABELS, PROBABILITIES, {"features": np.full((3, 4), np.inf)}, DataError, "features: not finite in 3 of 3"),
    ],
)
def test_bad_evidence_is_refused(labels, probabilities, more, error, said):
    with pytest.raises(error, match=said):
        Evidence(FLAT, labels, probabilities, **more)


def test_other_splits_are_checked():
    with pytest.raises(ShapeError, match=r"features of train: wanted \[2, F\]"):
        OtherSplit("train", np.zeros((1, 4)), LABELS[:2], ["a", "b"])
    other = OtherSplit("train", np.zeros((2, 4)), LABELS[:2], ["a", "b"])
    with pytest.raises(ShapeError, match="one layer of one network"):
        Evidence(FLAT, LABELS, PROBABILITIES, features=np.zeros((3, 5)), others=other)


def test_classes_that_nothing_can_be_told_of_are_named():
    evidence = judged(FLAT, ("cat", {"cat": 0.9}), ("dog", {"cat": 0.9}))
    assert evidence.notes() == ["no image of 'car' is judged", "'dog' is never predicted, so images that look like it are not found"]
    assert judged(FLAT, ("cat", {"dog": 0.9})).notes()[0] == "no images of these classes are judged: 'dog', 'car'"
    wrong = judged(TREE, *((name, {"axe": 0.9}) for name in TREE.classes))
    (note,) = wrong.notes()
    assert note.startswith("these classes are never predicted, so images that look like them are not found: ")
    assert len(TREE.classes) == 9
    for name in set(detectors) - {"near_duplicates", "homonym_class", "misplaced_class", "multi_object"}:
        detectors[name](evidence)  # and nothing fails for it


@pytest.mark.parametrize("name", ["homonym_class", "misplaced_class", "multi_object"])
def test_a_tree_of_one_level_is_told(name):
    with pytest.raises(HierarchyError, match="one level: there are no groups"):
        detectors[name](judged(FLAT, *right(FLAT)))


def test_chains_above_the_groups_are_not_a_level():
    tree = from_nested({"thing": {"animal": ["cat", "dog"], "vehicle": ["car", "bus"]}})
    assert len(detectors["multi_object"](judged(tree, ("cat", {"cat": 0.4, "car": 0.5})))) == 1


def test_near_duplicates_need_features_and_another_split():
    with pytest.raises(DataError, match="looks at features"):
        near_duplicates(judged(FLAT, *right(FLAT, 1)))
    with pytest.raises(DataError, match="another split"):
        near_duplicates(judged(FLAT, *right(FLAT, 1), features=np.zeros((3, 2))))


def test_the_mass_is_the_sum_of_each_class_s_rows():
    evidence = judged(TREE, ("cat", {"cat": 0.5}), ("cat", {"dog": 0.5}), ("axe", {"axe": 1.0}))
    np.testing.assert_allclose(evidence.mass[TREE.label("cat")], likely(TREE, {"cat": 0.5}, {"dog": 0.5}).sum(0))
    assert evidence.mass.sum() == pytest.approx(3)


def test_unknown_detectors_are_told():
    with pytest.raises(RecipeError, match="unknown detector 'mislabels'; did you mean 'mislabel'"):
        detectors["mislabels"]


@pytest.mark.parametrize("name", ["duplicate_classes", "homonym_class", "mislabel", "misplaced_class", "multi_object", "subset_class"])
def test_findings_come_worst_first_and_each_says_why(name):
    rng = np.random.default_rng(0)
    found = detectors[name](Evidence(TREE, rng.integers(0, 9, 300), rng.dirichlet(np.ones(9) / 4, 300)))
    assert found
    assert [finding.score for finding in found] == sorted((finding.score for finding in found), reverse=True)
    assert all(finding.sentence and "\n" not in finding.sentence for finding in found)
    assert len({(finding.image, finding.classes) for finding in found}) == len(found)
