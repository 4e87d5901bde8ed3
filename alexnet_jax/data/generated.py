"""Ten classes of drawn images: a data set that needs no file and no download.

Each image shows one object (a ring, a star, a striped patch …) of any colour, size,
angle and place, on a blotchy ground among lines and spots. Neither a pixel nor the
mean colour reveals the class, so a linear model fails where a convolutional network
learns in minutes. Mirroring keeps the class.

An image depends on (seed, role, index, size) alone: random numbers come from Philox
counters, and pixels from +, −, ×, ÷ and √ in float32, which round alike on every IEEE
machine.
"""

import math

import numpy as np
from PIL import Image

from alexnet_jax.errors import InputError

ROLES = ("train", "validation")  # the position is the second word of the Philox key
# No object reaches further from the centre, in half sides of the image: a crop of 8/9
# of the side (64 of 72 in configs/quickstart.py) keeps ±7/9 wherever it falls.
REACH = 7 / 9
KEPT_BYTES = 1 << 28  # smaller sets are kept in memory: drawing takes 1 ms an image
CONTRAST = 0.35  # least difference of object and ground in each of R, G and B, 0 to 1

# Signed distances, negative inside: shapes fill the unit circle, textures the plane.


def _length(x, y):
    return np.sqrt(x * x + y * y)


def _star(x, y):
    """The points behind at least four of a pentagram's five lines."""
    angles = [math.tau * k / 5 for k in range(5)]
    lines = np.stack([math.sin(a) * x + math.cos(a) * y for a in angles])
    return np.partition(lines, 3, axis=0)[3] - 0.305


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.95, np.minimum(x, y) - 0.25)


def _repeat(x):
    """Fold a line onto one period, -0.28 to 0.28: a square holds two and a half."""
    return x - 0.56 * np.floor(x / 0.56 + 0.5)


def _stripes(x, y):
    return np.abs(_repeat(y)) - 0.14


def _checker(x, y):
    x, y = _stripes(y, x), _stripes(x, y)
    return np.maximum(np.minimum(x, y), -np.maximum(x, y))  # in one of them, not both


SHAPES = {
    "disc": lambda x, y: _length(x, y) - 0.95,
    "ring": lambda x, y: np.abs(_length(x, y) - 0.74) - 0.21,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.7,
    "triangle": lambda x, y: np.maximum(0.75**0.5 * np.abs(x) + y / 2, -y) - 0.5,
    "star": _star,
    "cross": _cross,
    "crescent": lambda x, y: np.maximum(
        _length(x, y) - 0.95, 0.78 - _length(x - 0.45, y)
    ),
}
TEXTURES = {
    "stripes": _stripes,
    "checker": _checker,
    "dots": lambda x, y: _length(_repeat(x), _repeat(y)) - 0.17,
}


class Generated:
    """Drawn images, each drawn when it is first read."""

    classes = (*SHAPES, *TEXTURES)
    names = ()

    def __init__(self, count: int, size: int, seed: int, role: str):
        """Choose the images; nothing is drawn yet.

        Args:
            count: number of images; labels cycle through the ten classes.
            size: side of the square images in pixels, at least 32.
            seed: of the images, 0 or more.
            role: 'train' or 'validation', two streams without a common image.
        """
        if role not in ROLES:
            raise InputError(f"generated images: no {role!r} split, only {ROLES}")
        if count < len(self.classes):
            raise InputError(
                f"dataset.{role}: {count} generated images, "
                f"{len(self.classes)} or more are needed, one of each class"
            )
        if size < 32:
            raise InputError(
                f"dataset.image_size: {size} pixels, generated images need 32 or more"
            )
        self.count, self.size, self.seed, self.role = count, size, seed, role
        self._drawn: dict[int, np.ndarray] = {}

    def __len__(self):
        return self.count

    @property
    def labels(self) -> np.ndarray:
        """Integers, one an image."""
        return np.arange(self.count) % len(self.classes)

    def __getitem__(self, i: int) -> tuple[str, np.ndarray, int]:
        """Name, size×size×3 uint8 pixels and label of image i."""
        i = range(self.count)[i]
        label = i % len(self.classes)
        image = self._drawn.get(i)
        if image is None:
            key = (self.seed, ROLES.index(self.role))
            rng = np.random.Generator(np.random.Philox(key=key, counter=(0, 0, 0, i)))
            image = draw(rng, self.classes[label], self.size)
            image.flags.writeable = False
            if self.count * image.nbytes <= KEPT_BYTES:
                self._drawn[i] = image
        return f"generated/{self.role}/{i:06d}", image, label


def draw(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """One image of a class, size×size×3 uint8."""
    colour = rng.random(3)
    canvas = _blotches(rng, colour, size)
    for _ in range(3 + int(6 * rng.random())):
        _clutter(rng, canvas, thickest=0.08)
    # Each channel is shifted, modulo 1: far from the ground, yet as evenly distributed,
    # so that no colour is more often an object's.
    colour = (colour + CONTRAST + (1 - 2 * CONTRAST) * rng.random(3)) % 1
    _object(rng, canvas, name, _blotches(rng, colour, size))
    for _ in range(int(3 * rng.random())):
        _clutter(rng, canvas, thickest=0.03)
    # The only draws whose number depends on the size come last.
    grain = rng.random(canvas.shape, np.float32) - 0.5
    return np.clip(canvas + 24 * grain, 0, 255).astype(np.uint8)


def _object(rng, canvas, name, paint):
    """Draw the object of the class, within REACH."""
    scale, across, down, turn, aspect, patch = rng.random(6).tolist()
    scale, aspect = (
        0.5 + 0.22 * scale,
        0.8 + 0.2 * aspect,
    )  # seen slightly from the side
    across, down = ((REACH - scale) * (2 * v - 1) for v in (across, down))
    cos, sin = math.cos(math.tau * turn), math.sin(math.tau * turn)
    box, x, y = _window(canvas, across, down, scale)
    x, y = (cos * x + sin * y) / scale, (cos * y - sin * x) / (aspect * scale)
    if name in SHAPES:
        distance = SHAPES[name](x, y)
    else:  # a texture fills a disc or a square: the outline does not reveal the class
        outline = SHAPES["disc" if patch < 0.5 else "square"]
        distance = np.maximum(TEXTURES[name](x, y), outline(x, y))
    _blend(canvas, box, distance * aspect * scale, paint[box])


def _clutter(rng, canvas, thickest):
    """Draw one line or, as often, one spot, anywhere and of any colour."""
    across, down, along, up, thick, line = rng.random(6).tolist()
    across, down, thick = 2 * across - 1, 2 * down - 1, 0.015 + thick * thickest
    along, up = (0.4 * (v - 0.5) * (line < 0.5) for v in (along, up))
    box, x, y = _window(canvas, across, down, max(abs(along), abs(up)) + thick)
    # A capsule about the segment from −(along, up) to (along, up).
    nearest = np.clip((x * along + y * up) / (along**2 + up**2 + 1e-9), -1, 1)
    distance = _length(x - nearest * along, y - nearest * up) - thick
    _blend(canvas, box, distance, 255 * rng.random(3, np.float32))


def _blotches(rng, colour, size):
    """A size×size×3 float32 field, 0 to 255, that varies slowly around a colour."""
    coarse = colour + 0.25 * (rng.random((4, 4, 3)) - 0.5)
    coarse = Image.fromarray(np.clip(256 * coarse, 0, 255).astype(np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)


def _window(canvas, across, down, reach):
    """The part of a canvas about a point, and its pixels' x and y from that point."""
    size = len(canvas)
    pixels = np.arange(size, dtype=np.float32) + 0.5
    box, offsets = [], []
    for centre in (down + 1, across + 1):
        first = max(math.floor((centre - reach) / 2 * size) - 1, 0)
        end = math.ceil((centre + reach) / 2 * size) + 1
        box.append(slice(first, end))
        offsets.append(pixels[first:end] * (2 / size) - centre)
    return tuple(box), offsets[1][None, :], offsets[0][:, None]


def _blend(canvas, box, distance, colour):
    """Lay a colour over a window, its edge softened over one pixel."""
    cover = np.clip(0.5 - distance * (len(canvas) / 2), 0, 1)
    canvas[box] += cover[..., None] * (colour - canvas[box])
