"""The console and the profile of a training."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import ml_collections

from alexnet_jax.cli import say
from alexnet_jax.errors import InputError
from alexnet_jax.metrics import MetricsFile

DATA_BOUND = 0.02  # share of the time waited for data from which data are slower
STUCK_STEPS = 500  # at a loss of ln(classes) before a known plateau is explained
FIRST_TRACED, LAST_TRACED = 10, 15  # steps after a start, when all is compiled


@dataclasses.dataclass
class Progress:
    """Completes each line of metrics.jsonl and prints it with speed and time left."""

    metrics: MetricsFile | None  # None where another process writes it
    config: ml_collections.ConfigDict
    images: int  # in the training set
    classes: int
    total: int  # steps in the whole run
    peak_images_per_second: float  # MFU (model FLOP utilisation) is a share of it

    def __post_init__(self):
        """Start the clock."""
        self._since, self._step, self._waited = perf_counter(), None, 0.0
        self._validating = self._validation_seconds = 0.0
        self._stuck, self._explain_at = 0.0, STUCK_STEPS

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Exclude the time inside from the training time."""
        start = perf_counter()
        yield
        self._validation_seconds = perf_counter() - start
        self._validating += self._validation_seconds

    def write(self, line: dict[str, Any], waited: float) -> None:
        """Read the sums of a line, append it to metrics.jsonl and print it.

        Args:
            line: 'train' holds `Sums` that may not be computed yet.
            waited: seconds in which the devices have waited for data since the start.
        """
        step, batch_size = line["step"], self.config.batch_size
        sums, now = jax.device_get(line.pop("train")), perf_counter()
        rates = sums.rates()
        line |= {f"train/{name}": rates[name] for name in ("loss", "top1_error")}
        seconds = max(now - self._since - self._validating, 1e-9)
        wait, speed = min((waited - self._waited) / seconds, 1.0), None
        # No speed in the first line: the sums of a resumed run may hold steps of the
        # run before.
        if self._step is not None:
            speed = (step - self._step) * batch_size / seconds
            line["train/images_per_second"] = speed
            line["train/data_wait"] = wait
            line["train/mfu"] = speed / self.peak_images_per_second
        self._since, self._step, self._waited = now, step, waited
        self._validating = 0.0
        if self.metrics:
            self.metrics.write(line)

        parts = [
            f"epoch {line['epoch']:7.2f}",
            f"step {step:,}/{self.total:,}",
            f"loss {rates['loss']:.4f}",
            f"top-1 error {rates['top1_error']:6.1%}",
            f"rate {line['train/learning_rate']:.0e}",
        ]
        if speed:
            slower = "data" if wait >= DATA_BOUND else "devices"
            images = (self.total - step) * batch_size
            left = images / speed
            if every := self.config.validate_every_epochs:
                left += images / self.images / every * self._validation_seconds
            parts += [
                f"{speed:,.0f} images/s",
                f"MFU {line['train/mfu']:.0%}",
                f"waiting for data {wait:.0%}: {slower} are slower",
                f"{duration(left)} left",
            ]
        say("  ".join(parts))
        if "validation/loss" in line:
            say(
                f"      validation: loss {line['validation/loss']:.4f}"
                f"  top-1 error {line['validation/top1_error']:.2%}"
                f"  top-5 error {line['validation/top5_error']:.2%}"
            )
        self._explain_plateau(rates["loss"], float(sums.images) / batch_size)

    def _explain_plateau(self, loss: float, steps: float) -> None:
        """Explain the known first plateau once, and again after twice as long."""
        chance = math.log(self.classes)  # the loss of a network that guesses
        near = abs(loss - chance) < 0.02 * chance
        self._stuck = self._stuck + steps if near else 0
        if self._stuck >= self._explain_at:
            say(
                f"      the loss has stood at ln(classes) = {chance:.2f} "
                f"for {self._stuck:,.0f} steps, a known plateau of this network's "
                "first epochs. It can last thousands of steps; network.stddevs of 0.03 "
                "in conv3 to conv5, as in the 2012 code, shorten it"
            )
            self._explain_at *= 2

    def close(self) -> None:
        """Close metrics.jsonl."""
        if self.metrics:
            self.metrics.close()


def parameter_table(params: Any, layers: Sequence[str]) -> str:
    """Layer, kernel shape and number of parameters, a line each, and their sum."""
    rows, total = [f"{'layer':8}{'kernel':>18}{'weights':>14}{'biases':>8}"], 0
    for layer in layers:
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        shape = "×".join(map(str, kernel.shape))
        rows.append(f"{layer:8}{shape:>18}{kernel.size:14,}{bias.size:8,}")
        total += kernel.size + bias.size
    return "\n".join([*rows, f"{total:,} parameters"])


def duration(seconds: float) -> str:
    """'2 d 03 h', '1 h 05 min', '4 min 20 s' or '12 s'."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h:02d} h"
    if hours:
        return f"{hours} h {m:02d} min"
    return f"{minutes} min {s:02d} s" if minutes else f"{s} s"


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
            say(
                f"trace of steps {self._first:,} to {self._last:,}: {written} "
                f"(ui.perfetto.dev, or tensorboard --logdir {self._folder})"
            )
