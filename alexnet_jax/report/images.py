"""Images of a split, chosen by a fixed rule."""

from collections import Counter
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.images import Source
from alexnet_jax.data.preprocess import Square
from alexnet_jax.errors import ImageError, InputError

CANDIDATES = 50  # records for each image to be chosen


class Example(NamedTuple):
    """A decoded image."""

    row: int  # in its split
    pixels: np.ndarray  # uint8 (S, S, 3)
    label: int


def decoded(source: Source, square: Square, row: int) -> Example:
    """An image of a split."""
    record = source[row]
    return Example(row, square.pixels(record), record[2])


def choose(source: Source, square: Square, count: int, stream: int) -> list[Example]:
    """Random images, the same on every call; a class repeats after all others.

    Args:
        source: the split.
        square: how to decode it.
        count: images wanted; fewer if no more can be decoded.
        stream: of random numbers; another one gives other images.
    """
    order = np.random.Philox(key=stream).random_raw(len(source)).argsort(kind="stable")
    seen: Counter[int] = Counter()
    ranked = []
    for place, row in enumerate(order[: CANDIDATES * count].tolist()):
        with suppress(ImageError):
            label = source[row][2]
            ranked.append((seen[label], place, row))
            seen[label] += 1
    chosen: list[Example] = []
    for *_, row in sorted(ranked):
        if len(chosen) < count:
            with suppress(ImageError):
                chosen.append(decoded(source, square, row))
    if not chosen:
        raise InputError("none of the validation images can be decoded")
    return sorted(chosen, key=lambda example: example.label)
