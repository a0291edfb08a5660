"""Small pictures of images, many on a sheet."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from hiercnn.data import ImageSet
from hiercnn.errors import HierCNNError
from hiercnn.report._evaluations import Evaluation

SIDE = 64  # pixels at most; smaller images stay as they are
RIGHT = 5  # every fifth picture is of a right answer
ACROSS = 16  # pictures in a row, and rows on a sheet


class Gallery(NamedTuple):
    """Sheets of pictures.

    Attributes:
        side: Of a picture, in pixels.
        sheets: WebP files in base64, 16 × 16 pictures each.
        numbers: {id of an image: number of its picture}.
        unreadable: Images that were wanted and could not be opened.
    """

    side: int
    sheets: list[str]
    numbers: dict[str, int]
    unreadable: int


def gallery(images: Mapping[str, ImageSet], wanted: Iterable[str]) -> Gallery:
    """Pictures of the images of these ids, as far as a split has them, each once."""
    places = {name: (split, index) for split in images.values() for index, name in enumerate(split.ids)}
    pictures, numbers, unreadable = [], {}, 0
    for name in dict.fromkeys(wanted):
        if name in places:
            split, index = places[name]
            try:
                pictures.append(_picture(split.fetch(index)))
                numbers[name] = len(pictures) - 1
            except HierCNNError:
                unreadable += 1
    side = min(SIDE, max((max(picture.size) for picture in pictures), default=SIDE))
    per_sheet = ACROSS * ACROSS
    sheets = [_sheet(pictures[start : start + per_sheet], side) for start in range(0, len(pictures), per_sheet)]
    return Gallery(side, sheets, numbers, unreadable)


def chosen(evaluations: Sequence[Evaluation], budget: int) -> list[str]:
    """Ids of the images to show: errors first, one of every pair of classes before the second of any, and
    among them right answers of every class.

    Evaluations of the same images take turns.
    """
    orders = [_in_turn(one) for one in evaluations if one.ids is not None]
    found: dict[str, None] = {}
    for row in range(max(map(len, orders), default=0)):
        for order in orders:
            if row < len(order):
                found.setdefault(order[row])
        if len(found) >= budget:
            break
    return list(found)[:budget]


def _in_turn(one: Evaluation) -> list[str]:
    """All ids of an evaluation, the most useful first."""
    wrong = one.labels != one.predicted
    by_pair = np.lexsort((-one.confidence, one.predicted, one.labels))  # within a pair the surest first
    pairs = np.stack([one.labels, one.predicted], 1)[by_pair]
    first = np.ones(len(pairs), dtype=bool)
    first[1:] = (pairs[1:] != pairs[:-1]).any(1)
    starts = np.maximum.accumulate(np.where(first, np.arange(len(pairs)), 0))
    turn = np.empty(len(pairs))
    turn[by_pair] = np.arange(len(pairs)) - starts
    turn += np.random.default_rng(0).random(len(turn))  # pairs of one turn in no order, lest the first classes take all
    errors, right = (some[np.argsort(turn[some])] for some in (np.flatnonzero(wrong), np.flatnonzero(~wrong)))
    together = np.concatenate([errors, right])
    due = np.concatenate([np.arange(len(errors)) * RIGHT / (RIGHT - 1), np.arange(len(right)) * float(RIGHT)])
    return [one.ids[index] for index in together[np.argsort(due, kind="stable")]]


def _picture(image):
    """A PIL image in RGB, no larger than a picture on the sheet."""
    from PIL import Image, ImageOps

    if isinstance(image, torch.Tensor):
        pixels = image.numpy()
        pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].repeat(3, 0)
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image = image.convert("RGB")
    side = min(SIDE, max(image.size))
    return image if image.size == (side, side) else ImageOps.fit(image, (side, side))


def _sheet(pictures: list, side: int) -> str:
    from PIL import Image

    sheet = Image.new("RGB", (ACROSS * side, -(-len(pictures) // ACROSS) * side))
    for number, picture in enumerate(pictures):
        picture = picture if picture.size == (side, side) else picture.resize((side, side))
        sheet.paste(picture, (number % ACROSS * side, number // ACROSS * side))
    file = io.BytesIO()
    sheet.save(file, "webp", quality=82)
    return base64.b64encode(file.getvalue()).decode()
