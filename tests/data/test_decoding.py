"""Image files: every colour mode becomes RGB; the unreadable are named, counted, skipped, and fatal when they are too many."""

from collections import Counter

import numpy as np
import pytest
from pictures import noise, save_all, settings
from PIL import Image

from hiercnn.data import data_sets, make_loader, prepare
from hiercnn.data._image_set import open_image
from hiercnn.errors import DataError

RGB = noise(1, size=16)[0].transpose(1, 2, 0)
GREY = RGB[:, :, 0]
GREYS = np.stack([GREY] * 3, axis=2)


def palette() -> Image.Image:
    image = Image.fromarray(GREY).convert("P")
    image.info["transparency"] = bytes(range(256))
    return image


MODES = {
    "L": (lambda: Image.fromarray(GREY), "png", GREYS),
    "P": (lambda: Image.fromarray(GREY).convert("P"), "png", GREYS),
    "P transparent": (palette, "png", GREYS),
    "LA": (lambda: Image.fromarray(GREY).convert("LA"), "png", GREYS),
    "1": (lambda: Image.fromarray(GREY > 99), "png", (GREYS > 99) * np.uint8(255)),
    "RGB": (lambda: Image.fromarray(RGB), "png", RGB),
    "RGBA": (lambda: Image.fromarray(np.dstack([RGB, GREY])), "png", RGB),
    "CMYK": (lambda: Image.fromarray(RGB).convert("CMYK"), "tiff", RGB),
    "I;16": (lambda: Image.fromarray(GREY.astype(np.uint16) * 256 + 77), "png", GREYS),
    "I": (lambda: Image.fromarray(GREY.astype(np.int32) * 256 + 77), "tiff", GREYS),
}


@pytest.mark.parametrize(("make", "suffix", "wanted"), MODES.values(), ids=MODES)
def test_modes_become_rgb(tmp_path, make, suffix, wanted):
    make().save(tmp_path / f"image.{suffix}")
    image = open_image(tmp_path / f"image.{suffix}")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), wanted)


def make_unreadable(root) -> None:
    """Spoil three images of twelve, each in its own way."""
    Image.fromarray(noise(1, size=64)[0].transpose(1, 2, 0)).save(root / "train/a/0.jpg")
    whole = (root / "train/a/0.jpg").read_bytes()
    (root / "train/a/0.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/b/0.png").write_text("this is text")


@pytest.fixture
def spoilt(tmp_path):
    """A folder of twelve images in two classes: one truncated, one no image, one that vanishes after it was listed."""
    names = [f"train/{label}/{i}.{'jpg' if label == 'a' else 'png'}" for label in "ab" for i in range(6)]
    source = data_sets["folder"](root=save_all(tmp_path, [*names, "val/a/0.png", "val/b/0.png", "test/a/0.png"]))
    make_unreadable(tmp_path)
    (tmp_path / "train/b/5.png").unlink()
    return source


BAD = ("train/a/0.jpg", "train/b/0.png", "train/b/5.png")
REASONS = {"train/a/0.jpg": "truncated", "train/b/0.png": "cannot identify image file", "train/b/5.png": "No such file"}


@pytest.mark.parametrize(("name", "reason"), REASONS.items(), ids=REASONS)
def test_unreadable_files_are_named_with_the_reason(spoilt, name, reason):
    path = spoilt.train.paths[spoilt.train.ids.index(name)]
    with pytest.raises(DataError, match=rf"unreadable image .*{name}.*: .*{reason}"):
        open_image(path)


def test_unreadable_files_are_left_out_of_memory(spoilt):
    data = prepare(spoilt, None, settings(image_size=8, val="given", max_unreadable=0.25), 0)
    assert data.unreadable == BAD
    assert set(data.train.ids) == set(spoilt.train.ids).difference(BAD)
    assert np.bincount(data.train.labels).tolist() == [5, 4]
    assert data.train.images.shape == (9, 3, 8, 8)
    assert data.train.paths is None
    with Image.open(spoilt.train.paths[spoilt.train.ids.index("train/b/3.png")]) as image:
        kept = data.train.images[list(data.train.ids).index("train/b/3.png")]
        np.testing.assert_array_equal(kept.numpy().transpose(1, 2, 0), np.asarray(image))


def test_too_many_unreadable_files_are_an_error(spoilt):
    with pytest.raises(DataError) as error:
        prepare(spoilt, None, settings(image_size=8, val="given", max_unreadable=0.24), 0)
    assert "3 of 12 images cannot be read, more than data.max_unreadable=0.24 allows; mend or remove them:" in str(error.value)
    assert all(name in str(error.value) for name in BAD)


def test_a_class_whose_images_are_all_unreadable_is_an_error(tmp_path):
    root = save_all(tmp_path, [f"{label}/{i}.png" for label in "abc" for i in range(4)])
    for file in (root / "b").iterdir():
        file.write_text("spoilt")
    with pytest.raises(DataError, match="train, after leaving out unreadable images, has no image of 'b'"):
        prepare(data_sets["folder"](root=root), None, settings(image_size=8, val=1, max_unreadable=1), 0)


def test_a_split_without_readable_images_is_an_error(tmp_path):
    root = save_all(tmp_path, [f"train/{label}/{i}.png" for label in "ab" for i in range(4)] + ["test/a/0.png"])
    (root / "test/a/0.png").write_text("spoilt")
    with pytest.raises(DataError, match=r"1 of 1 images cannot be read"):
        prepare(data_sets["folder"](root=root), None, settings(image_size=8, max_unreadable=1), 0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:This process .* is multi-threaded")
def test_unreadable_files_are_left_out_of_batches(spoilt, workers, batch_size):
    options = settings(image_size=8, val="given", storage="files", max_unreadable=0.25, workers=workers, eval_batch_size=batch_size)
    data = prepare(spoilt, None, options, 0)
    loader = make_loader(data.train, options, train=False, channels=3)
    for _ in range(2):  # counted once, not once an epoch
        batches = list(loader.epoch())
        assert len(batches) == len(loader)  # an unreadable batch comes empty, so that batches can be counted
        assert Counter(i for batch in batches for i in loader.ids(batch.indices)) == Counter(set(data.train.ids).difference(BAD))
        for batch in batches:
            assert len(batch.images) == len(batch.labels) == len(batch.indices)
            assert batch.labels.tolist() == [data.train.labels[i] for i in batch.indices]
        assert set(loader.unreadable) == set(BAD)
    assert all(REASONS[name] in reason for name, reason in loader.unreadable.items())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:This process .* is multi-threaded")
def test_too_many_unreadable_files_stop_the_epoch(spoilt, workers):
    options = settings(image_size=8, storage="files", max_unreadable=0.24, workers=workers, eval_batch_size=4)
    loader = make_loader(spoilt.train, options, train=False, channels=3)
    with pytest.raises(DataError, match=r"3 of 12 images cannot be read, more than data\.max_unreadable=0\.24 allows"):
        list(loader.epoch())


def test_files_and_memory_give_the_same_pixels(tmp_path):
    source = data_sets["folder"](root=save_all(tmp_path, [f"{label}/{i}.png" for label in "ab" for i in range(3)]))

    def images(storage, **options):
        options = settings(image_size=5, val=1, storage=storage, **options)
        data = prepare(source, None, options, 0)
        return next(make_loader(data.train, options, train=False, channels=3).epoch()).images

    np.testing.assert_array_equal(images("files"), images("memory"))
