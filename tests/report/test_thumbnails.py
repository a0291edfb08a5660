"""Which images get a picture, and where it lies on its sheet."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from hiercnn.data import ImageSet
from hiercnn.report._evaluations import Evaluation
from hiercnn.report._thumbnails import ACROSS, chosen, gallery


def evaluation(labels: list[int], predicted: list[int], split: str = "val") -> Evaluation:
    labels, predicted = np.array(labels), np.array(predicted)
    ids = [f"{split}/{i}" for i in range(len(labels))]
    return Evaluation(split, 1, labels, predicted, (labels != predicted).astype(np.uint8), np.linspace(0.9, 0.5, len(labels)), ids=ids)


def test_every_pair_has_a_picture_before_any_has_two():
    one = evaluation([0] * 20 + [1, 2, 2], [1] * 20 + [0, 0, 1])
    assert set(chosen([one], 4)) == {"val/0", "val/20", "val/21", "val/22"}  # the surest of 0 → 1


def test_right_answers_have_some():
    one = evaluation([0] * 100, [1] * 50 + [0] * 50)
    names = chosen([one], 20)
    assert sum(int(name.split("/")[1]) >= 50 for name in names) == 4


def test_evaluations_of_the_same_images_take_turns():
    names = chosen([evaluation([0, 1, 2], [1, 1, 2]), evaluation([0, 1, 2], [0, 2, 2])], 2)
    assert set(names) == {"val/0", "val/1"}


def test_pictures_lie_where_their_number_says(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (300, 3))
    pixels = np.broadcast_to(colours[:, :, None, None], (300, 3, 16, 16)).astype(np.uint8)
    images = ImageSet(np.zeros(300, dtype=np.int64), [f"i{i}" for i in range(300)], images=torch.tensor(pixels))
    found = gallery({"test": images}, [*(f"i{i}" for i in range(299, -1, -1)), "i5", "nowhere"])
    assert (found.side, len(found.sheets), len(found.numbers), found.unreadable) == (16, 2, 300, 0)
    sheets = [np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet)))) for sheet in found.sheets]
    for i in (0, 5, 42, 298):
        sheet, place = divmod(found.numbers[f"i{i}"], ACROSS * ACROSS)
        row, column = divmod(place, ACROSS)
        middle = sheets[sheet][16 * row + 8, 16 * column + 8].astype(int)
        assert np.abs(middle - colours[i]).max() < 40  # colours are compressed


def test_photos_of_any_shape_and_ones_that_are_gone(tmp_path):
    Image.new("RGB", (200, 90), "red").save(tmp_path / "wide.png")
    Image.new("L", (20, 30), 128).save(tmp_path / "small.png")
    paths = [tmp_path / name for name in ("wide.png", "small.png", "gone.png")]
    images = ImageSet(np.zeros(3, dtype=np.int64), ["wide", "small", "gone"], paths=paths)
    found = gallery({"test": images}, images.ids)
    assert (found.side, list(found.numbers), found.unreadable) == (64, ["wide", "small"], 1)
