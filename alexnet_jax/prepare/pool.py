"""Worker processes for independent jobs, which stop within one image when asked to."""

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from alexnet_jax.data.parent import begin_worker
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
    global _stop
    begin_worker()
    _stop = stop
