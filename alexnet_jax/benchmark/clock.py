"""Timed runs: several in turn, so that a busy machine disturbs all of them alike."""

import functools
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

import jax

Runs = Mapping[str, Callable[[int], None]]  # name: run(times), which waits for the end


class Times(NamedTuple):
    """Seconds of one run, a reading for each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle reading, which a disturbed round does not move."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """The fastest reading: what the machine can do."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """From the fastest to the slowest, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def on_device(function: Callable[[], Any]) -> Callable[[int], None]:
    """A run of a function that only dispatches to the device."""

    def run(times: int) -> None:
        for _ in range(times):
            result = function()
        jax.block_until_ready(result)

    return run


def in_turn(runs: Runs, rounds: int, least_seconds: float = 0.1) -> dict[str, Times]:
    """Time each run once a round; each has run before, so nothing is compiled here.

    Args:
        runs: by name.
        rounds: readings of each.
        least_seconds: of a reading; a shorter run is repeated within it.

    Returns:
        {name: seconds of one repetition}.
    """
    first = {name: _seconds(run, 1) for name, run in runs.items()}
    times = {name: max(1, round(least_seconds / s)) for name, s in first.items()}
    readings: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            # While the others ran, the operating system or the host of a virtual
            # machine may have reclaimed its memory; in training that does not happen.
            run(1)
            readings[name].append(_seconds(run, times[name]))
    return {name: Times(tuple(seconds)) for name, seconds in readings.items()}


def _seconds(run: Callable[[int], None], times: int) -> float:
    start = perf_counter()
    run(times)
    return (perf_counter() - start) / times


@contextmanager
def peer_process(make: Callable[..., Runs], *arguments: Any) -> Iterator[Runs]:
    """The runs of `make(*arguments)`, all picklable, in a process of their own.

    In one process two libraries share memory and cores as they never do for their
    users: with PyTorch loaded, JAX trained a quarter more slowly on a CPU.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:

        def call(name: str, times: int) -> None:
            pool.submit(_run, name, times).result()

        names = pool.submit(_start, make, arguments).result()
        yield {name: functools.partial(call, name) for name in names}


_peer: dict[str, Callable[[int], None]] = {}  # the runs of such a process


def _start(make: Callable[..., Runs], arguments: tuple[Any, ...]) -> list[str]:
    _peer.update(make(*arguments))
    return list(_peer)


def _run(name: str, times: int) -> None:
    _peer[name](times)
