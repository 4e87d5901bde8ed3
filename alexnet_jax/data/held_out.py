"""A part of the training images, for validation where no others are given."""

import numpy as np
import xxhash

from alexnet_jax.data.images import Labelled, Source, View, relative_names
from alexnet_jax.errors import InputError


def split(source: Source, share: float) -> tuple[Source, Source]:
    """Divide a source into training and held-out images, class by class.

    The hash of its name below the common folder decides for each image (that of its
    index where records have no names). The seed does not matter: networks of several
    seeds, and so their ensemble, have the same held-out images, and most images keep
    their role when others are added.

    Args:
        source: all images.
        share: of each class to hold out, from 0 to 1; at least one image, and never the
            last one.

    Returns:
        The images to train on, and those held out.
    """
    if not isinstance(source, Labelled):
        raise InputError(
            f"dataset.held_out={share}: cannot be taken from a TFDS data set; give two "
            "parts of its split, dataset.train='train[:90%]' and "
            "dataset.validation='train[90%:]'"
        )
    chosen = held_out(source.labels, _hashes(source), share)
    if not chosen.any():
        raise InputError(
            f"dataset.held_out={share}: every class has one image only; add images, or "
            "set dataset.validation"
        )
    return View(source, np.flatnonzero(~chosen)), View(source, np.flatnonzero(chosen))


def held_out(labels: np.ndarray, hashes: np.ndarray, share: float) -> np.ndarray:
    """Whether each record is among the `share` of its class with the lowest hashes."""
    counts = np.bincount(labels)
    wanted = np.minimum(np.maximum(np.rint(share * counts), 1), counts - 1)
    order = np.lexsort((hashes, labels))
    rank = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    chosen = np.empty(len(labels), bool)
    chosen[order] = rank < wanted[labels[order]]
    return chosen


def _hashes(source: Source) -> np.ndarray:
    names = relative_names(source) or map(str, range(len(source)))
    encoded = (name.encode("utf-8", "surrogateescape") for name in names)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, encoded), np.uint64, len(source))
