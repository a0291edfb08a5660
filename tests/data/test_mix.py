"""Mixup and cutmix: pixels and shares against plain loops, and draws that depend on the seed alone."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hiercnn.data import Mix, Mixer

LABELS = torch.tensor([3, 1, 4, 1, 5, 9, 2])


def mixed(count=7, seed=0, **options):
    """Random images, what becomes of them, and their labels."""
    images = torch.rand(count, 3, 16, 12, generator=torch.Generator().manual_seed(1))
    return images, *Mixer(Mix(**options))(images.clone(), LABELS[:count], seed)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("count", [1, 2, 6, 7])
def test_mixup_adds_the_image_from_the_other_end_by_its_share(mode, count):
    images, new, labels = mixed(count, mixup=1.0, mode=mode)
    half = count // 2
    for i in range(2 * half):
        j, share = 2 * half - 1 - i, labels.share[i]
        torch.testing.assert_close(new[i], share * images[i] + (1 - share) * images[j])
        assert (labels.first[i], labels.second[i]) == (LABELS[i], LABELS[j])
    if count % 2:  # the odd one
        assert torch.equal(new[-1], images[-1])
        assert labels.share[-1] == 1
        assert labels.second[-1] == LABELS[count - 1]
    if count > 2:
        assert len(labels.share[: 2 * half].unique()) == (1 if mode == "batch" else half if mode == "pair" else 2 * half)


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_cutmix_takes_a_box_of_the_other_image_whose_area_is_the_share(mode):
    images, new, labels = mixed(6, cutmix=1.0, mode=mode, seed=5)
    for i in range(6):
        kept = (new[i] == images[i]).all(0)
        assert torch.equal(new[i][:, ~kept], images[5 - i][:, ~kept])
        assert labels.share[i].item() == pytest.approx(kept.float().mean().item(), abs=1e-6)
        rows, columns = ~kept.all(1), ~kept.all(0)
        assert (~kept).sum() == rows.sum() * columns.sum()  # a box


def test_the_seed_alone_decides_and_numpy_s_generator_is_left_alone():
    before = np.random.get_state()[1].copy()
    one, same, other = (mixed(6, mixup=0.4, cutmix=1.0, mode="elem", seed=seed) for seed in (2**62, 2**62, 3))
    assert torch.equal(one[1], same[1])
    assert torch.equal(one[2].share, same[2].share)
    assert not torch.equal(one[1], other[1])
    assert np.array_equal(np.random.get_state()[1], before)


def test_prob_leaves_some_batches_as_they_are():
    shares = torch.stack([mixed(2, mixup=1.0, prob=0.25, seed=seed)[2].share[0] for seed in range(400)])
    assert (shares == 1).float().mean().item() == pytest.approx(0.75, abs=0.06)


def test_neither_kind_is_refused():
    with pytest.raises(ValidationError, match="give mixup or cutmix a number above 0"):
        Mix(prob=0.5)
