"""Batches: reproducible, keyed by image, resumable; the same for any batch size, order and number of workers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import noise, settings

from hiercnn.data import Augment, BatchLoader, SampleLoader, in_memory, keyed_seed, make_loader
from hiercnn.data._loader import balanced_order, shift_and_flip
from hiercnn.errors import DataError, HierCNNError, RecipeError, ShapeError

IMAGES = in_memory(noise(23), np.arange(23) % 5, "train")
BATCHED = {"crop": 2, "flip": True}
SINGLE = {"resized_crop": (0.3, 1.0), "flip": True}
AUGMENTS = pytest.mark.parametrize("augment", [BATCHED, SINGLE], ids=["batch", "sample"])
WORKERS = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:This process .* is multi-threaded")


def loader(augment=None, *, train=True, seed=0, images=IMAGES, channels=3, channels_last=False, **options):
    values = {"batch_size": 4, "eval_batch_size": 4, "image_size": 8} | options
    wanted = settings(augment=Augment(**augment or {}), **values)
    return make_loader(images, wanted, train=train, seed=seed, channels=channels, channels_last=channels_last)


def check_same(first, second) -> None:
    first, second = list(first), list(second)
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def by_index(batches) -> dict[int, torch.Tensor]:
    return {index: image for batch in batches for index, image in zip(batch.indices.tolist(), batch.images, strict=True)}


def in_batches(made, *batches):
    """The loader, with these batches in every epoch."""
    made.batches = lambda epoch=0: [(torch.tensor(batch),) * 2 for batch in batches]
    return made


# --- Which images ---------------------------------------------------------------------------------------------------------------------


def test_the_right_loader():
    assert isinstance(loader(BATCHED), BatchLoader)
    assert isinstance(loader(SINGLE), SampleLoader)
    assert isinstance(loader(SINGLE, train=False), BatchLoader)


@AUGMENTS
def test_same_seed_and_epoch_give_the_same_batches(augment):
    check_same(loader(augment, seed=3).epoch(5), loader(augment, seed=3).epoch(5))
    again = loader(augment, seed=3)
    list(again.epoch(0))
    check_same(again.epoch(5), loader(augment, seed=3).epoch(5))


@AUGMENTS
def test_epochs_and_seeds_differ_in_order_and_pixels(augment):
    runs = [list(loader(augment, seed=seed).epoch(epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(torch.cat([batch.indices for batch in run]).tolist()) for run in runs}) == 3
    images = [by_index(run) for run in runs]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        common = images[a].keys() & images[b].keys()
        changed = sum(not torch.equal(images[a][i], images[b][i]) for i in common)
        assert changed > len(common) / 2


@AUGMENTS
def test_draws_belong_to_the_image_not_to_the_batch(augment):
    orders = {
        "4": loader(augment),
        "7": loader(augment, batch_size=7),
        "mixed": in_batches(loader(augment), [22, 0], [5], list(range(6, 22))),
    }
    images = {name: by_index(made.epoch(2)) for name, made in orders.items()}
    for name in ("7", "mixed"):
        common = images["4"].keys() & images[name].keys()
        assert len(common) > 10
        assert all(torch.equal(images["4"][i], images[name][i]) for i in common)


@AUGMENTS
def test_every_image_has_draws_of_its_own(augment):
    equal = in_memory(np.repeat(noise(1), 20, axis=0), np.zeros(20), "train")
    images = by_index(loader(augment, images=equal).epoch())
    assert len({image.numpy().tobytes() for image in images.values()}) > 10


@AUGMENTS
@pytest.mark.parametrize("start", [1, 4, 5])
def test_start_resumes_in_the_middle(augment, start):
    check_same(list(loader(augment).epoch(1))[start:], loader(augment).epoch(1, start))


def test_eval_covers_every_image_once_in_order():
    batches = list(loader(BATCHED, train=False, mean=[0.0] * 3, std=[1.0] * 3).epoch())
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(23))
    assert torch.cat([batch.labels for batch in batches]).tolist() == IMAGES.labels.tolist()
    torch.testing.assert_close(torch.cat([batch.images for batch in batches]), IMAGES.images / 255)
    assert [len(batch.indices) for batch in batches] == [4, 4, 4, 4, 4, 3]


@AUGMENTS
@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4] * 5), (23, [23]), (12, [12]), (24, [23]), (1, [1] * 23)])
def test_last_partial_batch_is_dropped_only_where_there_is_a_full_one(augment, batch_size, sizes):
    made = loader(augment, batch_size=batch_size)
    batches = list(made.epoch())
    assert [len(batch.images) for batch in batches] == sizes
    assert len(made) == len(sizes)
    indices = torch.cat([batch.indices for batch in batches]).tolist()
    assert len(set(indices)) == len(indices)
    assert [IMAGES.labels[i] for i in indices] == torch.cat([batch.labels for batch in batches]).tolist()


def test_length_of_an_eval_epoch_counts_the_partial_batch():
    assert [len(loader(train=False, eval_batch_size=size)) for size in (4, 23, 24)] == [6, 1, 1]


@AUGMENTS
def test_balanced_draws_repeat_images_of_rare_labels_with_draws_of_their_own(augment):
    rare = in_memory(noise(40), np.array([0] * 36 + [1] * 4), "train")
    batches = list(loader(augment, images=rare, balance=1.0, batch_size=40).epoch(0))
    (batch,) = batches
    drawn = batch.indices.tolist()
    repeated = next(index for index in drawn if index >= 36 and drawn.count(index) > 1)
    copies = [image for index, image in zip(drawn, batch.images, strict=True) if index == repeated]
    assert len(torch.stack(copies).unique(dim=0)) > 1
    check_same(batches, loader(augment, images=rare, balance=1.0, batch_size=40).epoch(0))


@pytest.mark.parametrize(("balance", "share"), [(0.25, 8 / 9), (0.5, 4 / 5), (1.0, 1 / 2)])
def test_labels_are_drawn_as_balance_says_and_images_of_a_label_alike(balance, share):
    labels = np.tile([5, 2] + 15 * [5], 2000)  # 16 : 1
    order = balanced_order(labels, balance, seed=3).numpy()
    assert len(order) == len(labels)
    assert (labels[order] == 5).mean() == pytest.approx(share, abs=0.01)
    for label in (2, 5):
        times = np.bincount(order[labels[order] == label], minlength=len(labels))[labels == label]
        assert times.mean() == pytest.approx(times.var(), rel=0.1)  # Poisson: no image is favoured


def test_ids_name_the_images():
    assert loader().ids(torch.tensor([3, 0])) == ["train/3", "train/0"]


# --- Crop and flip --------------------------------------------------------------------------------------------------------------------


def loop_oracle(images, shifts, flips, padding):
    """Pad, cut and mirror one image after the other."""
    out = []
    for image, (down, right), flip in zip(images, shifts, flips, strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        cut = padded[:, down : down + image.shape[1], right : right + image.shape[2]]
        out.append(cut[:, :, ::-1] if flip else cut)
    return np.stack(out)


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(0, 4), st.integers(0, 999))
def test_shift_and_flip_is_a_loop(count, channels, height, width, padding, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, (count, channels, height, width), dtype=np.uint8)
    shifts, flips = rng.integers(0, 2 * padding + 1, (count, 2)), rng.random(count) < 0.5
    done = shift_and_flip(torch.from_numpy(images), torch.from_numpy(shifts), torch.from_numpy(flips), padding)
    np.testing.assert_array_equal(done, loop_oracle(images, shifts, flips, padding))


def test_all_shifts_and_both_flips_are_drawn_alike():
    """1,000 images of one white pixel in the middle: where it goes is the shift; 5 σ of a binomial at most from even shares."""
    dots = np.zeros((1000, 1, 5, 6), np.uint8)
    dots[:, :, 2, 2] = 255
    made = loader({"crop": 1, "flip": True}, images=in_memory(dots, np.zeros(1000), "train"), channels=1, batch_size=1000)
    places = next(made.epoch()).images.flatten(1).argmax(1)
    rows, columns = (torch.bincount(place) for place in (places // 6, places % 6))
    sigma = (1000 * 2 / 9) ** 0.5
    assert (rows[1:4] - 1000 / 3).abs().max() < 5 * sigma
    assert rows.sum() == rows[1:4].sum()
    assert columns[1:5].sum() == 1000
    assert (columns[[1, 4]] - 1000 / 6).abs().max() < 5 * sigma  # unflipped left, flipped left


@pytest.mark.parametrize("augment", [{"crop": 0, "flip": False}, {}])
def test_no_augmentation_changes_no_pixel(augment):
    made = loader(augment, mean=[0.0] * 3, std=[1.0] * 3)
    for index, image in by_index(made.epoch()).items():
        torch.testing.assert_close(image, IMAGES.images[index] / 255)


# --- Normalisation and layout ---------------------------------------------------------------------------------------------------------


def first(**options) -> torch.Tensor:
    return next(loader(train=False, **options).epoch()).images


def test_default_normalisation_is_imagenets():
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = (IMAGES.images[:4] / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(first(), wanted)


def test_given_normalisation():
    wanted = (IMAGES.images[:4] / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([1.0, 2, 4])[:, None, None]
    torch.testing.assert_close(first(mean=[0.1, 0.2, 0.3], std=[1, 2, 4]), wanted)


def test_other_numbers_of_channels_take_the_mean_of_imagenets():
    grey = in_memory(noise(4, channels=1), np.zeros(4), "train")
    wanted = (grey.images / 255 - np.mean([0.485, 0.456, 0.406])) / np.mean([0.229, 0.224, 0.225])
    torch.testing.assert_close(first(images=grey, channels=1), wanted.float())


@pytest.mark.parametrize("what", ["mean", "std"])
def test_wrong_number_of_means(what):
    with pytest.raises(ShapeError, match=rf"data\.{what}: wanted 3 values, one a channel, got 1"):
        first(**{what: [0.5]})


@AUGMENTS
def test_channels_last_changes_the_layout_only(augment):
    plain, last = (next(loader(augment, channels_last=wanted).epoch()).images for wanted in (False, True))
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    assert torch.equal(plain, last)


# --- Single images --------------------------------------------------------------------------------------------------------------------


@WORKERS
def test_workers_change_nothing():
    alone, helped = loader(SINGLE, workers=0), loader(SINGLE, workers=2)
    for epoch in (0, 1):
        check_same(alone.epoch(epoch), helped.epoch(epoch))
    next(helped.epoch(2))  # left in the middle
    check_same(alone.epoch(3, 2), helped.epoch(3, 2))


@WORKERS
@pytest.mark.parametrize("workers", [0, 2])
@AUGMENTS
def test_the_global_generator_is_left_alone(augment, workers):
    before = torch.get_rng_state()
    list(loader(augment, workers=workers).epoch())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_has_no_say():
    images = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        images.append(list(loader(SINGLE).epoch()))
    check_same(*images)


def test_generators_of_other_devices_are_left_alone(monkeypatch):
    def refuse(seed):
        raise AssertionError("seeded CUDA")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    assert list(loader(SINGLE).epoch())


@pytest.mark.parametrize("augment", [{}, BATCHED, {"flip": True}, {"crop": 3}])
@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_single_images_are_cropped_and_flipped_as_whole_batches_are(augment, balance):
    whole = loader(augment, balance=balance)
    options = {"batch_size": 4, "shuffle": True, "seed": 0, "balance": balance, "device": whole.device, "normalise": whole.normalise}
    single = SampleLoader(IMAGES, Augment(**augment), settings(image_size=8), **options)
    check_same(whole.epoch(2), single.epoch(2))


def test_transforms_by_name():
    upside_down = loader({"transforms": [{"name": "RandomVerticalFlip", "p": 1}]}, mean=[0.0] * 3, std=[1.0] * 3)
    for index, image in by_index(upside_down.epoch()).items():
        torch.testing.assert_close(image, IMAGES.images[index].flip(1) / 255)


def test_crop_pads_single_images_with_zeros():
    white = in_memory(np.full((40, 3, 8, 8), 255, np.uint8), np.zeros(40), "train")
    plain = {"images": white, "batch_size": 40, "mean": [0.0] * 3, "std": [1.0] * 3}
    single = next(loader({"crop": 2, "transforms": [{"name": "Identity"}]}, **plain).epoch()).images
    assert single.shape == (40, 3, 8, 8)
    assert set(single.flatten().tolist()) == {0.0, 1.0}


BAD_TRANSFORMS = {
    "unknown": (
        {"transforms": [{"name": "RandAugmnt"}]},
        RecipeError,
        "no transform 'RandAugmnt' in torchvision.transforms.v2; did you mean 'RandAugment'",
    ),
    "nameless": ({"transforms": [{"p": 1}]}, RecipeError, "no transform 'None'"),
    "no transform": ({"transforms": [{"name": "functional"}]}, RecipeError, "no transform 'functional'"),
    "option": ({"transforms": [{"name": "RandAugment", "ops": 2}]}, RecipeError, "RandAugment does not take {'ops': 2}: "),
    "value": ({"transforms": [{"name": "RandomHorizontalFlip", "p": 7}]}, RecipeError, "RandomHorizontalFlip does not take {'p': 7}: "),
    "crop": (
        {"transforms": [{"name": "RandAugment"}], "crop": 2},
        DataError,
        r"crop and resized_crop of single images need data\.image_size",
    ),
    "resized crop": ({"resized_crop": (0.5, 1)}, DataError, r"crop and resized_crop of single images need data\.image_size"),
}


@pytest.mark.parametrize(("augment", "kind", "message"), BAD_TRANSFORMS.values(), ids=BAD_TRANSFORMS)
def test_bad_transforms(augment, kind, message):
    assert issubclass(kind, HierCNNError)
    with pytest.raises(kind, match=message):
        loader(augment, image_size=None)


@pytest.mark.parametrize("area", [(0, 1), (0.5, 0.4), (0.5, 1.1)])
def test_bad_areas(area):
    with pytest.raises(ValueError, match="0 < least <= most <= 1"):
        Augment(resized_crop=area)


# --- Keys -----------------------------------------------------------------------------------------------------------------------------


def test_keys_depend_on_every_part():
    seeds = {keyed_seed(a, b, c) for a in range(8) for b in range(8) for c in range(1, 9)}
    assert len(seeds) == 8**3
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    assert keyed_seed(1, 2, 3) == keyed_seed(1, 2, 3)
