"""Worker processes for independent jobs, which stop within one image when asked to."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from alexnet_jax.errors import InputError

T = TypeVar("T")

# In a worker: whether to stop. Without a lock, which a killed worker might hold.
_stop: Any = None


def run(do: Callable[..., T], workers: int, *arguments: Sequence[Any]) -> Generator[T]:
    """The results of jobs in order, as `map` gives them; 1 worker is this process.

    An exception, such as Ctrl-C, ends the jobs, which must call `stop_if_asked` often.
    """
    workers = min(workers, len(arguments[0]))
    if workers <= 1:
        yield from map(do, *arguments)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.RawValue("b", False)
    executor = ProcessPoolExecutor(workers, context, _begin, (stop,))
    try:
        yield from executor.map(do, *arguments)
    except BrokenProcessPool:
        raise InputError(
            f"--workers={workers}: one of them was killed, probably because memory is "
            "short; run the same command again, if need be with fewer"
        ) from None
    finally:
        stop.value = True
        executor.shutdown(cancel_futures=True)


def stop_if_asked() -> None:
    """End the job of a worker that was asked to stop."""
    if _stop is not None and _stop.value:
        raise KeyboardInterrupt


def _begin(stop: Any) -> None:
    """In a worker: leave Ctrl-C to the parent, and end with it, however it ends."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os._exit(1)
