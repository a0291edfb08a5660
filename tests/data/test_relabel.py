"""Wrong, coarse and imbalanced training labels: how many, which, and that nothing but train changes."""

from dataclasses import replace

import numpy as np
import pytest
from pictures import memory_source, settings
from pydantic import ValidationError
from train.tiny import tiny

from hiercnn.data import ImageSet, prepare
from hiercnn.data._relabel import relabelled
from hiercnn.data._settings import CoarseLabels, LabelNoise
from hiercnn.errors import DataError, RecipeError
from hiercnn.hierarchy import from_nested
from hiercnn.recipe import build_data, build_hierarchy, build_source

TREE = from_nested({"animal": {"pet": ["cat", "dog", "fish"], "wild": ["wolf", "bear"]}, "thing": {"road": ["car", "bus"]}})
COUNTS = {"wolf": 41, "car": 20, "dog": 12, "bus": 33, "cat": 27, "bear": 9, "fish": 16}
CLASSES = tuple(COUNTS)
GROUP = {"cat": "pet", "dog": "pet", "fish": "pet", "wolf": "wild", "bear": "wild", "car": "thing", "bus": "thing"}  # of three

NEAR = {"label_noise": {"share": 0.4, "kind": "near", "cut": 3}}
FAR = {"label_noise": {"share": 0.4, "kind": "far", "cut": 3}}
UNIFORM = {"label_noise": {"share": 0.4}}
COARSE = {"coarse_labels": {"cut": 3, "fine": 4}}
DROP = {"coarse_labels": {"cut": 3, "fine": 4, "drop": True}}
ALL = {"near": NEAR, "far": FAR, "uniform": UNIFORM, "coarse": COARSE, "drop": DROP, "noise and coarse": FAR | COARSE}
ALL |= {"noise and drop": FAR | DROP, "imbalance": {"imbalance": 5}, "imbalance and all": {"imbalance": 5} | NEAR | COARSE}


def prepared(run_seed: int = 0, counts=COUNTS, tree=TREE, **options):
    return prepare(memory_source(counts, test=dict.fromkeys(counts, 3)), tree, settings(val=2, **options), run_seed)


def labels_by_id(data) -> dict[str, str]:
    """Name of the training label of each image."""
    tree = data.hierarchy
    return {image: tree.names[tree.label_nodes[label]] for image, label in zip(data.train.ids, data.train.labels, strict=True)}


def of_class(clean: dict[str, str], name: str) -> list[str]:
    return [image for image, label in clean.items() if label == name]


# --- Nothing but train ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ALL.values(), ids=ALL)
def test_val_and_test_are_the_same_whatever_train_looks_like(options):
    for seed in (0, 1):
        plain, changed = prepared(seed), prepared(seed, **options)
        assert changed.val.digest == plain.val.digest
        assert changed.test.digest == plain.test.digest
        assert changed.train.digest != plain.train.digest
    assert plain.val.digest != prepared(0).val.digest


@pytest.mark.parametrize(
    "options", [NEAR, FAR, UNIFORM, COARSE, FAR | COARSE], ids=["near", "far", "uniform", "coarse", "noise and coarse"]
)
def test_labels_change_and_images_do_not(options):
    plain, changed = prepared(), prepared(**options)
    assert list(changed.train.ids) == list(plain.train.ids)
    assert changed.train.images.equal(plain.train.images)


def test_sources_are_not_changed():
    source = memory_source(COUNTS)
    digest = source.train.digest
    prepare(source, TREE, settings(val=2, **FAR, **COARSE), 0)
    assert source.train.digest == digest


@pytest.mark.parametrize("options", ALL.values(), ids=ALL)
def test_what_changes_depends_on_the_seed_alone(options):
    digests = [prepared(seed, **options).train.digest for seed in (0, 0, 1, 2)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    fixed = [prepared(run, seed=5, **options).train.digest for run in (0, 1)]
    assert fixed[0] == fixed[1] == prepared(5, **options).train.digest


@pytest.mark.parametrize("options", [NEAR, COARSE], ids=["noise", "coarse"])
def test_which_images_are_chosen_differs_between_seeds(options):
    """The same training images (val given), other choices among them."""
    source = memory_source(COUNTS, val=dict.fromkeys(CLASSES, 3))
    runs = [prepare(source, TREE, settings(val="given", **options), seed) for seed in (0, 1)]
    assert runs[0].train.ids == runs[1].train.ids
    assert labels_by_id(runs[0]) != labels_by_id(runs[1])


# --- Wrong labels ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.4, 1.0])
@pytest.mark.parametrize("kind", ["near", "far", "uniform"])
def test_each_class_gets_exactly_its_share_of_wrong_labels(kind, share, seed):
    noise = {"share": share, "kind": kind} | ({} if kind == "uniform" else {"cut": 3})
    clean, noisy = labels_by_id(prepared(seed)), labels_by_id(prepared(seed, label_noise=noise))
    for name in CLASSES:
        images = of_class(clean, name)
        wrong = [noisy[image] for image in images if noisy[image] != name]
        assert len(wrong) == round(share * len(images))
        assert set(wrong) <= set(CLASSES)
        if kind == "near":
            assert {GROUP[label] for label in wrong} <= {GROUP[name]}
        if kind == "far":
            assert GROUP[name] not in {GROUP[label] for label in wrong}


@pytest.mark.parametrize(("cut", "near"), [(2, {"dog", "fish", "wolf", "bear"}), ({"depth": 2}, {"dog", "fish"})])
def test_near_and_far_are_a_matter_of_the_cut(cut, near):
    clean = labels_by_id(prepared())
    for kind, wanted in (("near", near), ("far", set(CLASSES) - near - {"cat"})):
        noisy = labels_by_id(prepared(label_noise={"share": 1, "kind": kind, "cut": cut}))
        assert {noisy[image] for image in of_class(clean, "cat")} == wanted


@pytest.mark.parametrize(("kind", "allowed"), [("near", ["dog", "fish"]), ("far", ["wolf", "bear", "car", "bus"]), ("uniform", None)])
def test_wrong_labels_are_drawn_evenly(kind, allowed):
    tree = TREE.with_classes(CLASSES)
    cat, allowed = tree.label("cat"), [tree.label(name) for name in allowed or CLASSES if name != "cat"]
    labels = np.full(6000, cat)
    noise = LabelNoise(share=1, kind=kind, cut=None if kind == "uniform" else 3)
    found = relabelled(ImageSet(labels, [str(i) for i in range(6000)]), tree, noise, None, 0).labels
    shares = np.bincount(found, minlength=len(CLASSES)) / 6000
    wanted = [1 / len(allowed) if c in allowed else 0 for c in range(len(CLASSES))]
    np.testing.assert_allclose(shares, wanted, atol=0.03)  # a standard deviation is at most 0.0065


def test_wrong_labels_are_drawn_from_true_ones():
    """With every label wrong, a class that was given wrong labels does not pass them on."""
    clean, noisy = labels_by_id(prepared()), labels_by_id(prepared(label_noise={"share": 1, "kind": "near", "cut": 3}))
    swapped = {"car": "bus", "bus": "car", "wolf": "bear", "bear": "wolf"}
    assert all(noisy[image] == swapped[label] for image, label in clean.items() if label in swapped)


@pytest.mark.parametrize("options", [NEAR, FAR, UNIFORM, COARSE], ids=["near", "far", "uniform", "coarse"])
def test_images_that_are_labelled_with_a_group_keep_their_labels(options):
    source = replace(memory_source({**COUNTS, "pet": 7, "animal": 5}), inner_labels=True)
    clean, changed = (labels_by_id(prepare(source, TREE, settings(val=2, **o), 0)) for o in ({}, options))
    grouped = of_class(clean, "pet") + of_class(clean, "animal")
    assert len(grouped) == 12
    assert all(changed[image] == clean[image] for image in grouped)


# --- Coarse labels --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fine", [1, 4, 7, 15, 0.25, 0.01, 0.9])
def test_so_many_of_each_class_stay_fine_and_the_others_name_their_group(fine):
    data = prepared(coarse_labels={"cut": 3, "fine": fine})
    clean, coarse = labels_by_id(prepared()), labels_by_id(data)
    assert data.inner_labels
    for name in CLASSES:
        images = of_class(clean, name)
        kept = [image for image in images if coarse[image] == name]
        assert len(kept) == (min(fine, len(images)) if isinstance(fine, int) else max(1, round(fine * len(images))))
        assert {coarse[image] for image in images if image not in kept} <= {GROUP[name]}


def test_groups_of_another_cut():
    for depth, groups in [(1, {"animal", "thing"}), (2, {"pet", "wild", "road"})]:
        coarse = labels_by_id(prepared(coarse_labels={"cut": {"depth": depth}, "fine": 1}))
        assert set(coarse.values()) == groups.union(CLASSES)


@pytest.mark.parametrize("noise", [{}, NEAR, FAR, UNIFORM], ids=["clean", "near", "far", "uniform"])
@pytest.mark.parametrize("fine", [4, 0.3])
def test_drop_keeps_exactly_the_finely_labelled_images(fine, noise):
    coarse, dropped = (prepared(**noise, coarse_labels={"cut": 3, "fine": fine, "drop": drop}) for drop in (False, True))
    fine_ones = {image: label for image, label in labels_by_id(coarse).items() if label in CLASSES}
    assert labels_by_id(dropped) == fine_ones
    assert list(dropped.train.ids) == [image for image in coarse.train.ids if image in fine_ones]  # in the same order
    kept = np.flatnonzero([image in fine_ones for image in coarse.train.ids])
    assert dropped.train.images.equal(coarse.train.images[kept])
    assert len(fine_ones) < len(coarse.train)
    assert (coarse.inner_labels, dropped.inner_labels) == (True, False)


def test_drop_keeps_the_same_images_of_a_class_that_is_its_own_group():
    tree = from_nested({"pet": ["cat", "dog"], "car": None})
    counts = {"cat": 9, "dog": 8, "car": 12}
    coarse, dropped = (
        labels_by_id(prepared(counts=counts, tree=tree, coarse_labels={"cut": 2, "fine": 3, "drop": drop})) for drop in (False, True)
    )
    assert dropped == {image: label for image, label in coarse.items() if label in counts}


@pytest.mark.parametrize("noise", [NEAR, FAR], ids=["near", "far"])
def test_a_coarse_label_is_the_group_of_the_wrong_label(noise):
    """Wrong labels come first: near ones leave the group right, far ones do not."""
    clean, noisy, coarse = (labels_by_id(prepared(**options)) for options in ({}, noise, noise | COARSE))
    grouped = [image for image, label in coarse.items() if label not in CLASSES]
    assert all(coarse[image] == GROUP[noisy[image]] for image in grouped)
    assert all(coarse[image] == noisy[image] for image in coarse if image not in grouped)
    wrong = [image for image in grouped if coarse[image] != GROUP[clean[image]]]
    assert bool(wrong) == (noise is FAR)


# --- Imbalance ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class", [None, 30, 64])
@pytest.mark.parametrize("imbalance", [1.5, 4, 20, 1000])
def test_the_profile_falls_exponentially_in_the_order_of_the_data_set(imbalance, per_class):
    counts = dict.fromkeys(CLASSES, 62)
    balanced, data = (prepared(counts=counts, per_class=per_class, **options) for options in ({}, {"imbalance": imbalance}))
    largest = min(60, per_class or 60)
    kept = np.bincount(data.train.labels).tolist()
    assert data.hierarchy.classes == CLASSES
    assert kept == [max(1, round(largest * imbalance ** (-i / 6))) for i in range(7)]
    assert kept[0] == largest
    assert kept[-1] == max(1, round(largest / imbalance))
    assert set(data.train.ids) < set(balanced.train.ids)
    assert labels_by_id(data).items() <= labels_by_id(balanced).items()


def test_small_classes_keep_their_share_of_what_they_have():
    """Counts are uneven to begin with: 39, 18, 10, 31, 25, 7, 14 are left of them beside val."""
    kept = np.bincount(prepared(imbalance=64).train.labels).tolist()
    assert kept == [39, 9, 2, 4, 2, 1, 1]


def test_noise_is_a_share_of_what_imbalance_left():
    clean, noisy = labels_by_id(prepared(imbalance=4)), labels_by_id(prepared(imbalance=4, **UNIFORM))
    assert clean.keys() == noisy.keys()
    for name in CLASSES:
        images = of_class(clean, name)
        assert sum(noisy[image] != name for image in images) == round(0.4 * len(images))


# --- From a recipe --------------------------------------------------------------------------------------------------------------------


def test_a_recipe_s_settings_reach_the_data():
    digests = []
    for override in ("data.imbalance=null", "data.imbalance=2", "data.label_noise={share: 0.4, kind: far, cut: 3}"):
        recipe = tiny(override, "data.coarse_labels={cut: 9, fine: 2}")
        data = build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))
        assert data.inner_labels
        digests.append((data.train.digest, data.val.digest, data.test.digest))
    trains, vals, tests = (set(column) for column in zip(*digests, strict=True))
    assert (len(trains), len(vals), len(tests)) == (3, 1, 1)


# --- Errors ---------------------------------------------------------------------------------------------------------------------------

FLAT = from_nested(["cat", "dog", "car"])
LONE = from_nested({"pet": ["cat", "dog"], "thing": ["car"]})
NO_GROUPS = r"data\.{}\.cut: needs groups above the leaves, at least two; the tree has height {}"
ERRORS = {
    "alone": (LONE, {"label_noise": {"share": 0.1, "kind": "near", "cut": 2}}, "label_noise: class 'car' is alone in its group of the cut"),
    "no such cut": (LONE, {"label_noise": {"share": 0.1, "kind": "far", "cut": 9}}, r"data\.label_noise\.cut: groups=9: the tree has 3"),
    "noise at leaf": (LONE, {"label_noise": {"share": 0.1, "kind": "near", "cut": "leaf"}}, NO_GROUPS.format("label_noise", 2)),
    "noise at root": (LONE, {"label_noise": {"share": 0.1, "kind": "far", "cut": 1}}, NO_GROUPS.format("label_noise", 2)),
    "noise, flat tree": (FLAT, {"label_noise": {"share": 0.1, "kind": "far", "cut": {"depth": 1}}}, NO_GROUPS.format("label_noise", 1)),
    "coarse, no such cut": (LONE, {"coarse_labels": {"cut": 9, "fine": 1}}, r"data\.coarse_labels\.cut: groups=9: the tree has 3"),
    "coarse at leaf": (LONE, {"coarse_labels": {"cut": {"depth": 2}, "fine": 1}}, NO_GROUPS.format("coarse_labels", 2)),
    "coarse at root": (LONE, {"coarse_labels": {"cut": {"depth": 0}, "fine": 1}}, NO_GROUPS.format("coarse_labels", 2)),
    "drop, flat tree": (FLAT, {"coarse_labels": {"cut": "leaf", "fine": 1, "drop": True}}, NO_GROUPS.format("coarse_labels", 1)),
    "emptied": (LONE, {"per_class": 1, "label_noise": {"share": 1, "kind": "far", "cut": 2}}, "train has no image of '(cat|dog)'"),
}


@pytest.mark.parametrize(("tree", "options", "message"), ERRORS.values(), ids=ERRORS)
def test_data_that_cannot_be_made_so(tree, options, message):
    with pytest.raises(DataError, match=message):
        prepared(counts={"cat": 9, "dog": 9, "car": 9}, tree=tree, **options)


def test_a_class_alone_in_its_group_is_told_what_to_do():
    noise = LabelNoise(share=0.1, kind="near", cut=2)
    with pytest.raises(DataError, match="choose another cut, or kind: uniform"):
        relabelled(ImageSet(np.arange(3), ["a", "b", "c"]), LONE, noise, None, 0)


CUT = "near and far noise need a cut, uniform noise takes none"
SETTINGS = {
    "near without cut": (LabelNoise, {"share": 0.1, "kind": "near"}, CUT),
    "far without cut": (LabelNoise, {"share": 0.1, "kind": "far"}, CUT),
    "uniform with cut": (LabelNoise, {"share": 0.1, "cut": 3}, CUT),
    "no share": (LabelNoise, {"kind": "uniform"}, "share\n.*Field required"),
    "share 0": (LabelNoise, {"share": 0}, "greater than 0"),
    "share above 1": (LabelNoise, {"share": 1.1}, "less than or equal to 1"),
    "kind": (LabelNoise, {"share": 0.1, "kind": "close", "cut": 3}, "'near', 'far' or 'uniform'"),
    "no fine": (CoarseLabels, {"cut": 3}, "fine\n.*Field required"),
    "no cut": (CoarseLabels, {"fine": 3}, "cut\n.*Field required"),
    "unknown": (CoarseLabels, {"cut": 3, "fine": 3, "keep": True}, "keep\n.*Extra inputs"),
}


@pytest.mark.parametrize(("section", "values", "message"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_mean_nothing(section, values, message):
    with pytest.raises(ValidationError, match=message):
        section(**values)


@pytest.mark.parametrize("fine", [0, 0.0, 1.0, 1.5, -1, True, "some", float("nan"), None])
def test_fine_that_means_nothing(fine):
    with pytest.raises(ValidationError, match="a share between 0 and 1, or a whole number of images of each class"):
        CoarseLabels(cut=3, fine=fine)


@pytest.mark.parametrize("imbalance", [1, 0.5, 0, -3, float("inf")])
def test_imbalance_that_means_nothing(imbalance):
    with pytest.raises(ValidationError, match="greater than 1|finite number"):
        settings(imbalance=imbalance)


def test_recipes_name_what_is_wrong():
    with pytest.raises(RecipeError) as caught:
        tiny("data.label_noise={share: 2, kind: near, cut: 3}", "data.coarse_labels={cut: 3, fine: 0, dropp: true}", "data.imbalance=1")
    text = str(caught.value)
    assert "4 problems" in text
    for line in (
        "data.label_noise.share: should be less than or equal to 1 (got 2)",
        "data.coarse_labels.fine: should be a share between 0 and 1, or a whole number of images of each class (got 0)",
        "data.coarse_labels.dropp: unknown key; did you mean 'drop'",
        "data.imbalance: should be greater than 1 (got 1)",
    ):
        assert line in text


def test_nothing_to_coarsen_is_said():
    with pytest.raises(DataError, match=r"fine=40: every image keeps its class \(the largest class has 39\); take fewer"):
        prepared(coarse_labels={"cut": 3, "fine": 40})
