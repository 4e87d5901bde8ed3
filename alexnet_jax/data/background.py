"""Threads and processes that compute a grain data set ahead of its reader."""

import functools
from collections.abc import Iterator
from typing import Any, Protocol

import grain

from alexnet_jax.data.workers import Workers


class Elements(Iterator[Any], Protocol):
    """An iterator; its `close()` ends the threads and processes behind it."""

    def close(self) -> None:
        """Ends them."""


def in_background(dataset: grain.MapDataset, workers: int, threads: int) -> Elements:
    """Compute a data set in the background, in order.

    Args:
        dataset: what to compute; the same elements come whatever the next two are.
        workers: processes, spawned; 0 for none but this one.
        threads: threads in each process; each works on one element.
    """
    if not workers:
        return _by_threads(dataset, threads)
    return Workers(
        functools.partial(_part, dataset, workers=workers, threads=threads), workers
    )


def _part(
    dataset: grain.MapDataset, worker: int, *, workers: int, threads: int
) -> Elements:
    """In a worker: every workers-th element."""
    return _by_threads(dataset[worker::workers], threads)


def _by_threads(dataset: grain.MapDataset, threads: int) -> Elements:
    # One finished element waits for each thread: of grain's 500, batches of 128
    # pictures would take 10 GB.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(dataset.to_iter_dataset(options))
