"""Config → objects: mesh, network, schedule and the compiled training step."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from alexnet_jax import device, inference, optimizer, parallel, schedules, step
from alexnet_jax.config import check_fields
from alexnet_jax.errors import InputError
from alexnet_jax.network.alexnet import DROPOUTS, AlexNet
from alexnet_jax.network.shapes import stages
from alexnet_jax.values import flat, hashable


def check(config: ConfigDict) -> None:
    """Check every field of a config, alone and together with the others."""
    check_fields(flat(config))
    for mistake in _mistakes(config):
        raise InputError(mistake)
    make_schedule(config)
    make_optimizer(config)


def _mistakes(config: ConfigDict) -> Iterator[str]:
    """Values that do not fit together."""
    c, mesh, crop = config.network, config.mesh, config.augment.crop
    side, towers, devices = config.dataset.image_size, c.towers, mesh.tower * mesh.fc
    if not config.steps and not config.epochs:
        yield "epochs=0.0, steps=0: nothing to do; set one of them"
    if config.start.statistics and not config.start.checkpoint:
        yield (
            "start.statistics=True: set start.checkpoint to the work directory that "
            "has them, or start.statistics=False"
        )
    if config.optimizer.schedule == "plateau" and not config.validate_every_epochs:
        yield (
            "validate_every_epochs=0.0: the plateau rule needs validations; set it to "
            "1, or set optimizer.schedule='epochs'"
        )
    rises = config.optimizer.warmup_epochs
    falls = config.optimizer.schedule == "polynomial" and not config.steps
    if falls and config.epochs <= rises:
        yield (
            f"optimizer.warmup_epochs={rises}: must be less than "
            f"epochs={config.epochs}, after which the run ends"
        )
    for key in ("response_depth", "spatial_size"):
        if c[key] % 2 == 0:
            yield f"network.{key}={c[key]}: must be odd"
    if c.response_range == "layer" and mesh.tower > 1:
        yield (
            f"mesh.tower={mesh.tower}: windows over the whole layer "
            "(network.response_range='layer') would cross between devices where the "
            "paper's GPUs did not communicate; set mesh.tower=1 or "
            "response_range='tower'"
        )
    for key, widths in (("kernels", c.kernels), ("units", c.units)):
        for width in (w for w in widths if w % towers):
            yield f"network.{key}: {width} does not divide over network.towers={towers}"
    for width in (w for w in c.units if mesh.fc > 1 and w % devices):
        yield (
            f"mesh.fc={mesh.fc}: network.units={width} does not divide over "
            f"mesh.tower·mesh.fc={devices} devices; change mesh.fc"
        )
    if crop > side:
        yield f"augment.crop={crop}: larger than the images, dataset.image_size={side}"
    if config.augment.offsets > side - crop + 1:
        yield (
            f"augment.offsets={config.augment.offsets}: a crop of {crop} pixels "
            f"(augment.crop) has {side - crop + 1} positions in {side} "
            "(dataset.image_size); give as many or fewer"
        )
    for stage in stages(make_network(config, classes=2), crop):
        if mesh.fc > 1 and stage.name in DROPOUTS and len(stage.output) == 3:
            yield (
                f"mesh.fc={mesh.fc}: {stage.label} is of maps, whose examples are not "
                "shared; set mesh.fc=1"
            )
        reads_own_tower = stage.kernel and stage.groups > 1 and len(stage.kernel) == 2
        if reads_own_tower and mesh.fc > 1:
            yield (
                f"mesh.fc={mesh.fc}: {stage.name} reads the units of its own tower "
                "alone and cannot be shared; set mesh.fc=1, or put 'exchange' before "
                "it in network.layers"
            )


def total_steps(config: ConfigDict, images: int) -> int:
    """Steps in the whole run, for so many training images."""
    return config.steps or math.ceil(config.epochs * images / config.batch_size)


def last_epoch(config: ConfigDict, images: int) -> float:
    """Epochs of the whole run, for so many training images."""
    return config.steps * config.batch_size / images if config.steps else config.epochs


def late_drops(config: ConfigDict, images: int) -> str:
    """`schedules.late_drops` of a config, for so many training images."""
    c, end = config.optimizer, last_epoch(config, images)
    return schedules.late_drops(c.schedule, c.drops, c.layer_drops, end)


def use_these_devices(config: ConfigDict) -> None:
    """Set a mesh of this machine's devices, in place of that of the training."""
    config.mesh.data = math.gcd(config.batch_size, jax.device_count())
    config.mesh.tower = config.mesh.fc = config.accumulation = 1


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices of a config, out of those given or of JAX's default backend."""
    c, towers, batch_size = config.mesh, config.network.towers, config.batch_size
    return parallel.make_mesh(
        c.data, c.tower, towers, batch_size, c.fc, config.accumulation, devices
    )


def require_memory(
    config: ConfigDict, classes: int, mesh: Mesh, training: bool = False
) -> None:
    """Refuse what no device has room for, before it is compiled or allocated.

    Less is counted than is needed: the weights, in training with their gradients and
    velocities, the images of a batch, and the largest activations.

    Args:
        config: of the network, the images and the batch.
        classes: units of the last layer.
        mesh: of the devices.
        training: counts a batch; otherwise one image.
    """
    network, size = make_network(config, classes), config.dataset.image_size
    own = stages(network, config.augment.crop)
    largest = max(own, key=lambda stage: math.prod(stage.kernel))
    widest = max(own, key=lambda stage: math.prod(stage.output))
    parts = mesh.shape[parallel.TOWER] * config.mesh.fc
    replicas = mesh.size // mesh.shape[parallel.TOWER]
    share = config.batch_size // (replicas * config.accumulation)
    images, arrays = (share, 3) if training else (1, 1)
    number = 8 if config.precision == "float64" else 4
    weights = sum(math.prod(stage.kernel) for stage in own if stage.kernel)
    item = np.dtype(network.dtype).itemsize
    counted = {
        f"network: {largest.name} has {math.prod(largest.kernel):,} weights": (
            weights * number * arrays // parts
        ),
        f"network: {widest.label} gives {math.prod(widest.output):,} activations for "
        f"each of {images:,} images": math.prod(widest.output) * item * images // parts,
        f"dataset.image_size={size}: a batch has {images:,} images": (
            (images + number) * 3 * size**2  # and the mean image
        ),
    }
    needed, there = sum(counted.values()), device.memory(mesh)
    if there is not None and needed > there:
        raise InputError(
            f"{max(counted, key=lambda what: counted[what])}; "
            f"{'training' if training else 'the network'} needs more than "
            f"{needed / 1e9:,.1f} GB for each device, and each has {there / 1e9:,.1f} "
            "GB; make network.units, network.kernels, dataset.image_size or batch_size "
            "smaller"
        )


def make_network(config: ConfigDict, classes: int) -> AlexNet:
    """The network of a config."""
    values: dict[str, Any] = {k: hashable(v) for k, v in config.network.items()}
    # float64 exists inside of `device.float64` and is float32 elsewhere.
    dtype = jax.dtypes.canonicalize_dtype(config.precision)
    return AlexNet(classes=classes, dtype=dtype, **values)


def make_probabilities(
    config: ConfigDict, network: AlexNet, mesh: Mesh, views: int = 1
) -> jax.stages.Wrapped:
    """`inference.make_probabilities` of a config's network, compiled."""
    crop, mean_at = config.augment.crop, config.augment.mean_at
    return device.jit(
        inference.make_probabilities(network, mesh, crop, views, mean_at), mesh
    )


def make_schedule(
    config: ConfigDict,
    classes: int = 1000,
    validation_images: int = 1,
    training_images: int = 1,
) -> schedules.Plateau | schedules.EpochSchedule | schedules.PolynomialSchedule:
    """The learning rates of a config.

    A plateau is judged by the first two counts; the last one gives the epochs of a
    training whose length is given in steps.
    """
    c = config.optimizer
    rates = c.rate, c.rate * c.bias_rate_multiple
    names = make_network(config, classes).weighted
    layers = schedules.read_layer_drops(c.layer_drops, names, "optimizer.layer_drops")
    drops = schedules.read_drops(c.drops, "optimizer.drops")
    if c.schedule == "plateau":
        chance = schedules.chance_error(classes, validation_images)
        return schedules.Plateau(
            *rates, c.plateau_factor, c.plateau_drops, c.patience, chance
        )
    if c.schedule == "polynomial":
        end = last_epoch(config, training_images)
        return schedules.PolynomialSchedule(*rates, c.power, c.warmup_epochs, end)
    return schedules.EpochSchedule([schedules.Drop(0, *rates), *drops], layers)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """The update rule of a config (§5)."""
    c = config.optimizer
    names = make_network(config, classes=1).weighted
    by_layer = optimizer.read_layer_decays(c.layer_decays, names)
    return optimizer.momentum_with_decay(c.momentum, c.weight_decay, by_layer, c.trust)


def _check_groups(config: ConfigDict, network: AlexNet, mesh: Mesh) -> None:
    """Batch normalisation takes images together that one device computes at once."""
    replicas = mesh.size // mesh.shape[parallel.TOWER]
    together = config.batch_size // (replicas * config.accumulation)
    if network.batch_normalised and together % network.batch_group:
        raise InputError(
            f"network.batch_group={network.batch_group}: does not divide the {together}"
            " images that a device computes together; change it, batch_size, mesh.data "
            "or accumulation"
        )


class Program(NamedTuple):
    """The training of a network on a mesh, ready to be called or only compiled."""

    network: AlexNet
    initialise: Callable[[], step.State]  # the first state, made on its shards
    train_step: jax.stages.Wrapped  # of `step.make_train_step`; it donates its state
    norms: jax.stages.Wrapped  # `step.norms`
    # Shapes, dtypes and shardings of the arguments of `train_step`:
    state: step.State
    batch: dict[str, jax.ShapeDtypeStruct]
    mean_image: jax.ShapeDtypeStruct

    def compile(self, options: dict[str, Any] | None = None) -> Any:
        """Compile the training step for its mesh, without running it.

        Args:
            options: of the compiler, over those of `device.jit`.
        """
        rates = jax.tree.map(lambda _: jnp.float32(0), self.state.params)
        return self.train_step.lower(
            self.state, self.batch, self.mean_image, rates
        ).compile(compiler_options=options)


def make_program(config: ConfigDict, classes: int, mesh: Mesh) -> Program:
    """The training of a config on a mesh of `make_mesh`."""
    network, rule = make_network(config, classes), make_optimizer(config)
    _check_groups(config, network, mesh)
    crop, size = config.augment.crop, config.dataset.image_size

    def initial_state() -> step.State:
        return step.state_of(step.initial_params(network, config.seed, crop), rule)

    train_step = step.make_train_step(
        network,
        rule,
        mesh,
        config.seed,
        crop,
        config.augment.mean_at,
        config.accumulation,
    )
    shapes = jax.eval_shape(initial_state)
    shardings = step.state_shardings(shapes, network, mesh)
    everywhere = parallel.replicated(mesh)
    examples = NamedSharding(mesh, P(parallel.example_axes(mesh)))
    batch = step.batch_shapes(config.batch_size, size)
    return Program(
        network=network,
        initialise=device.jit(initial_state, mesh, out_shardings=shardings),
        train_step=device.jit(
            train_step, mesh, donate_argnums=0, out_shardings=(shardings, everywhere)
        ),
        norms=device.jit(step.norms, mesh, out_shardings=everywhere),
        state=parallel.with_shardings(shapes, shardings),
        batch={name: x.update(sharding=examples) for name, x in batch.items()},
        mean_image=jax.ShapeDtypeStruct(
            (size, size, 3), shapes.sums.loss.dtype, sharding=everywhere
        ),
    )
