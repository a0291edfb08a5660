"""The confidence at which images may leave early, against a loop, and what it promises."""

import numpy as np
import pytest
import torch

from hiercnn.errors import DataError, RecipeError
from hiercnn.hierarchy import from_nested
from hiercnn.inference import calibrate_exit

TREE = from_nested({"x": ["a", "b"], "y": ["c", "d"]})
CUT = TREE.cut(depth=1)


def scores(count: int, seed: int, skill: float = 2.0):
    """Logits of a head that is right where it is sure, more or less, of a network that is better, and labels."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=rng)
    head, leaf = torch.randn(count, 2, generator=rng), torch.randn(count, 4, generator=rng)
    head[torch.arange(count), labels // 2] += skill
    leaf[torch.arange(count), labels] += 2 * skill
    return head, leaf, labels


def loop(head, leaf, labels, threshold: float) -> dict[str, float]:
    made = {"early": 0, "made_wrong": 0, "made_right": 0, "right": 0, "whole": 0}
    for h, z, y in zip(head.softmax(1).tolist(), leaf.softmax(1).tolist(), labels.tolist(), strict=True):
        by_head, by_network = int(h[1] > h[0]) == y // 2, int(z[2] + z[3] > z[0] + z[1]) == y // 2
        early = max(h) >= threshold
        made["early"] += early
        made["made_wrong"] += early and by_network and not by_head
        made["made_right"] += early and by_head and not by_network
        made["right"] += by_head if early else by_network
        made["whole"] += by_network
    return {name: count / len(labels) for name, count in made.items()}


@pytest.mark.parametrize("seed", range(3))
def test_what_is_told_is_the_loop(seed):
    head, leaf, labels = scores(600, seed, skill=1.0)
    found = calibrate_exit(head, leaf, labels, CUT, loss=0.05)
    assert 0.5 < found.threshold < 1
    wanted = loop(head, leaf, labels, found.threshold)
    assert {name: getattr(found, name) for name in wanted} == pytest.approx(wanted)
    assert found.made_wrong < 0.05
    assert found.right - found.whole == pytest.approx(found.made_right - found.made_wrong)


@pytest.mark.long
def test_the_promise_is_kept_as_often_as_it_says():
    """Of 200 calibrations fewer break a promise than 1 − confidence allows; the empirical rate alone would break every other one."""
    head, leaf, labels = scores(200_000, 99, skill=1.0)
    broken = 0
    for draw in range(200):
        rows = torch.from_numpy(np.random.default_rng(draw).integers(0, len(labels), 300))
        threshold = calibrate_exit(head[rows], leaf[rows], labels[rows], CUT, loss=0.05, confidence=0.9).threshold
        broken += threshold is not None and true_loss(head, leaf, labels, threshold) > 0.05
    assert 0 < broken <= 30  # 20 expected at most


def true_loss(head, leaf, labels, threshold: float) -> float:
    by_head = head.argmax(1) == labels // 2
    by_network = torch.stack([leaf.softmax(1)[:, :2].sum(1), leaf.softmax(1)[:, 2:].sum(1)], 1).argmax(1) == labels // 2
    return float(((head.softmax(1).amax(1) >= threshold) & by_network & ~by_head).double().mean())


def test_a_smaller_loss_lets_fewer_leave():
    head, leaf, labels = scores(2000, 0, skill=1.0)
    early = [calibrate_exit(head, leaf, labels, CUT, loss=loss).early for loss in (0.01, 0.05, 0.2)]
    assert early[0] < early[1] < early[2]


def test_too_few_images_let_nobody_leave():
    found = calibrate_exit(*scores(20, 0), CUT, loss=0.01)
    assert (found.threshold, found.early, found.right) == (None, 0, found.whole)


def test_labels_without_a_group_are_left_out():
    head, leaf, labels = scores(400, 0)
    root = TREE.label(TREE.names[0])
    more = torch.cat([labels, torch.full((50,), root)])
    found = calibrate_exit(torch.cat([head, head[:50]]), torch.cat([leaf, leaf[:50]]), more, CUT, loss=0.1)
    assert found == calibrate_exit(head, leaf, labels, CUT, loss=0.1)
    with pytest.raises(DataError, match="no image has a group"):
        calibrate_exit(head[:50], leaf[:50], torch.full((50,), root), CUT)


@pytest.mark.parametrize("shares", [{"loss": 0}, {"loss": 1}, {"confidence": 1.0}])
def test_shares_out_of_range(shares):
    with pytest.raises(RecipeError, match="wanted a share over 0 and below 1"):
        calibrate_exit(*scores(20, 0), CUT, **shares)
