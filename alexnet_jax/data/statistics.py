"""What is subtracted and what is added: the mean image and the colour covariance."""

import os
import zipfile
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

import grain
import numpy as np
from tqdm import tqdm

from alexnet_jax.data.background import in_background
from alexnet_jax.data.preprocess import pixels
from alexnet_jax.data.record import Source
from alexnet_jax.errors import InputError, PictureError

CHUNK = 32  # pictures that a worker sums up before it reports


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
                return cls(**{f.name: arrays[f.name] for f in fields(cls)})
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; training writes it") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
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


@dataclass(frozen=True)
class _SumUp:
    """Sums over one chunk of pictures."""

    source: Source
    size: int

    def __call__(self, chunk: int) -> dict:
        sums = Sums.none(self.size)
        unreadable = []
        start = chunk * CHUNK
        indices = range(start, min(start + CHUNK, len(self.source)))
        for i in indices:
            try:
                sums.add(pixels(self.source[i], self.size))
            except PictureError as error:
                unreadable.append((i, str(error)))
        # grain would take a list or a dataclass apart.
        return {
            "looked_at": len(indices),
            "count": sums.count,
            "image": sums.image,
            "products": sums.products,
            "unreadable": unreadable,
        }


def survey(
    source: Source, size: int, *, workers: int, progress: bool
) -> tuple[Statistics, list[tuple[int, str]]]:
    """Look once at every training picture.

    The sums are whole numbers: the result is the same, bit for bit, for any workers.

    Args:
        source: the training pictures.
        size: side of the squares they are brought to, in pixels.
        workers: processes to decode in; 0 takes threads of this one.
        progress: whether to show a bar on stderr.

    Returns:
        The statistics, and (index, message) of every picture that cannot be decoded,
        which are left out of them.

    Raises:
        InputError: no picture can be decoded.
    """
    sums = Sums.none(size)
    unreadable: list[tuple[int, str]] = []
    chunks = grain.MapDataset.range(-(-len(source) // CHUNK)).map(_SumUp(source, size))
    threads = 1 if workers else os.cpu_count() or 1
    bar = tqdm(
        total=len(source), unit=" pictures", desc="statistics", disable=not progress
    )
    with bar, closing(in_background(chunks, workers, threads)) as summed:
        for chunk in summed:
            sums += Sums(chunk["count"], chunk["image"], chunk["products"])
            unreadable += chunk["unreadable"]
            bar.update(chunk["looked_at"])
    if not sums.count:
        reason = f"; {unreadable[0][1]}" if unreadable else ""
        raise InputError(f"none of {len(source)} pictures can be decoded{reason}")
    return sums.statistics(), unreadable


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
