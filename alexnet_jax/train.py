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
    experiment,
    inference,
    parallel,
    pictures,
    processes,
    runs,
)
from alexnet_jax.benchmark import limits, work
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.cli import say
from alexnet_jax.data.files import locked
from alexnet_jax.data.loader import evaluation_batches, training_batches
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.sources import Source
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError, NonFiniteError
from alexnet_jax.feed import Feed, SeldomChanging
from alexnet_jax.inference import Model
from alexnet_jax.metrics import MetricsFile
from alexnet_jax.network.alexnet import LAYERS
from alexnet_jax.optimizer import Plateau, Rates
from alexnet_jax.program import make_program
from alexnet_jax.progress import Progress, parameter_table
from alexnet_jax.step import State
from alexnet_jax.stop import Stop, stop_signal
from alexnet_jax.trace import Trace


def train(
    config: ml_collections.ConfigDict, workdir: Path, profile: bool = False
) -> int | None:
    """Trains, validating as it goes, from the newest checkpoint if there is one.

    Args:
        config: see configs/base.py.
        workdir: made where there is none; a run with the same one goes on exactly
            where it stopped.
        profile: records a few updates in workdir/profile (see `Trace`).

    Each of several processes (`processes.joined`) calls this with the same config and
    the same workdir, on a disk that all of them share.

    Returns:
        The signal that stopped it, after a checkpoint; None where it came to its end.

    Raises:
        InputError: config, data, mesh or work directory do not fit, or another run is
            at work in that.
        NonFiniteError: the loss is not finite; the last good checkpoint is kept.
    """
    experiment.check(config)
    processes.agree(experiment.shared_by_processes(config))
    training = pictures.open_pictures(config, "train")
    validation = pictures.open_pictures(config, "validation", training.classes)
    mesh = experiment.make_mesh(config)
    parallel.own_part(mesh)
    pictures.require_a_batch(training, config)
    processes.agree(pictures.facts(training, validation))
    with locked(workdir, "--workdir", "run") if processes.first() else nullcontext():
        runs.settle_config(config, workdir, len(training))
        runs.settle_classes(training.classes, config, workdir)
        training, statistics = pictures.surveyed(training, config, workdir)
        pictures.require_a_batch(training, config)
        checkpoints = Checkpoints(
            workdir / "checkpoints", keep=config.checkpoints_to_keep
        )
        with stop_signal() as stop, closing(checkpoints):
            run = Run(
                config,
                workdir,
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
        say(f"stopped after update {done:,}; the same command goes on")
        return stop.signal
    say(f"done: {workdir}")
    return None


class Run:
    """One training from its start, or its newest checkpoint, to its end."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        mesh: Mesh,
        training: Source,
        validation: Source,
        statistics: Statistics,
        checkpoints: Checkpoints,
        profile: bool,
    ):
        """Restores the state, or initialises it in its place on the mesh."""
        self.config, self.workdir, self.mesh = config, workdir, mesh
        self.training, self.validation = training, validation
        self.schedule = experiment.make_schedule(config)
        self.augmentation = experiment.make_augmentation(
            config, statistics, len(training)
        )
        self.mean_image = parallel.everywhere(mesh, statistics.mean_image)
        self.program = make_program(config, len(training.classes), mesh)
        self.probabilities = experiment.make_probabilities(
            config, self.program.network, mesh
        )
        self.total = experiment.updates(config, len(training))
        self.checkpoints = checkpoints
        self.state, self.seconds = self.first_state()
        self.trace = Trace(
            workdir / "profile" if profile and processes.first() else None,
            int(self.state.step),
            self.total,
        )
        self.progress = Progress(
            MetricsFile(workdir / "metrics.jsonl", int(self.state.step))
            if processes.first()
            else None,
            config,
            len(training),
            len(training.classes),
            self.total,
            self.most_images_per_second(),
        )

    def first_state(self) -> tuple[State, float]:
        """The state to start from, and the seconds trained before it."""
        say(parameter_table(self.program.state.params))
        if self.checkpoints.newest is None:
            return self.program.initialise(), 0.0
        state, memory = self.checkpoints.restore(self.program.state)
        before = memory.get("pictures", len(self.training))  # convert knows of none
        if before != len(self.training):
            raise InputError(
                f"dataset.train={self.config.dataset.train!r}: has "
                f"{len(self.training):,} pictures that can be decoded and had "
                f"{before:,} when {self.workdir} was begun; restore them, or give "
                "another --workdir"
            )
        if isinstance(self.schedule, Plateau) and "plateau" in memory:
            self.schedule = self.schedule.with_memory(memory["plateau"])
        say(f"going on after update {int(state.step):,}")
        return state, memory.get("seconds", 0.0)

    def most_images_per_second(self) -> float:
        """If the devices did nothing but multiply matrices: what MFU is a share of."""
        network, images = self.program.network, self.config.batch_size
        layers = work.layers_of(network, images, self.config.augment.crop)
        flop = work.training_flop(layers) / images
        return limits.product_flops(self.mesh, network.dtype) / flop

    def go(self, stop: Stop) -> None:
        """Updates, lines, validations and checkpoints until the end, or a signal."""
        config, done = self.config, int(self.state.step)
        started = time.perf_counter()
        process_index, process_count = parallel.own_part(self.mesh)
        feed = Feed(
            training_batches(
                self.training,
                Square(config.dataset.image_size),
                self.augmentation,
                batch_size=config.batch_size,
                start_step=done,
                process_index=process_index,
                process_count=process_count,
                seed=config.seed,
                workers=config.dataset.workers,
                threads=config.dataset.threads,
            ),
            self.mesh,
        )
        rates_there, loss = SeldomChanging(self.mesh), jnp.zeros(())
        line: dict[str, Any] = {}  # to be written once its numbers are read
        with closing(self.progress), closing(feed), closing(self.trace):
            for step in range(done + 1, self.total + 1):
                if self.finished:
                    break
                self.trace.before(step, loss)
                batch = feed.take(busy_with=loss)
                rates = self.rates(step)
                before = loss
                with jax.profiler.StepTraceAnnotation("update", step_num=step):
                    self.state, loss = self.program.train_step(
                        self.state, batch, self.mean_image, rates_there.there(rates)
                    )
                # The devices are busy with this step; now the last one is read.
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
                    # What metrics.jsonl tells up to here is never written again.
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
        """How often all pictures have been seen after so many updates."""
        return step * self.config.batch_size / len(self.training)

    def rates(self, step: int) -> Rates:
        """The rates of an update, counted from 1."""
        return self.schedule.rates(self.epoch(step - 1), LAYERS)

    def validation_due(self, step: int) -> bool:
        """Whether an epoch to validate after ends with this update."""
        every = self.config.validate_every_epochs
        if every == 0:
            return False
        return self.epoch(step) // every > self.epoch(step - 1) // every

    def take_line(self, step: int, rates: Rates) -> dict[str, Any]:
        """Takes the sums out of the state; they are read when the line is written."""
        line = {
            "step": step,
            "epoch": self.epoch(step),
            "train": self.state.sums,
            "train/learning_rate": rates["fc8"]["kernel"],
        }
        # Made here: the devices would make zeros after this step, and we wait for it.
        zero = jax.tree.map(lambda _: np.zeros((), np.float32), self.state.sums)
        zero = parallel.everywhere(self.mesh, zero)
        self.state = dataclasses.replace(self.state, sums=zero)
        return line

    def validate(self, step: int) -> dict[str, float]:
        """Errors over the centre views of the validation pictures (§5)."""
        config = self.config
        model = Model(self.probabilities, self.state.params, self.mean_image)
        process_index, process_count = parallel.own_part(self.mesh)
        with (
            self.progress.validating(),
            closing(
                evaluation_batches(
                    self.validation,
                    Square(config.dataset.image_size),
                    batch_size=config.batch_size // config.accumulation,
                    process_index=process_index,
                    process_count=process_count,
                    workers=config.dataset.workers,
                    threads=config.dataset.threads,
                    allow_unreadable=True,
                )
            ) as batches,
        ):
            rates, unreadable = inference.error_rates([model], batches, self.mesh)
        if not rates["images"]:
            raise InputError(
                f"dataset.validation={config.dataset.validation!r}: none of its "
                "pictures can be decoded"
            )
        unreadable = processes.of_all(unreadable, len(self.validation))
        if unreadable and processes.first():
            pictures.name_unreadable(
                self.validation, unreadable, self.workdir / "unreadable_validation.txt"
            )
        if isinstance(self.schedule, Plateau) and self.validation_due(step):
            self.schedule = self.schedule.after_validation(rates["top1_error"])
        return {
            f"validation/{name}": rates[name]
            for name in ("loss", "top1_error", "top5_error")
        }

    def save(self, seconds: float) -> None:
        """Saves all that the next start needs."""
        memory: dict[str, Any] = {"seconds": seconds, "pictures": len(self.training)}
        if isinstance(self.schedule, Plateau):
            memory["plateau"] = self.schedule.memory()
        self.checkpoints.save(self.state, memory)


def require_finite(loss: jax.Array, step: int) -> None:
    """Stops the run when a step's loss is not finite.

    Raises:
        NonFiniteError: naming the step.
    """
    if not math.isfinite(float(loss)):
        raise NonFiniteError(f"the loss is {float(loss)} at update {step}")
