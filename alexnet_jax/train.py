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

from alexnet_jax import experiment, inference, inputs, parallel, processes, workdir
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.cli import say
from alexnet_jax.config import shared_by_processes
from alexnet_jax.console import Console, opening, parameter_table
from alexnet_jax.data.files import locked
from alexnet_jax.data.images import Source
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.device import float64, product_flops
from alexnet_jax.errors import InputError, NonFiniteError
from alexnet_jax.feed import CachedTransfer, Feed
from alexnet_jax.fingerprints import fingerprints_of, note_images
from alexnet_jax.inference import Model
from alexnet_jax.loggers import open_loggers, require_loggers
from alexnet_jax.metrics import Logger, MetricsFile
from alexnet_jax.network.shapes import training_flop
from alexnet_jax.progress import Clock, Progress, Trace
from alexnet_jax.schedules import Plateau, Rates
from alexnet_jax.step import State, parameter_shapes
from alexnet_jax.values import flat


def train(
    config: ml_collections.ConfigDict,
    folder: Path | str,
    profile: bool = False,
    skip_damaged: bool = False,
) -> int | None:
    """Train, with validations, from the newest checkpoint if there is one.

    Each of several processes (`processes.joined`) calls this with the same config and
    the same folder, on a disk that all of them share.

    Args:
        config: see alexnet_jax/config.py.
        folder: the work directory, created if missing; a run in the same one continues
            exactly where it stopped.
        profile: records a few steps in folder/profile (see `Trace`).
        skip_damaged: where the newest checkpoint is damaged, takes the one before it.

    Returns:
        The signal that stopped it, after a checkpoint; None if training is complete.
    """
    experiment.check(config)
    require_loggers(config.log_to)
    with float64(config.precision == "float64"):
        return _train(config, Path(folder), profile, skip_damaged)


def _train(
    config: ml_collections.ConfigDict, folder: Path, profile: bool, skip_damaged: bool
) -> int | None:
    processes.agree({**shared_by_processes(config), "--skip_damaged": skip_damaged})
    training = inputs.open_images(config, "train")
    validation = inputs.open_images(config, "validation", training.classes)
    mesh, classes = experiment.make_mesh(config), training.classes
    parallel.process_part(mesh)  # a mesh that spreads unevenly is refused here
    experiment.require_memory(config, len(classes), mesh, training=True)
    inputs.require_a_batch(training, config)
    processes.agree({
        "the images of dataset.train": len(training),
        "the images of dataset.validation": len(validation),
        "the classes of dataset.train": list(training.classes),
    })  # fmt: skip
    with locked(folder, "--workdir", "run") if processes.first() else nullcontext():
        sets = fingerprints_of(training, validation)
        workdir.settle_config(config, folder, len(training), sets)
        workdir.settle_classes(training.classes, config, folder)
        network = experiment.make_network(config, len(training.classes))
        steps = experiment.total_steps(config, len(training))
        shapes = parameter_shapes(network, config.augment.crop)
        say(opening(config, mesh, training, validation, steps, shapes))
        if late := experiment.late_drops(config, len(training)):
            say(late)
        training, statistics = inputs.surveyed(training, config, folder)
        inputs.require_a_batch(training, config)
        checkpoints = workdir.open_checkpoints(config, classes, folder, skip_damaged)
        with processes.stop_signal() as stop, closing(checkpoints):
            run = Run(
                config, folder, mesh, training, validation, statistics, checkpoints
            )
            note_images(sets, folder)
            run.go(stop, profile)
    done = int(run.state.step)
    if stop.signal and done < run.total and not run.schedule.finished:
        say(f"stopped after step {done:,}; the same command continues the run")
        return stop.signal
    say(f"done: {folder}")
    return None


@dataclasses.dataclass
class Run:
    """One training, from its first step or newest checkpoint to its end."""

    config: ml_collections.ConfigDict
    folder: Path
    mesh: Mesh
    training: Source
    validation: Source
    statistics: Statistics
    checkpoints: Checkpoints

    def __post_init__(self):
        """Restore the state, or initialise it on its shards."""
        config, classes = self.config, len(self.training.classes)
        self.part = parallel.process_part(self.mesh)
        counts = classes, len(self.validation), len(self.training)
        self.schedule = experiment.make_schedule(config, *counts)
        self.total = experiment.total_steps(config, len(self.training))
        self.program = experiment.make_program(config, classes, self.mesh)
        network = self.program.network
        self.layers = network.weighted
        self.mean_image = parallel.replicate(
            self.mesh, self.statistics.mean_image.astype(self.program.mean_image.dtype)
        )
        self.probabilities = experiment.make_probabilities(config, network, self.mesh)
        self.state, self.seconds = self.first_state()

    def first_state(self) -> tuple[State, float]:
        """The state to start from, and the seconds trained before it."""
        say(parameter_table(self.program.state.params, self.layers))
        if self.checkpoints.newest is None:
            return self.begun(), 0.0
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

    def begun(self) -> State:
        """The state of step 0: random, or with the weights of another run (§6)."""
        state, start = self.program.initialise(), self.config.start
        if not start.checkpoint and not start.fresh:
            return state
        params = workdir.starting_params(
            start, self.program.state.params, self.checkpoints.skip_damaged
        )
        say(f"starting from {start.checkpoint}: {' '.join(params)}")
        return dataclasses.replace(state, params={**state.params, **params})

    def go(self, stop: processes.Stop, profile: bool) -> None:
        """Train to the end or a signal: steps, lines, validations and checkpoints."""
        config, done, first = self.config, int(self.state.step), processes.first()
        trace = Trace(
            self.folder / "profile" if profile and first else None, done, self.total
        )
        clock, log = Clock(), self.open_log(done) if first else []
        progress = Progress(log, clock, config.batch_size, self.peak_speed())
        images, classes = len(self.training), len(self.training.classes)
        console = Console(config, clock, done, self.total, images, classes)
        started = time.perf_counter()
        batches = inputs.training_input(
            config, self.training, self.statistics, self.part, start_step=done
        )
        feed = Feed(batches, self.mesh)
        cached_rates, loss = CachedTransfer(self.mesh), jnp.zeros(())
        with closing(console), closing(progress), closing(feed), closing(trace):
            for step in range(done + 1, self.total + 1):
                if self.schedule.finished:
                    break
                trace.before(step, loss)
                batch = feed.take(busy_with=loss)
                rates = self.schedule.rates(self.epoch(step - 1), self.layers)
                on_devices, before = cached_rates.put(rates), loss
                with jax.profiler.StepTraceAnnotation("step", step_num=step):
                    self.state, loss = self.program.train_step(
                        self.state, batch, self.mean_image, on_devices
                    )
                # The devices are busy with this step: read the loss of the one before.
                console.step(step - 1, self.finite(before, step - 1), feed.waited)
                console.line(progress.flush(feed.waited))

                last = stop.asked(step) or step == self.total
                validate = self.validation_due(step) or step == self.total
                norms = is_multiple(step, config.log_norms_every_steps)
                error = math.inf
                if is_multiple(step, config.log_every_steps) or validate or norms:
                    line = self.take_line(step, rates)
                    if norms:
                        line["norms"] = self.norms(on_devices)
                    if validate:
                        console.step(step, self.finite(loss, step), feed.waited)
                        with console.validating():
                            line |= self.validate(step)
                        error = line["validation/top1_error"]
                    progress.hold(line)
                last = last or self.schedule.finished
                best = error < self.checkpoints.best_error
                if is_multiple(step, config.checkpoint_every_steps) or best or last:
                    # A resumed run does not write the lines up to here again.
                    self.finite(loss, step)
                    console.line(progress.flush(feed.waited))
                    self.save(self.seconds + time.perf_counter() - started, error)
                if last:
                    break

    def open_log(self, done: int) -> list[Logger]:
        """metrics.jsonl, and what log_to names, from the last step done on."""
        metrics = MetricsFile(self.folder / "metrics.jsonl", done)
        names, values = self.config.log_to, flat(self.config)
        return [metrics, *open_loggers(names, self.folder, done, values)]

    def peak_speed(self) -> float | None:
        """Images a second if the devices did nothing but matrix products."""
        network = self.program.network
        flops = product_flops(self.mesh, network.dtype)
        return flops and flops / training_flop(network, self.config.augment.crop)

    def epoch(self, step: int) -> float:
        """Passes over the training images after so many steps."""
        return step * self.config.batch_size / len(self.training)

    def validation_due(self, step: int) -> bool:
        """Whether an epoch that is followed by a validation ends with this step."""
        every = self.config.validate_every_epochs
        return bool(every) and self.epoch(step) // every > self.epoch(step - 1) // every

    def take_line(self, step: int, rates: Rates) -> dict[str, Any]:
        """Take the sums out of the state; they are read when the line is written."""
        line = {
            "step": step,
            "epoch": self.epoch(step),
            "train": self.state.sums,
            "train/learning_rate": rates[self.layers[-1]]["kernel"],
            "norms": {},
        }
        # Zeros of the host: on the devices they would be made after this step only.
        zero = jax.tree.map(lambda x: np.zeros((), x.dtype), self.state.sums)
        zero = parallel.replicate(self.mesh, zero)
        self.state = dataclasses.replace(self.state, sums=zero)
        return line

    def norms(self, rates: Any) -> dict[str, jax.Array]:
        """`step.norms` after this step, on the devices."""
        return self.program.norms(self.state.params, self.state.opt_state.trace, rates)

    def validate(self, step: int) -> dict[str, float]:
        """Errors over the centre views of the validation images (§5)."""
        model = Model(self.probabilities, self.state.params, self.mean_image)
        batches = inputs.evaluation_input(
            self.config, self.validation, self.part, allow_unreadable=True
        )
        with closing(batches):
            rates, unreadable = inference.error_rates([model], batches, self.mesh)
        if not rates.pop("images"):
            raise InputError(
                f"dataset.validation={self.config.dataset.validation!r}: none of its "
                "images can be decoded"
            )
        unreadable = processes.of_all(unreadable, len(self.validation))
        if unreadable and processes.first():
            inputs.name_unreadable(
                self.validation, unreadable, self.folder / "unreadable_validation.txt"
            )
        if isinstance(self.schedule, Plateau) and self.validation_due(step):
            self.schedule = self.schedule.after_validation(rates["top1_error"])
        return {f"validation/{name}": rate for name, rate in rates.items()}

    def save(self, seconds: float, error: float) -> None:
        """Save the state, and what the host remembers of the training."""
        on_host: dict[str, Any] = {"seconds": seconds, "pictures": len(self.training)}
        if isinstance(self.schedule, Plateau):
            on_host["plateau"] = self.schedule.memory()
        self.checkpoints.save(self.state, on_host, error)

    def finite(self, loss: jax.Array, step: int) -> float:
        """The loss of a step; one that is not finite ends the training."""
        value = float(loss)
        if not math.isfinite(value):
            what = f"the loss is {value} at step {step:,}"
            raise NonFiniteError(what, self.checkpoints.newest)
        return value


def is_multiple(step: int, every: int) -> bool:
    """Whether something is due that happens every so many steps; 0: never."""
    return every > 0 and step % every == 0
