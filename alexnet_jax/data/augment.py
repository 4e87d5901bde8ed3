"""Random crop, reflection and colour of each showing of an image (§4.1).

All random numbers follow from the image's position in the stream of training images, so
that a run has the same batches with any number of threads and after any restart.
"""

from dataclasses import dataclass

import numpy as np

from alexnet_jax.errors import InputError

GEOMETRY, COLOUR = 1, 2  # streams of random numbers, the second word of the Philox key


@dataclass(frozen=True)
class Augmentation:
    """Random crops and reflections, and noise along the principal colours (§4.1).

    docs/differences.md has the sources of what the 2012 code did otherwise ('code').

    Attributes:
        seed: of both streams of random numbers, 0 or more.
        crop: side of the crop in pixels.
        offsets: positions of the crop along each axis, in the middle of those possible.
            In 256 pixels the paper's 2048 variants are 32×32×2; code: 33.
        chunk: this many consecutive images share crop and reflection (code: 32).
        reflect: whether half of the images are mirrored.
        noise: standard deviation of the colour noise, relative to that of the data.
        noise_until: position in the stream from which there is no colour noise.
        noise_divisor: divides noisy pixels, from which the mean was subtracted before
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

    def draw(self, first: int, count: int, side: int) -> dict[str, np.ndarray]:
        """Draw for n consecutive images of the stream.

        Args:
            first: the position of the first one, from 0.
            count: n.
            side: of the images, in pixels.

        Returns:
            crop: int32 (n, 2), y and x of the crop's corner in the image.
            flip: bool (n), whether to mirror it left to right.
            colour_offset: float32 (n, 3), added to red, green and blue of every pixel,
                in grey levels.
            scale: float32 (n), by which noisy pixels without the mean are multiplied.
        """
        spare = side - self.crop + 1 - self.offsets
        if spare < 0:
            raise InputError(
                f"augment.offsets={self.offsets}: a crop of {self.crop} pixels has "
                f"{max(side - self.crop + 1, 0)} positions in {side}; "
                "give as many or fewer"
            )
        positions = np.arange(first, first + count)
        noisy = positions < self.noise_until
        chunks = positions // self.chunk
        of_chunks = self._uniform(GEOMETRY, chunks[0], chunks[-1] + 1)
        y, x, reflected, _ = of_chunks[:, chunks - chunks[0]]
        corner = np.column_stack([y, x]) * self.offsets
        offset = self._colour_offset(first, first + count)
        return {
            "crop": corner.astype(np.int32) + spare // 2,
            "flip": self.reflect & (reflected < 0.5),
            "colour_offset": np.where(noisy[:, None], offset, 0).astype(np.float32),
            "scale": np.where(noisy, 1 / self.noise_divisor, 1).astype(np.float32),
        }

    def _colour_offset(self, start: int, stop: int) -> np.ndarray:
        a, b, c, d = self._uniform(COLOUR, start, stop)
        # Box and Muller's normal numbers, two from two; a < 1, so that log is finite.
        one, other = np.sqrt(-2 * np.log1p(-a)), np.sqrt(-2 * np.log1p(-c))
        b, d = 2 * np.pi * b, 2 * np.pi * d
        normal = np.column_stack([one * np.cos(b), one * np.sin(b), other * np.cos(d)])
        # The paper's formula has eigenvalues, the variances: with those the noise would
        # be ±1483 grey levels. The 2012 code has their square roots.
        along = normal * (self.noise * np.array(self.color_stddev))
        # No matrix product: its last bit may depend on the number of rows.
        return (along[:, None] * np.array(self.color_axes)).sum(-1)

    def _uniform(self, stream: int, start: int, stop: int) -> np.ndarray:
        """Four numbers in [0, 1) for each position of a stream: 4×(stop − start)."""
        # Philox's counter is the position, its block of 256 bits these four numbers:
        # they are the same wherever one starts.
        key = np.array((self.seed, stream), np.uint64)
        philox = np.random.Philox(key=key, counter=int(start))
        numbers = np.random.Generator(philox).random((int(stop - start), 4))
        return np.ascontiguousarray(numbers.T)
