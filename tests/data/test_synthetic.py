"""The synthetic data set: its tree, its arrays, its determinism, and that colour does not give the class away."""

import numpy as np
import pytest

from hiercnn.data._synthetic import CLASSES, TREE, render
from hiercnn.errors import DataError

COUNT, SIZE = 30, 32


@pytest.fixture(scope="module")
def drawn():
    return render(COUNT, seed=0, size=SIZE)


def test_tree_has_three_levels_of_unique_names():
    shapes = [shape for family in TREE.values() for shape in family]
    leaves = [leaf for family in TREE.values() for of_shape in family.values() for leaf in of_shape]
    names = [*TREE, *shapes, *leaves]
    assert len(names) == len(set(names))
    assert len(TREE) >= 3
    assert all(len(family) >= 3 for family in TREE.values())
    assert len(leaves) >= 36
    assert tuple(leaves) == CLASSES


def test_arrays_have_stated_shapes_and_types(drawn):
    images, labels = drawn
    assert images.shape == (COUNT * len(CLASSES), 3, SIZE, SIZE)
    assert images.dtype == np.uint8
    assert labels.shape == (COUNT * len(CLASSES),)
    assert labels.dtype == np.int64
    assert images.min() < 20
    assert images.max() > 235


def test_every_class_comes_equally_often_and_in_order(drawn):
    _, labels = drawn
    np.testing.assert_array_equal(labels, np.repeat(np.arange(len(CLASSES)), COUNT))


@pytest.mark.parametrize("size", [16, 33, 64])
def test_other_sizes(size):
    images, labels = render(1, seed=3, size=size)
    assert images.shape == (len(CLASSES), 3, size, size)
    assert len(labels) == len(CLASSES)


def test_equal_arguments_give_equal_bits():
    once, again = render(2, seed=7), render(2, seed=7)
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])


def test_seeds_differ():
    a, b = render(1, seed=0)[0], render(1, seed=1)[0]
    assert all((x != y).any() for x, y in zip(a, b, strict=True))


def test_all_images_are_distinct(drawn):
    images, _ = drawn
    assert len({image.tobytes() for image in images}) == len(images)


def test_no_image_is_blank(drawn):
    """The contrast that remains after averaging 4 x 4 pixels, which takes three quarters of the noise away, spans 15 levels or more."""
    images, _ = drawn
    blocks = images.reshape(len(images), 3, SIZE // 4, 4, SIZE // 4, 4).mean(axis=(3, 5))
    contrast = np.ptp(blocks, axis=(2, 3)).max(axis=1)
    assert contrast.min() > 15


@pytest.mark.parametrize("fill", ["striped", "dotted", "checked"])
def test_fills_change_the_texture_and_not_only_the_name(drawn, fill):
    """The middle of a patterned object varies more from pixel to pixel than that of a solid one, noise alike."""
    images, labels = drawn
    assert _middle_variance(images, labels, fill) > 1.5 * _middle_variance(images, labels, "solid")


def _middle_variance(images, labels, fill):
    """Median over images of the variance of the middle 12 x 12 pixels; rings are left out, their middle is empty."""
    wanted = [i for i, name in enumerate(CLASSES) if name.endswith(fill) and not name.startswith("ring")]
    return np.median(images[np.isin(labels, wanted)][..., 10:22, 10:22].var(axis=(2, 3)))


# One-way analysis of variance with 36 classes: were colour independent of class, F would average 1 with a standard deviation of
# sqrt(2 / 35) = 0.24, so 2 is about four standard deviations above chance.
COLOUR_BOUND = 2.0


def test_mean_colour_does_not_tell_the_class(drawn):
    images, labels = drawn
    assert _f_statistic(images.mean(axis=(2, 3)), labels).max() < COLOUR_BOUND


def test_colour_check_would_notice_a_tinted_class(drawn):
    images, labels = drawn
    colour = images.mean(axis=(2, 3))
    colour[labels < 4] += 60
    assert _f_statistic(colour, labels).min() > COLOUR_BOUND


def _f_statistic(colour, labels):
    """Variance between the classes' mean colours over variance within classes, for each channel [3]."""
    grouped = colour.reshape(len(CLASSES), COUNT, 3)
    assert (labels.reshape(len(CLASSES), COUNT) == np.arange(len(CLASSES))[:, None]).all()
    between = COUNT * grouped.mean(axis=1).var(axis=0, ddof=1)
    within = grouped.var(axis=1, ddof=1).mean(axis=0)
    return between / within


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count_per_class": 0, "seed": 0}, r"count_per_class must be a whole number >= 1, got 0; ask for one image"),
        ({"count_per_class": -3, "seed": 0}, r"count_per_class .* got -3"),
        ({"count_per_class": 1.5, "seed": 0}, r"count_per_class must be a whole number .* got 1\.5"),
        ({"count_per_class": True, "seed": 0}, r"count_per_class must be a whole number .* got True"),
        ({"count_per_class": 1, "seed": -1}, r"seed must be a whole number >= 0, got -1; use a non-negative seed"),
        ({"count_per_class": 1, "seed": 0, "size": 15}, r"size must be a whole number >= 16, got 15; smaller images"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(DataError, match=message):
        render(**arguments)
