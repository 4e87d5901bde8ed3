"""Batches in the background: the same ones, whoever reads them.

Batch s of a run is records s·B … (s+1)·B − 1 of one endless stream of pictures, and
process p of n takes the p-th part of each. So the step alone says where a run stands:
workers, threads and processes may change between one start and the next.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import grain
import numpy as np

from alexnet_jax.data.augment import Augmentation
from alexnet_jax.data.background import Elements, in_background
from alexnet_jax.data.preprocess import pixels
from alexnet_jax.data.sources import Source
from alexnet_jax.errors import InputError, PictureError

Picture = dict[str, np.ndarray | np.generic]
Batch = dict[str, np.ndarray]


def training_batches(
    source: Source,
    augmentation: Augmentation,
    *,
    image_size: int,
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
        augmentation: called with each picture's position in the stream.
        image_size: side in pixels of the squares that crops are taken from.
        batch_size: pictures in a batch, over all processes.
        start_step: the first batch to give; none is read before it.
        process_index: which part of each batch to give.
        process_count: into how many parts each batch is cut.
        seed: of the shuffling.
        workers: processes that decode; 0 for none but this one.
        threads: threads in each process; each works on one batch.

    Returns:
        An iterator over dicts of arrays, b = batch_size / process_count long: what
        `Augmentation` gives, `label` int32 and `weight` float32 ones.

    Raises:
        InputError: the parts of a batch are not equal.
        PictureError: from `next`, a picture cannot be decoded.
    """
    part = _part(batch_size, process_count)
    batches = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .repeat()
        .batch(part)
        .map_with_index(_Augmented(source, augmentation, image_size))
    )
    first = start_step * process_count + process_index
    return in_background(batches[first::process_count], workers, threads)


@dataclass(frozen=True)
class _Augmented:
    source: Source
    augmentation: Augmentation
    image_size: int

    def __call__(self, batch: int, records: np.ndarray) -> Batch:
        first = batch * len(records)
        pictures = (self._picture(first + i, r) for i, r in enumerate(records.tolist()))
        return _together(pictures, len(records))

    def _picture(self, position: int, record: int) -> Picture:
        picture = self.source[record]
        return {
            **self.augmentation(position, pixels(picture, self.image_size)),
            "label": np.int32(picture[2]),
            "weight": np.float32(1),
        }


def _together(pictures: Iterable[Picture], count: int) -> Batch:
    """So many pictures as one batch.

    Each one is copied to its place as it comes: its crop out of the record, and the
    record's memory is free for the next one. Stacking them at the end took half as
    long again, most of it to find new memory.
    """
    batch: Batch = {}
    for row, picture in enumerate(pictures):
        for name, value in picture.items():
            if row == 0:
                batch[name] = np.empty((count, *value.shape), value.dtype)
            batch[name][row] = value
    return batch


def evaluation_batches(
    source: Source,
    *,
    image_size: int,
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
        image_size: side in pixels of the squares they are brought to.
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
    whole = _Whole(source, image_size, allow_unreadable)
    batches = grain.MapDataset.range(filled_up).batch(part).map(whole)
    return in_background(batches[process_index::process_count], workers, threads)


@dataclass(frozen=True)
class _Whole:
    source: Source
    image_size: int
    allow_unreadable: bool

    def __call__(self, indices: np.ndarray) -> Batch:
        return _together(map(self._picture, indices.tolist()), len(indices))

    def _picture(self, index: int) -> Picture:
        if index >= len(self.source):
            return self._nothing(-1)
        record = self.source[index]
        try:
            image = pixels(record, self.image_size)
        except PictureError:
            if self.allow_unreadable:
                return self._nothing(index)
            raise
        return {
            "image": image,
            "label": np.int32(record[2]),
            "weight": np.float32(1),
            "unreadable": np.int32(-1),
        }

    def _nothing(self, unreadable: int) -> Picture:
        return {
            "image": np.zeros((self.image_size, self.image_size, 3), np.uint8),
            "label": np.int32(0),
            "weight": np.float32(0),
            "unreadable": np.int32(unreadable),
        }


def _part(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise InputError(
            f"batch_size={batch_size}: not a multiple of the {process_count} processes"
        )
    return batch_size // process_count
