"""The console of a training: a live line in a terminal, a few lines elsewhere.

In a pipe, a file or a notebook there is a line an epoch or a minute, whichever comes
first, but none sooner than after a hundredth of the time since the start: a log of a
week has some hundred lines. metrics.jsonl has all of them.
"""

import math
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from alexnet_jax.cli import explain, say
from alexnet_jax.data.images import Source
from alexnet_jax.metrics import errors_in_words, read_metrics
from alexnet_jax.progress import Clock, Speed

MINUTE = 60.0  # seconds between two lines
FIRST = 2.0  # seconds between the first step's end and the first line
LIVE = 2.0  # seconds between two figures of a terminal's line
SHARE = 0.01  # of the time since the start, between two lines
DATA_BOUND = 0.02  # share of the time waited for data from which data are slower
STUCK_STEPS = 500  # at a loss of ln(classes) before a known plateau is explained


class Console:
    """Shows the steps of a training as they are completed."""

    def __init__(
        self,
        config: ConfigDict,
        clock: Clock,
        done: int,
        total: int,
        images: int,
        classes: int,
    ):
        """Start before the first step.

        Args:
            config: of the run.
            clock: of the training.
            done: steps done before this start.
            total: steps in the whole run.
            images: in the training set.
            classes: of the images.
        """
        self._config, self._clock, self._speed = config, clock, Speed(clock)
        self._total, self._images, self._classes = total, images, classes
        self._began = self._shown = perf_counter()
        self._done = self._shown_step = self._line_step = done
        self._compiled = self._begun = False  # the first step is done; a line is out
        self._loss, self._losses = 0.0, 0  # sum and number since the last line
        self._line: dict[str, Any] = {}  # the last one of metrics.jsonl
        self._validation: dict[str, Any] = {}  # the last one that has a validation
        self._slower = ""
        self._stuck, self._explain_at = 0, STUCK_STEPS
        terminal = sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno())
        self._bar = tqdm(
            total=total,
            initial=done,
            file=sys.stdout,
            disable=None,  # in a pipe
            ncols=80,  # where the terminal does not know its width
            dynamic_ncols=bool(terminal and terminal.columns),
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
            postfix="the first step is compiled",
        )

    def step(self, step: int, loss: float, waited: float) -> None:
        """Count a step that is complete, and show figures if they are due.

        Args:
            step: of the run.
            loss: of its batch.
            waited: as for `Speed.read`.
        """
        if step <= self._done:
            return
        now, self._done = perf_counter(), step
        self._loss, self._losses = self._loss + loss, self._losses + 1
        self._bar.update(step - self._bar.n)
        if not self._compiled:
            self._compiled, self._shown = True, now
            self._speed.read(step, waited)
        elif self._due(now):
            self._show(waited)
            self._begun, self._shown, self._shown_step = True, now, step
            self._loss, self._losses = 0.0, 0

    def _due(self, now: float) -> bool:
        since = now - self._shown
        if not self._bar.disable:
            return since >= LIVE
        if not self._begun:
            return since >= FIRST
        new_epoch = int(self._epoch(self._done)) > int(self._epoch(self._shown_step))
        enough = since >= SHARE * (now - self._began)
        return enough and (new_epoch or since >= MINUTE)

    def _epoch(self, step: int) -> float:
        return step * self._config.batch_size / self._images

    def _show(self, waited: float) -> None:
        """Show the mean loss since the last time, the speed and the time left."""
        speed = self._speed.read(self._done, waited)
        assert speed, "it was read after the first step"
        loss = f"loss {self._loss / self._losses:.4f}"
        figures = [
            f"{speed[0] * self._config.batch_size:,.0f} images/s",
            f"{duration(self._left(speed[0]))} left",
        ]
        if not self._bar.disable:
            self._set_bar(loss, *figures)
            return
        where = [
            f"epoch {self._epoch(self._done):6.2f}",
            f"step {self._done:,}/{self._total:,}",
        ]
        if self._line:
            loss += f"  top-1 error {self._line['train/top1_error']:6.1%}"
        say("  ".join([*where, loss, *figures]))
        self._name_the_slower()

    def _set_bar(self, *figures: str, refresh: bool = False) -> None:
        """Put figures and the last validation behind the bar."""
        if self._validation:
            error = self._validation["validation/top1_error"]
            figures = (*figures, f"validation error {error:.1%}")
        self._bar.set_postfix_str(", ".join(figures), refresh)

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Stop the clock of the training."""
        self._set_bar("validating", refresh=True)
        with self._clock.validating():
            yield

    def _left(self, steps_per_second: float) -> float:
        """Seconds until the end, with its validations."""
        steps = self._total - self._done
        left = steps / steps_per_second
        if every := self._config.validate_every_epochs:
            left += self._epoch(steps) / every * self._clock.last_validation
        return left

    def _name_the_slower(self) -> None:
        """Name the slower of data and devices, once and when it changes."""
        if "train/data_wait" not in self._line:
            return
        wait = self._line["train/data_wait"]
        slower = "data" if wait >= DATA_BOUND else "devices"
        if slower != self._slower:
            self._slower = slower
            mfu = self._line.get("train/mfu")
            share = f"; {mfu:.0%} of the devices' FLOP/s (MFU)" if mfu else ""
            say(f"      waiting for data {wait:.0%}: {slower} are slower{share}")

    def line(self, line: dict[str, Any] | None) -> None:
        """Take a line of metrics.jsonl, and show its validation and learning rate."""
        if line is None:
            return
        rate = line["train/learning_rate"]
        if self._line and rate != self._line["train/learning_rate"]:
            say(f"      learning rate {rate:.3g}, by step {line['step']:,}")
        steps, self._line_step = line["step"] - self._line_step, line["step"]
        self._line = line
        if "validation/loss" in line:
            self._validation = line
            self._set_bar(f"loss {line['train/loss']:.4f}", refresh=True)
            if self._bar.disable:
                rates = {k.removeprefix("validation/"): v for k, v in line.items()}
                words = errors_in_words(rates, self._classes)
                where = f"step {line['step']:,} (epoch {line['epoch']:.2f})"
                loss = f"loss {line['validation/loss']:.4f}"
                say("  ".join([f"validation after {where}: {loss}", *words]))
        self._explain_plateau(line["train/loss"], steps)

    def _explain_plateau(self, loss: float, steps: int) -> None:
        """Explain the known first plateau once, and again after twice as long."""
        chance = math.log(self._classes)  # the loss of a network that guesses
        near = abs(loss - chance) < 0.02 * chance
        self._stuck = self._stuck + steps if near else 0
        if self._stuck >= self._explain_at:
            text = (
                f"the loss has stood at ln(classes) = {chance:.2f} for "
                f"{self._stuck:,} steps, a known plateau of this network's first "
                "epochs. It can last thousands of steps; network.stddevs of 0.03 in "
                "conv3 to conv5, as in the 2012 code, shorten it"
            )
            explain(text, " " * 6)
            self._explain_at *= 2

    def close(self) -> None:
        """Leave the terminal's line as it is."""
        self._bar.close()


def opening(
    config: ConfigDict,
    mesh: Mesh,
    training: Source,
    validation: Source,
    steps: int,
    params: Any,
) -> str:
    """Images, devices, steps and size of a checkpoint, in two lines.

    Args:
        config: of the run.
        mesh: of its devices.
        training: images.
        validation: images.
        steps: in the whole run.
        params: shapes and dtypes of the parameters.
    """
    size = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    return (
        f"{len(training):,} images of {len(training.classes):,} classes, and "
        f"{len(validation):,} to validate\n"
        f"{steps:,} steps of {config.batch_size:,} images on {mesh.size} device(s) "
        f"({mesh.devices.flat[0].device_kind}); a checkpoint: up to "
        f"{size / 1e6:,.0f} MB"
    )


def ending(folder: Path) -> str:
    """The best validation of a run and the commands for it, in a few lines."""
    log, error = read_metrics(folder / "metrics.jsonl"), "validation/top1_error"
    validated = [line for line in reversed(log) if error in line]
    lines, network = [], f"--checkpoint={shlex.quote(str(folder))}"
    if validated:
        best = min(validated, key=lambda line: line[error])  # the last of equals
        step = f"after step {best['step']:,}"
        lines.append(f"best validation: top-1 error {best[error]:.2%} {step}")
        if best is not validated[0]:
            network += " --best"
    return "\n".join(
        [
            *lines,
            f"next: python -m alexnet_jax.evaluate {network} --views=10",
            f"      python -m alexnet_jax.predict {network} IMAGE",
        ]
    )


def parameter_table(params: Any, layers: Sequence[str]) -> str:
    """Layer, kernel shape and number of parameters, a line each, and their sum.

    What batch normalisation keeps is counted with the biases.
    """
    rows, total = [f"{'layer':8}{'kernel':>18}{'weights':>14}{'biases':>8}"], 0
    for layer in layers:
        kernel = params[layer]["kernel"]
        biases = sum(own.size for own in params[layer].values()) - kernel.size
        shape = "×".join(map(str, kernel.shape))
        rows.append(f"{layer:8}{shape:>18}{kernel.size:14,}{biases:8,}")
        total += kernel.size + biases
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
