"""Processes that share many small jobs, and tell how far they are."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from alexnet_jax.data.parent import begin_worker
from alexnet_jax.errors import InputError

J = TypeVar("J")
R = TypeVar("R")

_seen: Any = None  # in a worker: the pictures that all workers have looked at
_stop: Any = None  # and whether to stop


class _StoppedError(Exception):
    """The crew was told to stop."""


def do(
    work: Callable[[J], R],
    jobs: Iterable[J],
    *,
    workers: int,
    progress: Callable[[int], object],
) -> Iterator[R]:
    """The results of jobs as they are ready; of those that are, in the jobs' order.

    Args:
        work: does one job, and calls `looked_at` now and then.
        jobs: what to do.
        workers: processes, spawned; 1 takes a thread of this one.
        progress: called with the number of pictures looked at since the last call.

    Raises:
        InputError: a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    seen, stop = context.Value("q", 0), context.Event()
    executor: Executor
    if workers == 1:
        executor = ThreadPoolExecutor(1, initializer=_begin, initargs=(seen, stop))
    else:
        executor = ProcessPoolExecutor(
            workers, context, initializer=_begin_process, initargs=(seen, stop)
        )
    told = 0
    try:
        order = {executor.submit(work, job): place for place, job in enumerate(jobs)}
        pending = set(order)
        while pending:
            ready, pending = wait(pending, 0.5, FIRST_COMPLETED)
            now = seen.value
            progress(now - told)
            told = now
            for future in sorted(ready, key=order.pop):  # and hold none that is done
                yield future.result()
    except BrokenProcessPool:
        raise InputError(
            f"--workers={workers}: one of them was killed, as happens where memory is "
            "short; run the same command again, perhaps with fewer"
        ) from None
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def looked_at(pictures: int) -> None:
    """From within a job: so many pictures were looked at."""
    if _stop.is_set():
        raise _StoppedError
    with _seen.get_lock():
        _seen.value += pictures


def _begin(seen: Any, stop: Any) -> None:
    global _seen, _stop
    _seen, _stop = seen, stop


def _begin_process(seen: Any, stop: Any) -> None:
    begin_worker()
    _begin(seen, stop)
