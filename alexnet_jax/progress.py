"""What a person sees of a training: the table of parameters and a line now and then."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import jax
import ml_collections

from alexnet_jax.cli import say
from alexnet_jax.metrics import MetricsFile
from alexnet_jax.network.alexnet import LAYERS

SLOWER = 0.02  # share of the time waited for data from which pictures are slower
STUCK_UPDATES = 500  # at a loss of ln(classes) before we say that this is known


class Progress:
    """Completes each line of metrics.jsonl and prints it, with speed and time left."""

    def __init__(
        self,
        metrics: MetricsFile | None,
        config: ml_collections.ConfigDict,
        images: int,
        classes: int,
        total: int,
        most_images_per_second: float,
    ):
        """Starts the clock.

        Args:
            metrics: where the lines go; None where another process writes them.
            config: of the run.
            images: in the training set.
            classes: for the loss of a network that knows only their number.
            total: updates in the whole run.
            most_images_per_second: that the devices could compute with; MFU (model FLOP
                utilisation) is a share of it.
        """
        self._metrics, self._config = metrics, config
        self._total, self._know_nothing = total, math.log(classes)
        self._most_images_per_second = most_images_per_second
        self._steps_a_validation = config.validate_every_epochs * (
            images / config.batch_size
        )
        self._since, self._step, self._waited = perf_counter(), None, 0.0
        self._validating = self._validation_seconds = 0.0
        self._stuck, self._say_at = 0.0, STUCK_UPDATES

    @contextmanager
    def validating(self) -> Iterator[None]:
        """The time inside is not training time."""
        start = perf_counter()
        yield
        self._validation_seconds = perf_counter() - start
        self._validating += self._validation_seconds

    def write(self, line: dict[str, Any], waited: float) -> None:
        """Reads the sums of a line, appends it to metrics.jsonl and prints it.

        Args:
            line: 'train' are `Sums` that may still be computed; the rest is written as
                it is.
            waited: seconds in all that the devices have waited for data.
        """
        sums = jax.device_get(line.pop("train"))
        rates, updates = (
            sums.rates(),
            round(float(sums.images)) / self._config.batch_size,
        )
        line["train/loss"] = rates["loss"]
        line["train/top1_error"] = rates["top1_error"]

        now = perf_counter()
        seconds = max(now - self._since - self._validating, 1e-9)
        # The first line counts from the start of this process: a resumed run's sums
        # may hold updates of the one before.
        steps = line["step"] - self._step if self._step is not None else None
        wait = min((waited - self._waited) / seconds, 1.0)
        speed = None
        if steps:
            speed = steps * self._config.batch_size / seconds
            line["train/images_per_second"] = speed
            line["train/data_wait"] = wait
            line["train/mfu"] = speed / self._most_images_per_second
        self._since, self._step, self._waited = now, line["step"], waited
        self._validating = 0.0
        if self._metrics:
            self._metrics.write(line)

        parts = [
            f"epoch {line['epoch']:7.2f}",
            f"update {line['step']:,}/{self._total:,}",
            f"loss {rates['loss']:.4f}",
            f"top-1 error {rates['top1_error']:6.1%}",
            f"rate {line['train/learning_rate']:.0e}",
        ]
        if speed:
            slower = "pictures" if wait >= SLOWER else "devices"
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
        self._tell_if_stuck(rates["loss"], updates)

    def _validations_left(self, step: int) -> float:
        if not self._steps_a_validation:
            return 0
        return (self._total - step) / self._steps_a_validation

    def _tell_if_stuck(self, loss: float, updates: float) -> None:
        """Says once, and again after twice as long, that this plateau is known."""
        near = abs(loss - self._know_nothing) < 0.02 * self._know_nothing
        self._stuck = self._stuck + updates if near else 0
        if self._stuck >= self._say_at:
            say(
                f"      the loss has stood at ln(classes) = {self._know_nothing:.2f} "
                f"for {self._stuck:,.0f} updates: a plateau that this network's first "
                "epochs are known for. It can last thousands of updates; "
                "network.stddevs of 0.03 in conv3 to conv5, as the 2012 code has, "
                "shortens it"
            )
            self._say_at *= 2

    def close(self) -> None:
        """Closes metrics.jsonl."""
        if self._metrics:
            self._metrics.close()


def parameter_table(params: Any) -> str:
    """Layer, kernel shape and number of parameters, a line each, and their sum."""
    rows, total = [f"{'layer':8}{'kernel':>18}{'weights':>14}{'biases':>8}"], 0
    for layer in LAYERS:
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
