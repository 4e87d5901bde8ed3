"""Batches of images, decoded by threads ahead of their reader.

Batch s of a run holds the positions s·B … (s+1)·B − 1 of one endless stream of images,
and process p of n takes the p-th share of each. All randomness follows from seed and
position, so the step alone is the state of the input: threads and processes may change
between one start and the next. (grain's shuffle would cost 20 µs an image, and its
RandomMap numbers its seeds by batch, not by image.)

One process decodes, in threads. Python's lock limits it (two busy cores): to 400,000
images/s where reading and decoding copy 192 bytes, and to 130,000 raw and 50,000 JPEG
ones of 8 pixels. Sixteen cores, emulated by a sleep in place of reading or decoding,
give 57,000 raw images/s but 22,000 JPEGs, since each JPEG releases the lock three
times: there, store raw pixels (`prepare --encoding=raw`). Formats that
Pillow decodes, such as PNG, hold the lock longer: prepare them.
"""

import functools
import sys
from dataclasses import dataclass
from typing import TypeAlias

import grain
import numpy as np

from alexnet_jax.data.augment import Augmentation
from alexnet_jax.data.images import Source
from alexnet_jax.data.preprocess import Square
from alexnet_jax.errors import ImageError, InputError

Batch = dict[str, np.ndarray]
Batches: TypeAlias = grain.DatasetIterator[Batch]

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
    threads: int = 4,
) -> Batches:
    """Endless batches of augmented images (§4.1); `close()` the iterator when done.

    Args:
        source: the training images, each of which appears once an epoch. A batch may
            straddle two epochs.
        square: from image files to the pixels that crops are taken from.
        augmentation: the random crops, reflections and colours.
        batch_size: images in a batch, over all processes.
        start_step: the first batch to give; none is read before it.
        process_index: the share of each batch to give.
        process_count: the number of shares.
        seed: of the shuffling.
        threads: each works on one batch.

    Returns:
        An iterator over dicts of arrays, b = batch_size / process_count long: `image`
        uint8 (b, S, S, 3), whole, since devices crop and mirror at almost no cost;
        `label` int32; `weight` float32 ones; and the arrays of `Augmentation.draw`.
        An image that cannot be decoded raises ImageError from `next`.
    """
    share = _share(batch_size, process_count)
    shares = (
        grain.MapDataset.range(sys.maxsize)
        .map(_Shuffle(share, len(source), seed))
        .map(_Decode(source, square))
        .map(_Augment(augmentation, square.size))
    )
    first = start_step * process_count + process_index
    return _by_threads(shares[first::process_count], threads)


def evaluation_batches(
    source: Source,
    square: Square,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    allow_unreadable: bool = False,
) -> Batches:
    """Every image once, in order; the last batch is filled up with weight 0.

    All processes get the same number of batches. Arguments are those of
    `training_batches`, and `allow_unreadable` gives an image that cannot be decoded
    weight 0; otherwise it raises ImageError from `next`.

    Returns:
        An iterator over dicts of arrays, b = batch_size / process_count long:
        `image` uint8 (b, S, S, 3), `label` int32, `weight` float32 (1, or 0 where there
        is no image), `unreadable` int32 (the index in the source of an image that
        cannot be decoded, elsewhere −1).
    """
    share = _share(batch_size, process_count)
    shares = (
        grain.MapDataset.range(-(-len(source) // batch_size) * process_count)
        .map(_InOrder(share, len(source)))
        .map(_Decode(source, square, allow_unreadable))
    )
    return _by_threads(shares[process_index::process_count], threads)


@dataclass(frozen=True)
class _Shuffle(grain.transforms.Map):
    """Number of a share → its positions and their records, each once an epoch."""

    size: int
    records: int
    seed: int

    def map(self, share: int) -> Batch:
        position = np.arange(share * self.size, (share + 1) * self.size)
        epochs, places = np.divmod(position, self.records)
        record = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            record[here] = _order(self.records, self.seed, epoch)[places[here]]
        return {"position": position, "record": record}


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs
def _order(records: int, seed: int, epoch: int) -> np.ndarray:
    """The records in the order of an epoch; 0.25 s for the 1.3 million of ImageNet."""
    key = np.array((seed, ORDER), np.uint64)
    philox = np.random.Philox(key=key, counter=(0, epoch, 0, 0))
    return philox.random_raw(records).argsort(kind="stable")


@dataclass(frozen=True)
class _InOrder(grain.transforms.Map):
    """Number of a share → its records; −1 behind the last one."""

    size: int
    records: int

    def map(self, share: int) -> Batch:
        record = np.arange(share * self.size, (share + 1) * self.size)
        return {"record": np.where(record < self.records, record, -1)}


@dataclass(frozen=True)
class _Decode(grain.transforms.Map):
    """Records → pixels, labels and weights."""

    source: Source
    square: Square
    allow_unreadable: bool = False

    def map(self, batch: Batch) -> Batch:
        records, size = batch.pop("record"), self.square.size
        image = np.empty((len(records), size, size, 3), np.uint8)
        label = np.zeros(len(records), np.int32)
        there = records >= 0
        for row in np.flatnonzero(there).tolist():
            try:
                record = self.source[int(records[row])]
                self.square.pixels(record, image[row])
                label[row] = record[2]
            except ImageError:
                if not self.allow_unreadable:
                    raise
                there[row] = False
        image[~there] = 0
        weight = there.astype(np.float32)
        unreadable = np.where(there, -1, records).astype(np.int32)
        batch |= {"image": image, "label": label, "weight": weight}
        return batch | {"unreadable": unreadable}


@dataclass(frozen=True)
class _Augment(grain.transforms.Map):
    """Adds the random numbers with which the devices crop, mirror and colour."""

    augmentation: Augmentation
    side: int

    def map(self, batch: Batch) -> Batch:
        positions = batch["position"]
        drawn = self.augmentation.draw(int(positions[0]), len(positions), self.side)
        return {name: batch[name] for name in ("image", "label", "weight")} | drawn


def _share(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise InputError(
            f"batch_size={batch_size}: not a multiple of the {process_count} processes"
        )
    return batch_size // process_count


def _by_threads(dataset: grain.MapDataset, threads: int) -> Batches:
    # One finished batch waits for each thread: grain's 500 would take 10 GB.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(dataset.to_iter_dataset(options))
