"""Batches in the background: the same ones, whoever reads them.

Batch s of a run is records s·B … (s+1)·B − 1 of one endless stream of pictures, and
process p of n takes the p-th part of each. So the step alone says where a run stands:
workers, threads and processes may change between one start and the next.
"""

import functools
import sys
from dataclasses import dataclass

import grain
import numpy as np

from alexnet_jax.data.augment import Augmentation
from alexnet_jax.data.background import Elements, in_background
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.sources import Source
from alexnet_jax.data.workers import empty
from alexnet_jax.errors import InputError, PictureError

Batch = dict[str, np.ndarray]

ORDER = 3  # stream of random numbers; 1 and 2 are augment's


def training_batches(
    source: Source,
    square: Square,
    augmentation: Augmentation,
    *,
    batch_size: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    seed: int,
    workers: int = 0,
    threads: int = 4,
) -> Elements:
    """Endless batches of augmented pictures; `close()` the iterator when done.

    All pictures are shuffled anew each epoch, each appears once in it, and a batch may
    straddle two epochs.

    Args:
        source: the training pictures.
        square: what crops are taken from.
        augmentation: what varies when a picture is shown again.
        batch_size: pictures in a batch, over all processes.
        start_step: the first batch to give; none is read before it.
        process_index: which part of each batch to give.
        process_count: into how many parts each batch is cut.
        seed: of the shuffling.
        workers: processes that decode; 0 for none but this one.
        threads: threads in each process; each works on one batch.

    Returns:
        An iterator over dicts of arrays, b = batch_size / process_count long: `image`
        uint8 (b, S, S, 3), whole, for the device crops and mirrors them where that is
        nearly free, `label` int32, `weight` float32 ones, and what `Augmentation.draw`
        gives.

    Raises:
        InputError: the parts of a batch are not equal.
        PictureError: from `next`, a picture cannot be decoded.
    """
    part = _part(batch_size, process_count)
    batches = grain.MapDataset.source(
        _Augmented(source, square, augmentation, part, seed)
    )
    first = start_step * process_count + process_index
    return in_background(batches[first::process_count], workers, threads)


@dataclass(frozen=True)
class _Augmented:
    """All batches of training, a random-access list without an end."""

    source: Source
    square: Square
    augmentation: Augmentation
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, batch: int) -> Batch:
        first, count = batch * self.batch_size, self.batch_size
        size = self.square.size
        drawn = self.augmentation.draw(first, count, size)
        images = empty((count, size, size, 3), np.uint8)
        labels = np.empty(count, np.int32)
        for row, record in enumerate(self._records(first, count)):
            picture = self.source[record]
            self.square.pixels(picture, images[row])
            labels[row] = picture[2]
        weights = np.ones(count, np.float32)
        return {"image": images, "label": labels, "weight": weights, **drawn}

    def _records(self, first: int, count: int) -> list[int]:
        """Which ones stand at some positions of the stream."""
        size = len(self.source)
        epochs, places = np.divmod(np.arange(first, first + count), size)
        parts = [
            _order(size, self.seed, epoch)[places[epochs == epoch]]
            for epoch in np.unique(epochs).tolist()
        ]
        return np.concatenate(parts).tolist()


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs
def _order(records: int, seed: int, epoch: int) -> np.ndarray:
    """All records as an epoch shuffles them.

    Random numbers, sorted: a quarter of a second for the 1.3 million of ImageNet, where
    grain's `shuffle` takes 20 µs a picture, a tenth of all that raw pixels take.
    """
    key = np.array((seed, ORDER), np.uint64)
    philox = np.random.Philox(key=key, counter=(0, epoch, 0, 0))
    return philox.random_raw(records).argsort(kind="stable")


def evaluation_batches(
    source: Source,
    square: Square,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = 4,
    allow_unreadable: bool = False,
) -> Elements:
    """Every picture once, in order, whole; the last batch is filled up with weight 0.

    All processes get the same number of batches.

    Args:
        source: the pictures.
        square: what they are brought to.
        batch_size: pictures in a batch, over all processes.
        process_index: which part of each batch to give.
        process_count: into how many parts each batch is cut.
        workers: processes that decode; 0 for none but this one.
        threads: threads in each process; each works on one batch.
        allow_unreadable: give a picture that cannot be decoded weight 0, not an error.

    Returns:
        An iterator over dicts of arrays, b = batch_size / process_count long:
        `image` uint8 (b, S, S, 3), `label` int32, `weight` float32 (1, or 0 where there
        is no picture), `unreadable` int32 (the index in the source of a picture that
        cannot be decoded, elsewhere −1).

    Raises:
        InputError: the parts of a batch are not equal.
        PictureError: from `next`, a picture cannot be decoded.
    """
    part = _part(batch_size, process_count)
    filled_up = -(-len(source) // batch_size) * batch_size
    whole = _Whole(source, square, part, filled_up // part, allow_unreadable)
    batches = grain.MapDataset.source(whole)
    return in_background(batches[process_index::process_count], workers, threads)


@dataclass(frozen=True)
class _Whole:
    """All batches of an evaluation, a random-access list."""

    source: Source
    square: Square
    batch_size: int
    batches: int
    allow_unreadable: bool

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, batch: int) -> Batch:
        first, count = batch * self.batch_size, self.batch_size
        images = empty((count, self.square.size, self.square.size, 3), np.uint8)
        labels = np.zeros(count, np.int32)
        unreadable = np.full(count, -1, np.int32)
        there = np.arange(first, first + count) < len(self.source)
        for row in range(there.sum()):
            try:
                picture = self.source[first + row]
                self.square.pixels(picture, images[row])
                labels[row] = picture[2]
            except PictureError:
                if not self.allow_unreadable:
                    raise
                there[row], unreadable[row] = False, first + row
        images[~there] = 0
        return {
            "image": images,
            "label": labels,
            "weight": there.astype(np.float32),
            "unreadable": unreadable,
        }


def _part(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise InputError(
            f"batch_size={batch_size}: not a multiple of the {process_count} processes"
        )
    return batch_size // process_count
