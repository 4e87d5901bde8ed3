"""The speed of a training, in its lines of metrics.jsonl, and its profile."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import jax

from alexnet_jax.cli import say
from alexnet_jax.errors import InputError
from alexnet_jax.metrics import Logger

FIRST_TRACED, LAST_TRACED = 10, 15  # steps after a start, when all is compiled


class Clock:
    """Seconds of training; it stands still during validations."""

    def __init__(self):
        """No validation has run."""
        self.last_validation = 0.0  # seconds that it took
        self._validations = 0.0

    def now(self) -> float:
        """Seconds, of which differences count."""
        return perf_counter() - self._validations

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Exclude the time inside."""
        start = perf_counter()
        yield
        self.last_validation = perf_counter() - start
        self._validations += self.last_validation


@dataclasses.dataclass
class Speed:
    """Steps a second, and the share of time in which devices waited for data."""

    clock: Clock
    _last: tuple[float, int, float] | None = None  # now, step, waited

    def read(self, step: int, waited: float) -> tuple[float, float] | None:
        """(Steps a second, share waited) since the last reading; None at the first.

        Args:
            step: steps done.
            waited: seconds in which the devices have waited for data since the start.
        """
        last, self._last = self._last, (self.clock.now(), step, waited)
        if last is None:
            return None
        seconds = max(self._last[0] - last[0], 1e-9)
        return (step - last[1]) / seconds, min((waited - last[2]) / seconds, 1.0)


class Progress:
    """Completes each line of metrics.jsonl with means and speed, and writes it.

    A line is held back until the devices have computed its numbers (`hold`, `flush`).
    """

    def __init__(
        self,
        loggers: Sequence[Logger],
        clock: Clock,
        batch_size: int,
        peak_images_per_second: float | None,
    ):
        """Start before the first step.

        Args:
            loggers: metrics.jsonl and others; none where another process writes.
            clock: of the training.
            batch_size: images a step.
            peak_images_per_second: MFU (model FLOP utilisation) is a share of it; None
                where it is not known.
        """
        self._loggers, self._speed = loggers, Speed(clock)
        self._batch_size, self._peak = batch_size, peak_images_per_second
        self._held: dict[str, Any] | None = None

    def hold(self, line: dict[str, Any]) -> None:
        """Take a line: 'train' holds `Sums`, 'norms' `step.norms`, to be computed."""
        self._held = line

    def flush(self, waited: float) -> dict[str, Any] | None:
        """Complete and write the line held back, if there is one; it is returned.

        Args:
            waited: as for `Speed.read`.
        """
        line, self._held = self._held, None
        if line is None:
            return None
        sums, norms = jax.device_get((line.pop("train"), line.pop("norms")))
        rates, speed = sums.rates(), self._speed.read(line["step"], waited)
        line |= {f"train/{name}": rates[name] for name in ("loss", "top1_error")}
        # No speed in the first line: the sums of a resumed run may hold steps of the
        # run before.
        if speed:
            images_per_second = speed[0] * self._batch_size
            line["train/images_per_second"] = images_per_second
            line["train/data_wait"] = speed[1]
            if self._peak:
                line["train/mfu"] = images_per_second / self._peak
        line |= {name: float(norm) for name, norm in norms.items()}
        for logger in self._loggers:
            logger.write(line)
        return line

    def close(self) -> None:
        """Close metrics.jsonl and the other loggers."""
        for logger in self._loggers:
            logger.close()


class Trace:
    """Records steps 10 to 15 after a start, for Perfetto and TensorBoard.

    It goes to plugins/profile/<time>/ of a folder, the layout of TensorBoard; with None
    for a folder nothing is recorded.
    """

    def __init__(self, folder: Path | None, done: int, total: int):
        """Check that enough of the run's `total` steps are left."""
        if folder and total - done < LAST_TRACED:
            raise InputError(
                f"--profile: records steps {FIRST_TRACED} to {LAST_TRACED} after a "
                f"start, and {total - done:,} of {total:,} steps are left; set a "
                "larger --config.steps or --config.epochs, or another --workdir"
            )
        self._folder, self._recording = folder, False
        self._first, self._last = done + FIRST_TRACED, done + LAST_TRACED

    def before(self, step: int, loss: jax.Array) -> None:
        """Start or stop recording before a step; the last step's loss ends its work."""
        if self._folder and step == self._first:
            loss.block_until_ready()
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every function call: 100 times larger
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._recording = True
        elif self._recording and step == self._last + 1:
            loss.block_until_ready()
            self.close()

    def close(self) -> None:
        """Write the record, if it is not written yet."""
        if self._folder and self._recording:
            self._recording = False
            jax.profiler.stop_trace()
            written = max(self._folder.rglob("*.trace.json.gz"))
            say(f"trace of steps {self._first:,} to {self._last:,}: {written}")
            say(f"for ui.perfetto.dev, or: tensorboard --logdir {self._folder}")
