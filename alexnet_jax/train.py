"""The training loop, and only the loop."""

import dataclasses
import math
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import (
    device,
    experiment,
    inference,
    inputs,
    parallel,
    processes,
    workdir,
)
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.cli import say
from alexnet_jax.config import shared_by_processes
from alexnet_jax.data.files import locked
from alexnet_jax.data.images import Source
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError, NonFiniteError
from alexnet_jax.feed import CachedTransfer, Feed
from alexnet_jax.inference import Model
from alexnet_jax.metrics import MetricsFile
from alexnet_jax.network.shapes import training_flop
from alexnet_jax.optimizer import Plateau, Rates
from alexnet_jax.progress import Progress, Trace, parameter_table
from alexnet_jax.step import State


def train(
    config: ml_collections.ConfigDict, folder: Path, profile: bool = False
) -> int | None:
    """Train, validating on the way, from the newest checkpoint if there is one.

    Each of several processes (`processes.joined`) calls this with the same config and
    the same folder, on a disk that all of them share.

    Args:
        config: see alexnet_jax/config.py.
        folder: the work directory, created if missing; a run in the same one continues
            exactly where it stopped.
        profile: records a few steps in folder/profile (see `Trace`).

    Returns:
        The signal that stopped it, after a checkpoint; None where it is complete.

    Raises:
        InputError: config, data, mesh or work directory do not fit, or another run uses
            it.
        NonFiniteError: the loss is not finite; the last good checkpoint is kept.
    """
    experiment.check(config)
    with device.float64(config.precision == "float64"):
        return _train(config, folder, profile)


def _train(
    config: ml_collections.ConfigDict, folder: Path, profile: bool
) -> int | None:
    processes.agree(shared_by_processes(config))
    training = inputs.open_images(config, "train")
    validation = inputs.open_images(config, "validation", training.classes)
    mesh = experiment.make_mesh(config)
    parallel.process_part(mesh)
    inputs.require_a_batch(training, config)
    processes.agree({
        "the images of dataset.train": len(training),
        "the images of dataset.validation": len(validation),
        "the classes of dataset.train": list(training.classes),
    })  # fmt: skip
    with locked(folder, "--workdir", "run") if processes.first() else nullcontext():
        workdir.settle_config(config, folder, len(training))
        workdir.settle_classes(training.classes, config, folder)
        training, statistics = inputs.surveyed(training, config, folder)
        inputs.require_a_batch(training, config)
        checkpoints = Checkpoints(
            folder / "checkpoints", keep=config.checkpoints_to_keep
        )
        with processes.stop_signal() as stop, closing(checkpoints):
            run = Run(
                config,
                folder,
                mesh,
                training,
                validation,
                statistics,
                checkpoints,
                profile,
            )
            run.go(stop)
    done = int(run.state.step)
    if stop.signal and done < run.total and not run.finished:
        say(f"stopped after step {done:,}; the same command continues the run")
        return stop.signal
    say(f"done: {folder}")
    return None


class Run:
    """One training from its start, or its newest checkpoint, to its end."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        folder: Path,
        mesh: Mesh,
        training: Source,
        validation: Source,
        statistics: Statistics,
        checkpoints: Checkpoints,
        profile: bool,
    ):
        """Restore the state, or initialise it on its shards."""
        self.config, self.folder, self.mesh = config, folder, mesh
        self.training, self.validation = training, validation
        self.statistics = statistics
        classes = len(training.classes)
        self.schedule = experiment.make_schedule(config, classes, len(validation))
        self.program = experiment.make_program(config, classes, mesh)
        self.layers = self.program.network.weighted
        self.mean_image = parallel.replicate(
            mesh, statistics.mean_image.astype(self.program.mean_image.dtype)
        )
        self.probabilities = experiment.make_probabilities(
            config, self.program.network, mesh
        )
        self.total = experiment.total_steps(config, len(training))
        self.checkpoints = checkpoints
        self.state, self.seconds = self.first_state()
        done = int(self.state.step)
        self.trace = Trace(
            folder / "profile" if profile and processes.first() else None,
            done,
            self.total,
        )
        self.progress = Progress(
            MetricsFile(folder / "metrics.jsonl", done) if processes.first() else None,
            config,
            len(training),
            classes,
            self.total,
            self.peak_images_per_second(),
        )

    def first_state(self) -> tuple[State, float]:
        """The state to start from, and the seconds trained before it."""
        say(parameter_table(self.program.state.params, self.layers))
        if self.checkpoints.newest is None:
            return self.program.initialise(), 0.0
        state, on_host = self.checkpoints.restore(self.program.state)
        before = on_host.get("pictures", len(self.training))  # absent after convert
        if before != len(self.training):
            raise InputError(
                f"dataset.train={self.config.dataset.train!r}: has "
                f"{len(self.training):,} images that can be decoded and had {before:,} "
                f"when {self.folder} was begun; restore them, or give another --workdir"
            )
        if isinstance(self.schedule, Plateau) and "plateau" in on_host:
            self.schedule = self.schedule.with_memory(on_host["plateau"])
        say(f"continuing after step {int(state.step):,}")
        return state, on_host.get("seconds", 0.0)

    def peak_images_per_second(self) -> float:
        """If the devices only multiplied matrices: MFU is a share of it."""
        network = self.program.network
        flop = training_flop(network, self.config.augment.crop)
        return device.product_flops(self.mesh, network.dtype) / flop

    def go(self, stop: processes.Stop) -> None:
        """Steps, lines, validations and checkpoints until the end, or a signal."""
        config, done = self.config, int(self.state.step)
        started = time.perf_counter()
        feed = Feed(
            inputs.training_input(
                config,
                self.training,
                self.statistics,
                parallel.process_part(self.mesh),
                start_step=done,
            ),
            self.mesh,
        )
        cached_rates, loss = CachedTransfer(self.mesh), jnp.zeros(())
        line: dict[str, Any] = {}  # to be written when its numbers are computed
        with closing(self.progress), closing(feed), closing(self.trace):
            for step in range(done + 1, self.total + 1):
                if self.finished:
                    break
                self.trace.before(step, loss)
                batch = feed.take(busy_with=loss)
                rates = self.rates(step)
                before = loss
                with jax.profiler.StepTraceAnnotation("step", step_num=step):
                    self.state, loss = self.program.train_step(
                        self.state, batch, self.mean_image, cached_rates.put(rates)
                    )
                # The devices are busy with this step: read the loss of the one before.
                require_finite(before, step - 1)
                if line:
                    self.progress.write(line, feed.waited)
                    line = {}

                last = stop.asked(step) or step == self.total
                validate = self.validation_due(step) or step == self.total
                if step % config.log_every_steps == 0 or validate:
                    line = self.take_line(step, rates)
                if validate:
                    require_finite(loss, step)
                    line |= self.validate(step)
                if step % config.checkpoint_every_steps == 0 or last or self.finished:
                    # A resumed run does not write the lines up to here again.
                    require_finite(loss, step)
                    if line:
                        self.progress.write(line, feed.waited)
                        line = {}
                    self.save(self.seconds + time.perf_counter() - started)
                if last:
                    break

    @property
    def finished(self) -> bool:
        """Whether the plateau rule has ended the training."""
        return isinstance(self.schedule, Plateau) and self.schedule.finished

    def epoch(self, step: int) -> float:
        """Passes over the training images after so many steps."""
        return step * self.config.batch_size / len(self.training)

    def rates(self, step: int) -> Rates:
        """The learning rates of a step, counted from 1."""
        return self.schedule.rates(self.epoch(step - 1), self.layers)

    def validation_due(self, step: int) -> bool:
        """Whether an epoch that is followed by a validation ends with this step."""
        every = self.config.validate_every_epochs
        if every == 0:
            return False
        return self.epoch(step) // every > self.epoch(step - 1) // every

    def take_line(self, step: int, rates: Rates) -> dict[str, Any]:
        """Take the sums out of the state; they are read when the line is written."""
        line = {
            "step": step,
            "epoch": self.epoch(step),
            "train": self.state.sums,
            "train/learning_rate": rates[self.layers[-1]]["kernel"],
        }
        # Zeros of the host: on the devices they would be made after this step only.
        zero = jax.tree.map(lambda x: np.zeros((), x.dtype), self.state.sums)
        zero = parallel.replicate(self.mesh, zero)
        self.state = dataclasses.replace(self.state, sums=zero)
        return line

    def validate(self, step: int) -> dict[str, float]:
        """Errors over the centre views of the validation images (§5)."""
        config = self.config
        model = Model(self.probabilities, self.state.params, self.mean_image)
        batches = inputs.evaluation_input(
            config,
            self.validation,
            parallel.process_part(self.mesh),
            allow_unreadable=True,
        )
        with self.progress.validating(), closing(batches):
            rates, unreadable = inference.error_rates([model], batches, self.mesh)
        if not rates["images"]:
            raise InputError(
                f"dataset.validation={config.dataset.validation!r}: none of its "
                "images can be decoded"
            )
        unreadable = processes.of_all(unreadable, len(self.validation))
        if unreadable and processes.first():
            inputs.name_unreadable(
                self.validation, unreadable, self.folder / "unreadable_validation.txt"
            )
        if isinstance(self.schedule, Plateau) and self.validation_due(step):
            self.schedule = self.schedule.after_validation(rates["top1_error"])
        return {
            f"validation/{name}": rates[name]
            for name in ("loss", "top1_error", "top5_error")
        }

    def save(self, seconds: float) -> None:
        """Save the state of the training."""
        on_host: dict[str, Any] = {"seconds": seconds, "pictures": len(self.training)}
        if isinstance(self.schedule, Plateau):
            on_host["plateau"] = self.schedule.memory()
        self.checkpoints.save(self.state, on_host)


def require_finite(loss: jax.Array, step: int) -> None:
    """Stop the run when the loss of a step is not finite.

    Raises:
        NonFiniteError: naming the step.
    """
    if not math.isfinite(float(loss)):
        raise NonFiniteError(f"the loss is {float(loss)} at step {step}")
