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
from alexnet_jax.data.sources import Source
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


@dataclass(frozen=True)
class _SumUp:
    """Sums over one chunk of pictures, in whole numbers and so in any order."""

    source: Source
    size: int

    def __call__(self, chunk: int) -> dict:
        image = np.zeros((self.size, self.size, 3), np.int64)
        products = np.zeros((3, 3))  # float64 is exact up to 2⁵³: 2 million pictures
        unreadable = []
        start = chunk * CHUNK
        indices = range(start, min(start + CHUNK, len(self.source)))
        for i in indices:
            try:
                picture = pixels(self.source[i], self.size)
            except PictureError as error:
                unreadable.append((i, str(error)))
                continue
            image += picture
            colours = picture.reshape(-1, 3).astype(np.float64)
            products += colours.T @ colours
        return {
            "count": len(indices),
            "image": image,
            "products": products.astype(np.int64),
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
    image = np.zeros((size, size, 3), np.int64)
    products = np.zeros((3, 3), np.int64)
    unreadable: list[tuple[int, str]] = []
    chunks = grain.MapDataset.range(-(-len(source) // CHUNK)).map(_SumUp(source, size))
    threads = 1 if workers else os.cpu_count() or 1
    bar = tqdm(
        total=len(source), unit=" pictures", desc="statistics", disable=not progress
    )
    with bar, closing(in_background(chunks, workers, threads)) as sums:
        for chunk in sums:
            image += chunk["image"]
            products += chunk["products"]
            unreadable += chunk["unreadable"]
            bar.update(chunk["count"])
    count = len(source) - len(unreadable)
    if not count:
        reason = f"; {unreadable[0][1]}" if unreadable else ""
        raise InputError(f"none of {len(source)} pictures can be decoded{reason}")
    stddev, axes = _principal(image.sum((0, 1)), products, count * size * size)
    mean = (image / count).astype(np.float32)
    return Statistics(mean, stddev, axes), unreadable


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
