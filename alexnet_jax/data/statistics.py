"""Mean image and colour covariance of the training images (§2, §4.1)."""

import os
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import grain
import numpy as np
from tqdm import tqdm

from alexnet_jax.data.files import arrays_of, read_file, replaced
from alexnet_jax.data.images import Source
from alexnet_jax.data.preprocess import Square
from alexnet_jax.errors import ImageError, InputError

CHUNK = 32  # images that a thread adds up at a time
_NOT_STATISTICS = OSError, ValueError, TypeError, KeyError, MemoryError


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of all training images, before any crop.

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
        with replaced(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Read the file that `save` wrote."""
        try:
            arrays = arrays_of(read_file(path))
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
        except _NOT_STATISTICS as error:
            raise InputError(
                f"{path}: not a file of statistics ({error}); delete it and train again"
            ) from None


@dataclass(eq=False)
class Sums:
    """Sums over images; being whole numbers, they do not depend on the order.

    Attributes:
        count: number of images.
        image: S×S×3 int64, sum of the pixels.
        products: 3×3 int64, sum over all pixels of the products of two colours.
    """

    count: int
    image: np.ndarray
    products: np.ndarray

    @classmethod
    def none(cls, size: int) -> "Sums":
        """The sums over no image, of `size` pixels a side."""
        return cls(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

    def add(self, image: np.ndarray) -> None:
        """Add an image, S×S×3 uint8."""
        self.count += 1
        self.image += image
        # Colour by colour; 32 bits are enough for a row of 66,000 pixels.
        colours = image.transpose(2, 0, 1).astype(np.uint32, order="C")
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
        """Mean image and colour covariance; at least one image must have been added."""
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


@dataclass(frozen=True)
class _AddUp(grain.transforms.Map):
    """Number of a chunk → sums over its images, and the unreadable ones."""

    source: Source
    square: Square

    def map(self, chunk: int) -> dict[str, Any]:
        sums = Sums.none(self.square.size)
        unreadable = []
        rows = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.source)))
        for i in rows:
            try:
                sums.add(self.square.pixels(self.source[i]))
            except ImageError as error:
                unreadable.append((i, str(error)))
        return {"seen": len(rows), "sums": sums, "unreadable": unreadable}


def survey(
    source: Source, square: Square, *, progress: bool
) -> tuple[Statistics, list[tuple[int, str]]]:
    """Read every training image once, on all cores.

    Returns:
        The statistics, and (index, message) of every image that cannot be decoded, and
        is left out.
    """
    sums = Sums.none(square.size)
    unreadable: list[tuple[int, str]] = []
    chunks = grain.MapDataset.range(-(-len(source) // CHUNK))
    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    added = iter(chunks.map(_AddUp(source, square)).to_iter_dataset(options))
    disable = None if progress else True  # None: not in a pipe
    bar = tqdm(total=len(source), unit=" images", desc="statistics", disable=disable)
    with bar, closing(added):
        for chunk in added:
            sums += chunk["sums"]
            unreadable += chunk["unreadable"]
            bar.update(chunk["seen"])
    if not sums.count:
        reason = f"; {unreadable[0][1]}" if unreadable else ""
        raise InputError(f"none of {len(source)} images can be decoded{reason}")
    return sums.statistics(), unreadable
