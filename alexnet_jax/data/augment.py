"""What varies when a picture is shown again: crop, reflection, colour (§4.1).

Everything is drawn from the picture's position in the stream of training pictures,
so that a run gives the same batches with any number of workers and after any restart.
"""

import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from alexnet_jax.errors import InputError

GEOMETRY, COLOUR = 1, 2  # streams of random numbers, the second word of the Philox key

_thread = threading.local()  # each has a generator of its own
_NOTHING_DRAWN = np.zeros(4, np.uint64)


@dataclass(frozen=True)
class Augmentation:
    """Random crops and reflections, and noise along the principal colours (§4.1).

    The paper is silent on, or differs from, what its code did: facts.md section 6.

    Attributes:
        seed: of both streams of random numbers, 0 or more.
        crop: side of the crop in pixels.
        offsets: positions of the crop along each axis. Of a 256-pixel picture the
            paper's 2048 variants are 32×32×2, with offsets 0…31; its code took 33.
        chunk: this many consecutive pictures share crop and reflection (code: 32).
        reflect: whether half of the pictures are mirrored.
        noise: standard deviations of colour noise for each one in the data (0.1).
        noise_until: position in the stream from which there is no colour noise.
        noise_divisor: noisy pixels are divided by it, after the mean was subtracted
            (code: 1.1).
        color_stddev: standard deviations along the principal axes, in grey levels.
        color_axes: 3×3; the columns are the principal axes in RGB.
    """

    seed: int
    crop: int
    offsets: int
    chunk: int
    reflect: bool
    noise: float
    noise_until: int
    noise_divisor: float
    color_stddev: tuple[float, float, float]
    color_axes: tuple[tuple[float, float, float], ...]

    def __call__(
        self, index: int, pixels: np.ndarray
    ) -> dict[str, np.ndarray | np.generic]:
        """Augment the picture at a position of the training stream.

        Args:
            index: the position, from 0.
            pixels: S×S×3 uint8.

        Returns:
            image: crop×crop×3 uint8, *not* yet mirrored: NumPy's mirror would limit the
                whole input path, on the device it is free.
            crop: int32 (y, x), where the crop lies in the picture.
            flip: bool, whether to mirror it left to right.
            colour_offset: float32 RGB, to be added to every pixel, in grey levels.
            scale: float32, to multiply the mean-free and noisy pixels by.

        Raises:
            InputError: the crop does not fit at every offset.
        """
        spare = len(pixels) - self.crop + 1 - self.offsets
        if spare < 0:
            raise InputError(
                f"augment.offsets={self.offsets}: a crop of {self.crop} pixels has "
                f"{max(len(pixels) - self.crop + 1, 0)} positions in {len(pixels)}; "
                "give as many or fewer"
            )
        uniform = self._random(GEOMETRY, index // self.chunk).random(3)
        y, x = (int(u * self.offsets) + spare // 2 for u in uniform[:2])
        flip = self.reflect and uniform[2] < 0.5
        noisy = index < self.noise_until
        return {
            "image": pixels[y : y + self.crop, x : x + self.crop],
            "crop": np.array([y, x], np.int32),
            "flip": np.bool_(flip),
            "colour_offset": self._colour_offset(index) if noisy else np.zeros(3, "f4"),
            "scale": np.float32(1 / self.noise_divisor if noisy else 1),
        }

    def _colour_offset(self, index: int) -> np.ndarray:
        normal = self._random(COLOUR, index).standard_normal(3)
        return (self._rotation @ normal).astype(np.float32)

    @cached_property
    def _rotation(self) -> np.ndarray:
        # Standard deviations, where the paper's formula has eigenvalues: with those
        # the noise would be ±1483 grey levels (facts.md 0.4).
        return self.noise * np.array(self.color_axes) * np.array(self.color_stddev)

    def _random(self, stream: int, position: int) -> np.random.Generator:
        # A counter, not a seed: positions cannot collide. What is drawn advances its
        # first word. To set a generator anew takes a fifth of the time of a new one.
        if not hasattr(_thread, "generator"):
            _thread.generator = np.random.Generator(np.random.Philox(0))
        _thread.generator.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {
                "counter": np.array((0, position, 0, 0), np.uint64),
                "key": np.array((self.seed, stream), np.uint64),
            },
            "buffer": _NOTHING_DRAWN,
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        return _thread.generator
