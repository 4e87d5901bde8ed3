"""Config → objects: mesh, network, schedule and the compiled training step."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import device, inference, parallel
from alexnet_jax.config import check_fields
from alexnet_jax.errors import InputError
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.network.shapes import stages
from alexnet_jax.optimizer import (
    Drop,
    EpochSchedule,
    Plateau,
    chance_error,
    momentum_with_decay,
    read_drops,
    read_layer_drops,
)
from alexnet_jax.step import (
    State,
    batch_shapes,
    initial_params,
    make_train_step,
    state_of,
    state_shardings,
)

PRECISIONS = {
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float64": jnp.float64,  # inside of `device.float64`; float32 elsewhere
}


def check(config: ml_collections.ConfigDict) -> None:
    """Check every field of a config, alone and together with the others."""
    check_fields(config)
    _check_together(config)
    make_schedule(config)


def _check_together(config: ml_collections.ConfigDict) -> None:
    c, augment, side = config.network, config.augment, config.dataset.image_size
    if not config.steps and not config.epochs:
        raise InputError("epochs=0.0, steps=0: nothing to do; set one of them")
    if config.optimizer.schedule == "plateau" and not config.validate_every_epochs:
        raise InputError(
            "validate_every_epochs=0.0: the plateau rule needs validations; set it to "
            "1, or set optimizer.schedule='epochs'"
        )
    if c.response_depth % 2 == 0:
        raise InputError(f"network.response_depth={c.response_depth}: must be odd")
    if c.response_range == "layer" and config.mesh.tower > 1:
        raise InputError(
            f"mesh.tower={config.mesh.tower}: windows over the whole layer "
            "(network.response_range='layer') would cross between devices where the "
            "paper's GPUs did not communicate; set mesh.tower=1 or "
            "response_range='tower'"
        )
    for key, widths in (("kernels", c.kernels), ("units", c.units)):
        for width in widths:
            if width % c.towers:
                raise InputError(
                    f"network.{key}: {width} does not divide over network.towers="
                    f"{c.towers}"
                )
    devices = config.mesh.tower * config.mesh.fc
    for width in c.units:
        if config.mesh.fc > 1 and width % devices:
            raise InputError(
                f"mesh.fc={config.mesh.fc}: network.units={width} does not divide over "
                f"mesh.tower·mesh.fc={devices} devices; change mesh.fc"
            )
    if augment.crop > side:
        raise InputError(
            f"augment.crop={augment.crop}: larger than the images, "
            f"dataset.image_size={side}"
        )
    if augment.offsets > side - augment.crop + 1:
        raise InputError(
            f"augment.offsets={augment.offsets}: a crop of {augment.crop} pixels "
            f"(augment.crop) has {side - augment.crop + 1} positions in {side} "
            "(dataset.image_size); give as many or fewer"
        )
    for stage in stages(make_network(config, classes=2), augment.crop):
        reads_own_tower = stage.kernel and stage.groups > 1 and len(stage.kernel) == 2
        if reads_own_tower and config.mesh.fc > 1:
            raise InputError(
                f"mesh.fc={config.mesh.fc}: {stage.name} reads the units of its own "
                "tower alone and cannot be shared; set mesh.fc=1, or put 'exchange' "
                "before it in network.layers"
            )


def total_steps(config: ml_collections.ConfigDict, images: int) -> int:
    """Steps in the whole run, for so many training images."""
    return config.steps or math.ceil(config.epochs * images / config.batch_size)


def make_mesh(config: ml_collections.ConfigDict) -> Mesh:
    """The devices of a config."""
    return parallel.make_mesh(
        config.mesh.data,
        config.mesh.tower,
        config.network.towers,
        config.batch_size,
        config.mesh.fc,
        config.accumulation,
    )


def make_network(config: ml_collections.ConfigDict, classes: int) -> AlexNet:
    """The network of a config."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list | tuple) else value
        for key, value in config.network.items()
    }
    dtype = jax.dtypes.canonicalize_dtype(PRECISIONS[config.precision])
    return AlexNet(classes=classes, dtype=dtype, **values)


def make_probabilities(
    config: ml_collections.ConfigDict, network: AlexNet, mesh: Mesh, views: int = 1
) -> jax.stages.Wrapped:
    """`inference.make_probabilities` of a config's network, compiled."""
    crop, mean_at = config.augment.crop, config.augment.mean_at
    return device.jit(inference.make_probabilities(network, mesh, crop, views, mean_at))


def make_schedule(
    config: ml_collections.ConfigDict, classes: int = 1000, validation_images: int = 1
) -> Plateau | EpochSchedule:
    """The learning rates of a config over time.

    Args:
        config: its optimizer.* keys.
        classes: of the data set.
        validation_images: on which a plateau is seen.
    """
    c = config.optimizer
    bias_rate = c.rate * c.bias_rate_multiple
    if c.schedule == "plateau":
        chance = chance_error(classes, validation_images)
        return Plateau(
            c.rate, bias_rate, c.plateau_factor, c.plateau_drops, c.patience, chance
        )
    drops = read_drops(c.drops, "optimizer.drops")
    names = make_network(config, classes).weighted
    layers = read_layer_drops(c.layer_drops, names, "optimizer.layer_drops")
    return EpochSchedule([Drop(0, c.rate, bias_rate), *drops], layers)


def state_with(config: ml_collections.ConfigDict, params: Any) -> State:
    """The state of a config before the first step, with given parameters."""
    return state_of(params, _optimizer(config))


def _optimizer(
    config: ml_collections.ConfigDict,
) -> optax.GradientTransformationExtraArgs:
    c = config.optimizer
    return momentum_with_decay(c.momentum, c.weight_decay)


class Program(NamedTuple):
    """The training of a network on a mesh, ready to be called or only compiled.

    Attributes:
        network: the network.
        initialise: () → the first `State`, made on its shards.
        train_step: the result of `step.make_train_step`, compiled; it donates the state
            given to it.
        state: shape, dtype and sharding of every array of a `State`.
        batch: the same of a batch.
        mean_image: the same of the mean image.
    """

    network: AlexNet
    initialise: Callable[[], State]
    train_step: jax.stages.Wrapped
    state: State
    batch: dict[str, jax.ShapeDtypeStruct]
    mean_image: jax.ShapeDtypeStruct

    def compile(self) -> Any:
        """Compile the training step without running it, for any mesh (`jax.stages`)."""
        rates = jax.tree.map(lambda _: 0.0, self.state.params)
        return self.train_step.lower(
            self.state, self.batch, self.mean_image, rates
        ).compile()


def make_program(
    config: ml_collections.ConfigDict, classes: int, mesh: Mesh
) -> Program:
    """The training of a config on a mesh of `make_mesh`."""
    network = make_network(config, classes)
    crop, size = config.augment.crop, config.dataset.image_size

    def initial_state() -> State:
        return state_with(config, initial_params(network, config.seed, crop))

    shapes = jax.eval_shape(initial_state)
    shardings = state_shardings(shapes, network, mesh)
    everywhere = parallel.replicated(mesh)
    examples = NamedSharding(mesh, P(parallel.example_axes(mesh)))
    batch = batch_shapes(config.batch_size, size)
    train_step = make_train_step(
        network,
        _optimizer(config),
        mesh,
        config.seed,
        crop,
        config.augment.mean_at,
        config.accumulation,
    )
    return Program(
        network=network,
        initialise=device.jit(initial_state, out_shardings=shardings),
        train_step=device.jit(
            train_step, donate_argnums=0, out_shardings=(shardings, everywhere)
        ),
        state=parallel.with_shardings(shapes, shardings),
        batch=parallel.with_shardings(batch, jax.tree.map(lambda _: examples, batch)),
        mean_image=jax.ShapeDtypeStruct(
            (size, size, 3), shapes.sums.loss.dtype, sharding=everywhere
        ),
    )
