"""What a config compiles to: the update of a network on a mesh, and its arguments."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import device, parallel
from alexnet_jax.experiment import make_network
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.optimizer import momentum_with_decay
from alexnet_jax.step import (
    State,
    batch_shapes,
    initial_state,
    make_train_step,
    state_shardings,
)


class Program(NamedTuple):
    """The training of a network on a mesh, ready to be called or only compiled.

    Attributes:
        network: the network.
        initialise: () → the first `State`, made where it will live.
        train_step: what `step.make_train_step` makes, compiled; the state given to it
            is used up.
        state: shape, dtype and place of every array of a `State`.
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
        """Compiles the update without running it, on any mesh (`jax.stages`)."""
        rates = jax.tree.map(lambda _: 0.0, self.state.params)
        return self.train_step.lower(
            self.state, self.batch, self.mean_image, rates
        ).compile()


def make_program(
    config: ml_collections.ConfigDict, classes: int, mesh: Mesh
) -> Program:
    """The program of a config for so many classes, on `experiment.make_mesh`."""
    network = make_network(config, classes)
    crop, size = config.augment.crop, config.dataset.image_size
    optimizer = momentum_with_decay(
        config.optimizer.momentum, config.optimizer.weight_decay
    )
    initialise = functools.partial(initial_state, network, optimizer, config.seed, crop)
    shapes = jax.eval_shape(initialise)
    shardings = state_shardings(shapes, mesh)
    everywhere = parallel.replicated(mesh)
    examples = NamedSharding(mesh, P(parallel.example_axes(mesh)))
    batch = batch_shapes(config.batch_size, size)
    return Program(
        network=network,
        initialise=device.jit(initialise, out_shardings=shardings),
        train_step=device.jit(
            make_train_step(
                network,
                optimizer,
                mesh,
                config.seed,
                crop,
                config.augment.mean_at,
                config.accumulation,
            ),
            donate_argnums=0,
            out_shardings=(shardings, everywhere),
        ),
        state=parallel.placed(shapes, shardings),
        batch=parallel.placed(batch, jax.tree.map(lambda _: examples, batch)),
        mean_image=jax.ShapeDtypeStruct(
            (size, size, 3), "float32", sharding=everywhere
        ),
    )
