"""The signals that end a training in good order."""

import dataclasses
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point


@dataclasses.dataclass
class Stop:
    """The signal that asked for the end of the training, if one did."""

    signal: int | None = None

    def asked(self, step: int) -> bool:
        """Whether to end after this update; several processes end after the same."""
        if reached_preemption_sync_point(step):  # False where there is one process
            self.signal = signal.SIGTERM
        return self.signal is not None


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """Notes SIGTERM and SIGINT, in place of what they do otherwise.

    A second SIGINT (Ctrl-C) does what it always does. Of several processes, JAX tells
    all about the SIGTERM that one has got; SIGINT becomes one.
    """
    stop = Stop()
    alone = jax.process_count() == 1

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, before[number])
        if alone:
            stop.signal = number
        else:
            signal.raise_signal(signal.SIGTERM)

    numbers = (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,)
    before = {int(n): signal.signal(n, note) for n in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
