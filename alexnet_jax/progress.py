"""The console and the profile of a training."""

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


class Progress:
    """Completes each line of metrics.jsonl and prints it with speed and time left."""

    def __init__(
        self,
        metrics: MetricsFile | None,
        config: ml_collections.ConfigDict,
        images: int,
        classes: int,
        total: int,
        peak_images_per_second: float,
    ):
        """Start the clock.

        Args:
            metrics: the file of the lines; None where another process writes it.
            config: of the run.
            images: in the training set.
            classes: ln(classes) is the loss of a network that guesses.
            total: steps in the whole run.
            peak_images_per_second: MFU (model FLOP utilisation) is a share of it.
        """
        self._metrics, self._config = metrics, config
        self._total, self._chance_loss = total, math.log(classes)
        self._peak_images_per_second = peak_images_per_second
        self._steps_a_validation = config.validate_every_epochs * (
            images / config.batch_size
        )
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
            line: 'train' holds `Sums` that may not be computed yet; the rest is written
                unchanged.
            waited: seconds for which the devices have waited for data, in all.
        """
        sums = jax.device_get(line.pop("train"))
        rates, steps = sums.rates(), float(sums.images) / self._config.batch_size
        line["train/loss"] = rates["loss"]
        line["train/top1_error"] = rates["top1_error"]

        now = perf_counter()
        seconds = max(now - self._since - self._validating, 1e-9)
        # No speed in the first line: the sums of a resumed run may hold steps of the
        # run before.
        timed = line["step"] - self._step if self._step is not None else None
        wait = min((waited - self._waited) / seconds, 1.0)
        speed = None
        if timed:
            speed = timed * self._config.batch_size / seconds
            line["train/images_per_second"] = speed
            line["train/data_wait"] = wait
            line["train/mfu"] = speed / self._peak_images_per_second
        self._since, self._step, self._waited = now, line["step"], waited
        self._validating = 0.0
        if self._metrics:
            self._metrics.write(line)

        parts = [
            f"epoch {line['epoch']:7.2f}",
            f"step {line['step']:,}/{self._total:,}",
            f"loss {rates['loss']:.4f}",
            f"top-1 error {rates['top1_error']:6.1%}",
            f"rate {line['train/learning_rate']:.0e}",
        ]
        if speed:
            slower = "data" if wait >= DATA_BOUND else "devices"
            left = (self._total - line["step"]) * self._config.batch_size / speed
            left += self._validations_left(line["step"]) * self._validation_seconds
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
        self._explain_plateau(rates["loss"], steps)

    def _validations_left(self, step: int) -> float:
        if not self._steps_a_validation:
            return 0
        return (self._total - step) / self._steps_a_validation

    def _explain_plateau(self, loss: float, steps: float) -> None:
        """Explain the known first plateau once, and again after twice as long."""
        near = abs(loss - self._chance_loss) < 0.02 * self._chance_loss
        self._stuck = self._stuck + steps if near else 0
        if self._stuck >= self._explain_at:
            say(
                f"      the loss has stood at ln(classes) = {self._chance_loss:.2f} "
                f"for {self._stuck:,.0f} steps, a known plateau of this network's "
                "first epochs. It can last thousands of steps; network.stddevs of 0.03 "
                "in conv3 to conv5, as in the 2012 code, shorten it"
            )
            self._explain_at *= 2

    def close(self) -> None:
        """Close metrics.jsonl."""
        if self._metrics:
            self._metrics.close()


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
    """Records steps 10 to 15 after a start, for Perfetto and TensorBoard."""

    def __init__(self, folder: Path | None, done: int, total: int):
        """Wait for these steps.

        Args:
            folder: what is recorded goes to its plugins/profile/<time>/, the layout
                of TensorBoard. None: nothing is recorded.
            done: updates before this start.
            total: steps in the whole run.
        """
        if folder and total - done < LAST_TRACED:
            raise InputError(
                f"--profile: records steps {FIRST_TRACED} to {LAST_TRACED} after a "
                f"start, and {total - done:,} of {total:,} steps are left; set a "
                "larger --config.steps or --config.epochs, or another --workdir"
            )
        self._folder, self._recording = folder, False
        self._first, self._last = done + FIRST_TRACED, done + LAST_TRACED

    def before(self, step: int, loss: jax.Array) -> None:
        """Start or stop recording, before the steps where it is due.

        Args:
            step: the next one.
            loss: of the last one; the devices are idle when it is computed.
        """
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
