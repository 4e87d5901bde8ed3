"""Times of several things, taken in turn so that a busy machine disturbs all alike."""

import statistics
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, NamedTuple

import jax


class Times(NamedTuple):
    """Seconds that a thing took, a reading a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle reading, which a disturbed round does not move."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """The quickest reading: what the machine can do."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """From the quickest to the slowest, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def on_device(function: Callable[[], Any]) -> Callable[[int], None]:
    """A run of something that JAX dispatches: so many times, then until it is done."""

    def run(times: int) -> None:
        for _ in range(times):
            result = function()
        jax.block_until_ready(result)

    return run


def in_turn(
    runs: Mapping[str, Callable[[int], None]], rounds: int, least_seconds: float = 0.1
) -> dict[str, Times]:
    """Times each run once a round.

    Args:
        runs: name: run(times), which ends when all is done; each has run before, so
            that nothing is compiled here.
        rounds: readings of each.
        least_seconds: of a reading; what takes less is done several times in it.

    Returns:
        Seconds for one time.
    """
    first = {name: _seconds(run, 1) for name, run in runs.items()}
    times = {name: max(1, round(least_seconds / s)) for name, s in first.items()}
    readings: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            # While others had their turns, its memory may have gone back to the
            # system, or from a virtual machine to its host; training never rests.
            run(1)
            readings[name].append(_seconds(run, times[name]))
    return {name: Times(tuple(seconds)) for name, seconds in readings.items()}


def _seconds(run: Callable[[int], None], times: int) -> float:
    start = perf_counter()
    run(times)
    return (perf_counter() - start) / times
