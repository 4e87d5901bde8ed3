"""Threads and processes that compute a grain data set ahead of its reader."""

import grain
from absl import flags

from alexnet_jax.data.parent import follow_parent


def in_background(
    dataset: grain.MapDataset, workers: int, threads: int
) -> grain.DatasetIterator:
    """Compute a data set in the background, in order.

    Args:
        dataset: what to compute; the same elements come whatever the next two are.
        workers: processes, spawned; 0 for none but this one.
        threads: threads in each process; each works on one element.

    Returns:
        An iterator; its `close()` ends the threads and processes.
    """
    # grain's workers read their flags, which nothing parses in a test or notebook.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    # One finished element waits for each thread: of grain's 500, batches of 128
    # pictures would take 10 GB.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    elements = dataset.to_iter_dataset(options)
    if workers:
        elements = elements.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), _follow_parent
        )
    return iter(elements)


def _follow_parent(worker: int, workers: int) -> None:
    follow_parent()
