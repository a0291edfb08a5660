"""Faults of classes: planted ones are found, and sound classes are not suspected."""

import numpy as np
import pytest
from evidence import TREE, judged, right

from hiercnn.diagnose import duplicate_classes, homonym_class, misplaced_class, subset_class
from hiercnn.hierarchy import from_nested

SOUND = right(TREE)


def of(name: str, *rows: dict[str, float]):
    """The rows of a network that is right about every class, but for one class."""
    return [row for row in SOUND if row[0] != name] + [(name, row) for row in rows]


def test_sound_classes_are_no_suspicion():
    evidence = judged(TREE, *SOUND)
    assert duplicate_classes(evidence) == subset_class(evidence) == homonym_class(evidence) == []
    assert misplaced_class(evidence) == []


def test_two_names_of_one_class():
    rows = [(name, {"cat": 0.45, "dog": 0.45} if name in ("cat", "dog") else named) for name, named in SOUND]
    (found,) = duplicate_classes(judged(TREE, *rows))
    assert found.classes == ("cat", "dog")
    assert found.score == pytest.approx(0.45 / (0.45 + 1 / 9))
    assert subset_class(judged(TREE, *rows)) == []


def test_a_class_that_is_part_of_another():
    rows = of("dog", *[{"cat": 0.6, "dog": 0.35}] * 4)
    found = subset_class(judged(TREE, *rows))
    assert found[0].classes == ("dog", "cat")
    assert found[0].score == pytest.approx(0.6 / (0.8 + 1 / 9) - 0.025 / (0.35 + 1 / 9))
    assert "images of dog look like cat" in found[0].sentence
    mirrored = [({"cat": "dog", "dog": "cat"}.get(name, name), named) for name, named in rows]
    swapped = [(name, {{"cat": "dog", "dog": "cat"}.get(key, key): value for key, value in named.items()}) for name, named in mirrored]
    assert subset_class(judged(TREE, *swapped))[0].classes == ("cat", "dog")


def test_a_class_of_two_meanings():
    found = homonym_class(judged(TREE, *of("fish", {"fish": 0.5, "dog": 0.4}, {"fish": 0.5, "saw": 0.4}, {"fish": 0.5, "axe": 0.4})))
    assert found[0].classes == ("fish",)
    assert "2 resemble tool most, and 1 resemble pet, a group far from it" in found[0].sentence
    torn = homonym_class(judged(TREE, *of("fish", *[{"fish": 0.5, "dog": 0.2, "saw": 0.21}] * 3, {"fish": 0.5, "dog": 0.21, "saw": 0.2})))
    assert torn[0].classes == ("fish",)
    assert torn[0].score < found[0].score / 10  # each is between two groups, but they are not of two kinds


def test_meanings_in_one_top_level_group_are_none():
    rows = of("fish", {"fish": 0.5, "dog": 0.4}, {"fish": 0.5, "wolf": 0.4})
    assert "fish" not in [finding.classes[0] for finding in homonym_class(judged(TREE, *rows))]


def test_a_misplaced_class():
    rows = of("fish", *[{"fish": 0.5, "saw": 0.2, "axe": 0.2}] * 4)
    found = misplaced_class(judged(TREE, *rows))
    assert (found[0].classes, found[0].group) == (("fish",), "tool")
    assert found[0].sentence.startswith("fish hangs below pet, with")


def test_what_others_are_taken_for_counts_as_well():
    rows = [(name, {name: 0.6, "fish": 0.3} if name in ("saw", "axe") else named) for name, named in SOUND]
    assert misplaced_class(judged(TREE, *rows))[0].classes == ("fish",)


def test_a_class_without_siblings_cannot_be_misplaced():
    tree = from_nested({"animal": {"pet": ["cat"], "wild": ["wolf", "bear"]}, "thing": {"tool": ["saw", "axe"]}})
    rows = [(name, {name: 0.6, "saw": 0.3} if name == "cat" else {name: 0.8}) for name in tree.classes for _ in range(3)]
    assert "cat" not in [finding.classes[0] for finding in misplaced_class(judged(tree, *rows))]


def test_the_affinity_is_that_of_a_plain_loop():
    rng = np.random.default_rng(3)
    labels, probabilities = rng.integers(0, 9, 200), rng.dirichlet(np.ones(9) / 2, 200)
    evidence = judged(TREE, *SOUND)
    evidence = type(evidence)(TREE, labels, probabilities)
    parents = TREE.parents[TREE.leaf_nodes]
    wanted = {}
    for c in range(9):
        common = {j: probabilities[labels == c, j].sum() + probabilities[labels == j, c].sum() for j in range(9) if j != c}
        total = sum(common.values())
        means = {parent: np.mean([common[j] for j in common if parents[j] == parent]) / total + 0.1 / 8 for parent in set(parents)}
        own = means.pop(parents[c])
        wanted[TREE.classes[c]] = np.log(max(means.values()) / own)
    found = {finding.classes[0]: finding.score for finding in misplaced_class(evidence)}
    assert found == {name: pytest.approx(score) for name, score in wanted.items() if score > 0}
