"""What is subtracted and what is added: the mean image and the colour covariance."""

import os
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from alexnet_jax.errors import InputError

# What NumPy raises of a file that is something else.
_NO_STATISTICS = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    ValueError,
    TypeError,
    KeyError,
)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of all training pictures, before any crop.

    Attributes:
        mean_image: S×S×3 float32, in grey levels (§2).
        color_stddev: (3,) float32, standard deviations in grey levels along the
            principal axes of the RGB values of all pixels (§4.1), largest first.
        color_axes: 3×3 float32; column i is the principal axis i.
    """

    mean_image: np.ndarray
    color_stddev: np.ndarray
    color_axes: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write an .npz file, whole or not at all."""
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "wb") as file:
            np.savez(file, **{f.name: getattr(self, f.name) for f in fields(self)})
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        try:
            with open(path, "rb") as file, np.load(file) as arrays:
                read = {f.name: arrays[f.name] for f in fields(cls)}
            side = len(read["mean_image"])
            for name, shape in zip(read, [(side, side, 3), (3,), (3, 3)], strict=True):
                own = read[name]
                numbers = own.shape == shape and own.dtype.kind == "f"
                if not numbers or not np.isfinite(own).all():
                    raise ValueError(f"{name} is not {shape} finite numbers")
            return cls(**read)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; training writes it") from None
        except _NO_STATISTICS as error:
            raise InputError(
                f"{path}: not a file of statistics ({error}); delete it and train again"
            ) from None


@dataclass(eq=False)
class Sums:
    """Sums over pictures, in whole numbers: their order does not matter.

    Attributes:
        count: of the pictures.
        image: S×S×3 int64, sum of the pixels.
        products: 3×3 int64, sum over all pixels of the products of two colours.
    """

    count: int
    image: np.ndarray
    products: np.ndarray

    @classmethod
    def none(cls, size: int) -> "Sums":
        """Of no pictures, of `size` pixels a side."""
        return cls(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

    def add(self, picture: np.ndarray) -> None:
        """Count a picture, S×S×3 uint8."""
        self.count += 1
        self.image += picture
        # Colour by colour; 32 bits are enough for a row of 66,000 pixels.
        colours = picture.transpose(2, 0, 1).astype(np.uint32, order="C")
        for i in range(3):
            for j in range(3):
                rows = np.einsum("yx,yx->y", colours[i], colours[j])
                self.products[i, j] += rows.sum(dtype=np.int64)

    def __iadd__(self, other: "Sums") -> "Sums":
        self.count += other.count
        self.image += other.image
        self.products += other.products
        return self

    def statistics(self) -> Statistics:
        """Mean image and colour covariance of all that was added, one or more."""
        pixels = self.count * self.image.shape[0] * self.image.shape[1]
        stddev, axes = _principal(self.image.sum((0, 1)), self.products, pixels)
        mean = (self.image / self.count).astype(np.float32)
        return Statistics(mean, stddev, axes)


def _principal(
    sums: np.ndarray, products: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations and axes of `count` colours, from their sums."""
    mean = sums / count
    variances, axes = np.linalg.eigh(products / count - np.outer(mean, mean))
    variances, axes = variances[::-1], axes[:, ::-1]  # largest first
    # An axis has two directions: take the one whose largest component is positive.
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, range(3)])
    stddev = np.sqrt(np.maximum(variances, 0))  # rounding may leave −1e−13
    return stddev.astype(np.float32), axes.astype(np.float32)
