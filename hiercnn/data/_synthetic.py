"""Small pictures whose 36 classes form a known tree: silhouette, shape, fill.

The tree follows what a convolutional network can see at each depth. A family is a coarse silhouette, a shape is one outline of that
family, and a leaf adds the fill, whose period is a few pixels. Colour, place, turn, size, light and clutter are drawn alike for every
class, so only outline and fill tell classes apart. Whatever the image size, lengths are in units where the image spans [-1, 1].

Letters in shapes: M images drawn together, H = W = size. Every per-image number is kept as [M, 1, 1], ready to meet pixels [M, H, W].
"""

from collections.abc import Callable

import numpy as np

from hiercnn.errors import DataError

Array = np.ndarray

_FILLS = ("solid", "striped", "dotted", "checked")


def _leaves(shape: str) -> list[str]:
    return [f"{shape}_{fill}" for fill in _FILLS]


TREE: dict[str, dict[str, list[str]]] = {
    "round": {shape: _leaves(shape) for shape in ("disc", "ring", "pill")},
    "angular": {shape: _leaves(shape) for shape in ("triangle", "square", "lozenge")},
    "spiky": {shape: _leaves(shape) for shape in ("spark", "star", "burst")},
}
"""Family -> shape -> leaf class names; no name occurs twice among all nodes."""

CLASSES: tuple[str, ...] = tuple(leaf for shapes in TREE.values() for leaves in shapes.values() for leaf in leaves)
"""Leaf names in tree order; a label is an index into this tuple."""

# Difficulty: ranges that `render` draws from, uniformly. Smaller, fainter, finer, more cluttered or noisier is harder.
_RADIUS = (0.48, 0.78)  # of the object; 1 is half the image side
_SHIFT = (-0.2, 0.2)  # of its centre, each axis
_STRETCH = (0.78, 1.30)  # its width over its height; past 1.3 a square begins to pass for a lozenge
_PERIOD = (0.20, 0.31)  # of the fill; 0.25 is four pixels at size 32
_CONTRAST = (0.12, 0.28)  # between neighbours among the three brightness levels: background and two inks
_CHROMA = (0.0, 0.28)  # distance of a colour from grey
_GRADIENT = 0.4  # how much the background changes from the middle to an edge, as a part of the strongest colour
_CLUTTER_SLOTS = 2  # segments and blobs under the object, and as many over it
_CLUTTER_CHANCE = 0.5  # that a slot is used
_CLUTTER_WIDTH = (0.04, 0.10)  # half the width of a segment; a blob is twice as thick
_GAIN = (0.75, 1.2)  # of the light
_SHADE = (0.0, 0.25)  # how much the light changes from the middle to an edge
_NOISE = (0.02, 0.08)  # standard deviation of pixel noise; the full range is 1

_MIN_SIZE = 16  # below it the finest fill has a period under two pixels
_CHUNK_PIXELS = 2**18  # one float32 plane of a chunk is 1 MiB


def render(count_per_class: int, seed: int, size: int = 32) -> tuple[Array, Array]:
    """Draw the data set: the same number of pictures of each class, sorted by class.

    Equal arguments give equal bits on one platform. A smaller count is not a prefix of a larger one.

    Args:
        count_per_class: Images of each class, at least 1.
        seed: Seed of all randomness, at least 0.
        size: Height and width in pixels, at least 16.

    Returns:
        Images [n, 3, size, size], uint8, and labels [n], int64, which index `CLASSES`; n = count_per_class * 36.

    Raises:
        DataError: If an argument is not a whole number or is too small.
    """
    _check_at_least("count_per_class", count_per_class, 1, "ask for one image a class or more")
    _check_at_least("seed", seed, 0, "use a non-negative seed")
    _check_at_least("size", size, _MIN_SIZE, "smaller images cannot show the fills")
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(CLASSES), dtype=np.int64), count_per_class)
    images = np.empty((len(labels), 3, size, size), np.uint8)
    chunk = max(1, _CHUNK_PIXELS // size**2)
    for label, name in enumerate(CLASSES):
        of_class = images[label * count_per_class : (label + 1) * count_per_class]
        for start in range(0, count_per_class, chunk):
            part = of_class[start : start + chunk]
            part[:] = _draw(rng, name, len(part), size)
    return images, labels


def _check_at_least(name: str, value: int, least: int, advice: str) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise DataError(f"{name} must be a whole number >= {least}, got {value!r}; {advice}")


def _draw(rng: np.random.Generator, name: str, m: int, size: int) -> Array:
    """Pictures [M, 3, H, W], uint8, of the class called `name`."""
    shape, fill = name.rsplit("_", 1)
    x, y = _grid(size)
    ground, ink, second_ink = _palette(rng, m)
    picture = _background(rng, ground, x, y)
    _clutter(rng, picture, x, y)
    object_mask = _object_mask(rng, shape, m, x, y)
    second_mask = object_mask * _second_ink_mask(rng, fill, m, x, y)
    _paint(picture, object_mask, ink)
    # Painting the second ink through its own mask would let the first shine through on the outline: add their difference instead.
    picture += second_mask[:, None] * (second_ink - ink)
    _clutter(rng, picture, x, y)
    return _expose(rng, picture, x, y)


def _grid(size: int) -> tuple[Array, Array]:
    """Pixel centres: x [1, 1, W] to the right and y [1, H, 1] downwards, both within (-1, 1)."""
    at = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1).astype(np.float32)
    return at[None, None, :], at[None, :, None]


def _uniform(rng: np.random.Generator, m: int, bounds: tuple[float, float]) -> Array:
    """One number for each image [M, 1, 1], float32."""
    low, high = bounds
    return (low + (high - low) * rng.random((m, 1, 1), dtype=np.float32)).astype(np.float32)


def _turned(rng: np.random.Generator, m: int, x: Array, y: Array) -> tuple[Array, Array]:
    """Coordinates [M, H, W] after a random turn of each image."""
    angle = _uniform(rng, m, (0, 2 * np.pi))
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


# --- Colour ---------------------------------------------------------------------------------------------------------------------------


def _palette(rng: np.random.Generator, m: int) -> tuple[Array, Array, Array]:
    """Three colours [M, 3, 1, 1] of distinct brightness.

    Which of the three is the darkest is random. The three are exchangeable, so the expected colour of a pixel does not depend on
    the class, however much of the image its object or its second ink covers.
    """
    step = _uniform(rng, m, _CONTRAST) * rng.permuted(np.tile(np.array([-1, 0, 1], np.float32), (m, 1)), axis=1)[:, :, None]
    return tuple(_tint(rng, 0.5 + step[:, i : i + 1]) for i in range(3))


def _tint(rng: np.random.Generator, brightness: Array) -> Array:
    """A colour [M, 3, 1, 1] of random hue; its channels' mean is `brightness` [M, 1, 1]."""
    m = len(brightness)
    hue, chroma = _uniform(rng, m, (0, 2 * np.pi)), _uniform(rng, m, _CHROMA)
    thirds = np.array([0, 2 * np.pi / 3, 4 * np.pi / 3], np.float32).reshape(1, 3, 1)  # red, green, blue on the colour wheel
    return (brightness + chroma * np.cos(hue + thirds))[..., None]


def _paint(picture: Array, mask: Array, colour: Array) -> None:
    """Blend `colour` [M, 3, 1, 1] into `picture` [M, 3, H, W], in place, where `mask` [M, H, W] is 1."""
    picture += mask[:, None] * (colour - picture)


# --- Scene ----------------------------------------------------------------------------------------------------------------------------


def _background(rng: np.random.Generator, colour: Array, x: Array, y: Array) -> Array:
    """A straight gradient [M, 3, H, W] around `colour` [M, 3, 1, 1]."""
    along, _ = _turned(rng, len(colour), x, y)
    slope = _GRADIENT * _tint(rng, _uniform(rng, len(colour), (-0.08, 0.08)))
    return colour + along[:, None] * slope


def _clutter(rng: np.random.Generator, picture: Array, x: Array, y: Array) -> None:
    """Paint a few segments and blobs of random colour over `picture` [M, 3, H, W], in place."""
    m = len(picture)
    for _ in range(_CLUTTER_SLOTS):
        used = _uniform(rng, m, (0, 1)) < _CLUTTER_CHANCE
        colour = _tint(rng, _uniform(rng, m, (0.2, 0.8)))
        _paint(picture, used * _mark_mask(rng, m, x, y), colour)


def _mark_mask(rng: np.random.Generator, m: int, x: Array, y: Array) -> Array:
    """Coverage [M, H, W] of one mark an image: a segment, or (one time in two) a blob, which is a thick segment of no length."""
    is_blob = _uniform(rng, m, (0, 1)) < 0.5
    length = np.where(is_blob, np.float32(0), _uniform(rng, m, (0.15, 0.5)))
    width = _uniform(rng, m, _CLUTTER_WIDTH) * np.where(is_blob, np.float32(2), np.float32(1))
    u, v = _turned(rng, m, x - _uniform(rng, m, (-1, 1)), y - _uniform(rng, m, (-1, 1)))
    return _coverage(_segment(u, v, length) - width, x.size)


def _expose(rng: np.random.Generator, picture: Array, x: Array, y: Array) -> Array:
    """Light the scene unevenly, add noise, and round to uint8 [M, 3, H, W]."""
    m, size = len(picture), x.size
    along, _ = _turned(rng, m, x, y)
    light = _uniform(rng, m, _GAIN) * (1 + _uniform(rng, m, _SHADE) * along)
    noise = rng.standard_normal((m, 3, size, size), dtype=np.float32) * _uniform(rng, m, _NOISE)[..., None]
    exposed = picture * light[:, None] + noise
    return (exposed.clip(0, 1) * 255 + 0.5).astype(np.uint8)


# --- Outlines: signed distances, negative inside --------------------------------------------------------------------------------------


def _coverage(distance: Array, size: int) -> Array:
    """Part of each pixel inside an outline [M, H, W], from the signed distance of its centre: a ramp one pixel (2 / size) wide."""
    return (0.5 - distance * (size / 2)).clip(0, 1)


def _object_mask(rng: np.random.Generator, shape: str, m: int, x: Array, y: Array) -> Array:
    """Coverage [M, H, W] of the object, randomly placed, turned, sized and stretched."""
    radius, stretch = _uniform(rng, m, _RADIUS), np.sqrt(_uniform(rng, m, _STRETCH))
    u, v = _turned(rng, m, x - _uniform(rng, m, _SHIFT), y - _uniform(rng, m, _SHIFT))
    distance = _OUTLINES[shape](u / (radius * stretch), v * stretch / radius)
    return _coverage(distance * radius, x.size)


def _segment(x: Array, y: Array, half_length: Array | float) -> Array:
    """Distance from the piece of the x axis within `half_length` of the origin."""
    return np.hypot((np.abs(x) - half_length).clip(0), y)


def _star(x: Array, y: Array, points: int, inner: float) -> Array:
    """Signed distance from the lines that bound a star with tips at radius 1 and notches at radius `inner`.

    Symmetry folds the plane into one wedge of half a tip, where the outline is the straight line from the tip to the notch.
    """
    half = np.float32(np.pi / points)
    angle = np.abs(np.mod(np.arctan2(y, x) + half, 2 * half) - half)  # 0 at a tip, `half` at a notch
    radius = np.hypot(x, y)
    dx, dy = float(inner * np.cos(half)) - 1, float(inner * np.sin(half))
    normal_x, normal_y = dy / np.hypot(dx, dy), -dx / np.hypot(dx, dy)
    return radius * (np.cos(angle) * np.float32(normal_x) + np.sin(angle) * np.float32(normal_y)) - np.float32(normal_x)


def _polygon(x: Array, y: Array, corners: int) -> Array:
    """A star whose notches lie on the straight line between tips."""
    return _star(x, y, corners, float(np.cos(np.pi / corners)))


# Each outline is sized so that the areas do not differ more than the random radius makes them.
_OUTLINES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda x, y: np.hypot(x, y) - 0.88,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.70) - 0.28,
    "pill": lambda x, y: _segment(x, y, 0.55) - 0.52,
    "triangle": lambda x, y: _polygon(x / 1.15, y / 1.15, 3) * 1.15,
    "square": lambda x, y: _polygon(x, y, 4),
    "lozenge": lambda x, y: _polygon(x / 1.25, y / 0.68, 4) * 0.85,
    "spark": lambda x, y: _star(x / 1.3, y / 1.3, 4, 0.36) * 1.3,
    "star": lambda x, y: _star(x / 1.22, y / 1.22, 5, 0.42) * 1.22,
    "burst": lambda x, y: _star(x / 1.15, y / 1.15, 8, 0.55) * 1.15,
}


# --- Fills: where the second ink goes -------------------------------------------------------------------------------------------------


def _second_ink_mask(rng: np.random.Generator, fill: str, m: int, x: Array, y: Array) -> Array:
    """Coverage [M, H, W] of the second ink, with a turn and phase of its own; nothing for a solid fill."""
    period = _uniform(rng, m, _PERIOD)
    u, v = _turned(rng, m, x, y)
    u, v = u / period + _uniform(rng, m, (0, 1)), v / period + _uniform(rng, m, (0, 1))
    return _coverage(_FILL_DISTANCE[fill](u, v) * period, x.size)


def _wave(t: Array) -> Array:
    """Signed distance to the edges of stripes half a period wide, for a period of 1: a triangle wave in [-1/4, 1/4]."""
    return np.abs(t - np.floor(t) - 0.5) - 0.25


def _dots(u: Array, v: Array) -> Array:
    """Signed distance to discs that cover two fifths of the plane, on a square grid of period 1."""
    return np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5) - 0.36


def _checks(u: Array, v: Array) -> Array:
    """Signed distance to the squares of a chessboard with two squares a period each way."""
    a, b = _wave(u), _wave(v)
    return -np.sign(a * b) * np.minimum(np.abs(a), np.abs(b))


_FILL_DISTANCE: dict[str, Callable[[Array, Array], Array]] = {
    "solid": lambda u, v: np.ones_like(u),
    "striped": lambda u, v: _wave(u),
    "dotted": _dots,
    "checked": _checks,
}
