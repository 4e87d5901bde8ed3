"""Where the time of a training step goes: each operation compiled and timed alone."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from alexnet_jax import device
from alexnet_jax.benchmark import clock
from alexnet_jax.benchmark.limits import Limits
from alexnet_jax.benchmark.work import Layer, layers_of
from alexnet_jax.network.alexnet import AlexNet, Convolution
from alexnet_jax.network.ops import (
    convolution,
    dropout,
    overlapping_pooling,
    spatial_normalisation,
)
from alexnet_jax.optimizer import momentum_with_decay
from alexnet_jax.program import Program
from alexnet_jax.step import training_pixels

ROUNDS, READING = 3, 0.1  # seconds


class Operation(NamedTuple):
    """A part of a training step.

    Attributes:
        name: layer and operation.
        function: of arrays.
        arguments: shapes and dtypes of the arrays.
        flop: of its matrix product; 0 where it has none.
        in_place: its result takes the place of its first argument.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    flop: int = 0
    in_place: bool = False

    @property
    def bytes(self) -> int:
        """To read each argument once and to write each result once."""
        results = jax.eval_shape(self.function, *self.arguments)
        arrays = jax.tree.leaves((self.arguments, results))
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)


class Measured(NamedTuple):
    """A row of the table."""

    operation: Operation
    seconds: float
    least_seconds: float  # that the limits allow

    def as_json(self) -> dict[str, Any]:
        """The row for machines."""
        return {
            "name": self.operation.name,
            "milliseconds": self.seconds * 1e3,
            "gflops": self.operation.flop / self.seconds / 1e9,
            "share_of_limit": self.least_seconds / self.seconds,
        }


def measure(operations: Iterable[Operation], limits: Limits) -> list[Measured]:
    """Times every operation beside the least time that the limits allow."""
    measured = []
    for operation in operations:
        run = _run(operation)
        run(1)  # compiles it
        times = clock.in_turn({"": run}, ROUNDS, READING)[""]
        least = limits.seconds(operation.flop, operation.bytes)
        measured.append(Measured(operation, times.median, least))
    return measured


def _run(operation: Operation) -> Callable[[int], None]:
    first, *others = _filled(operation.arguments)
    if not operation.in_place:
        return clock.on_device(
            functools.partial(device.jit(operation.function), first, *others)
        )
    function, held = device.jit(operation.function, donate_argnums=0), [first]

    def again() -> Any:
        held[0] = function(held[0], *others)
        return held[0]

    return clock.on_device(again)


def operations_of(
    config: ml_collections.ConfigDict, program: Program
) -> Iterator[Operation]:
    """The operations of a training step in the order of the forward pass.

    Args:
        config: of one device.
        program: `program.make_program` of it.
    """
    side, mean_at = config.augment.crop, config.augment.mean_at
    yield Operation(
        "pixels",
        lambda batch, mean_image: training_pixels(batch, mean_image, side, mean_at),
        (program.batch, program.mean_image),
    )
    network = program.network
    normalise = functools.partial(network.apply, {}, method="normalise")
    for layer in layers_of(network, config.batch_size, config.augment.crop):
        yield from _products(layer, network.dtype)
        maps = jax.ShapeDtypeStruct(layer.output, network.dtype)
        if layer.name in ("conv1", "conv2"):
            yield from _both_ways(f"{layer.name} normalisation", normalise, maps)
        if layer.name == "conv2" and network.spatial_alpha:
            within = functools.partial(
                spatial_normalisation, alpha=network.spatial_alpha
            )
            yield from _both_ways("conv2 spatial normalisation", within, maps)
        if layer.name in ("conv1", "conv2", "conv5"):
            yield from _both_ways(f"{layer.name} pooling", overlapping_pooling, maps)
        if layer.name in ("fc6", "fc7"):
            seed = jax.ShapeDtypeStruct((), jnp.int32)
            yield Operation(f"{layer.name} dropout", _dropout(network), (maps, seed))
    yield _update(config, program)


def _update(config: ml_collections.ConfigDict, program: Program) -> Operation:
    """Weight decay, velocity and step of all parameters."""
    optimizer = momentum_with_decay(
        config.optimizer.momentum, config.optimizer.weight_decay
    )

    def update(params_and_velocity, gradients, rates):
        params, velocity = params_and_velocity
        updates, velocity = optimizer.update(gradients, velocity, params, rates=rates)
        return optax.apply_updates(params, updates), velocity

    params, velocity = program.state.params, program.state.velocity
    rates = jax.tree.map(lambda _: jax.ShapeDtypeStruct((), jnp.float32), params)
    return Operation(
        "update", update, ((params, velocity), params, rates), in_place=True
    )


def _products(layer: Layer, dtype: Any) -> Iterator[Operation]:
    """The product of a layer, and those of its gradients."""
    x = jax.ShapeDtypeStruct(layer.input, dtype)
    kernel = jax.ShapeDtypeStruct(layer.kernel, dtype)
    gradient = jax.ShapeDtypeStruct(layer.output, dtype)

    def multiply(x, kernel):
        if not isinstance(layer.module, Convolution):
            return x @ kernel
        return convolution(
            x,
            kernel,
            stride=layer.module.stride,
            padding=layer.module.padding,
            towers=layer.module.groups,
        )

    # Neither gradient of a product depends on what it is taken with respect to.
    def of_kernel(x, gradient):
        _, pull_back = jax.vjp(multiply, x, jnp.zeros(kernel.shape, dtype))
        return pull_back(gradient)[1]

    def of_input(kernel, gradient):
        _, pull_back = jax.vjp(multiply, jnp.zeros(x.shape, dtype), kernel)
        return pull_back(gradient)[0]

    yield Operation(f"{layer.name} forward", multiply, (x, kernel), layer.flop)
    yield Operation(
        f"{layer.name} gradient of weights", of_kernel, (x, gradient), layer.flop
    )
    if layer.name != "conv1":  # whose input are pixels
        yield Operation(
            f"{layer.name} gradient of input", of_input, (kernel, gradient), layer.flop
        )


def _both_ways(name: str, function: Callable, x: Any) -> Iterator[Operation]:
    def backward(x, gradient):
        return jax.vjp(function, x)[1](gradient)

    yield Operation(f"{name} forward", function, (x,))
    yield Operation(f"{name} backward", backward, (x, jax.eval_shape(function, x)))


def _dropout(network: AlexNet) -> Callable[..., jax.Array]:
    def drop(x, seed):
        return dropout(
            x,
            jax.random.key(seed),
            jnp.arange(len(x)),
            rate=network.dropout_rate,
            towers=jnp.arange(network.towers),
        )

    return drop


def _filled(shapes: Any) -> Any:
    """Random arrays of these shapes."""
    rng = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> jax.Array:
        if not jnp.issubdtype(shape.dtype, jnp.floating):
            return jnp.zeros(shape.shape, shape.dtype)
        return jnp.asarray(rng.standard_normal(shape.shape, np.float32), shape.dtype)

    return jax.tree.map(draw, shapes)


def table(measured: list[Measured], step_seconds: float) -> str:
    """A line an operation, for people."""
    rows = [f"{'':28}{'ms':>10}{'GFLOP/s':>10}{'GB/s':>8}{'of limit':>10}"]
    for operation, seconds, least in measured:
        rate = f"{operation.flop / seconds / 1e9:,.0f}" if operation.flop else ""
        rows.append(
            f"{operation.name:28}{seconds * 1e3:10,.2f}{rate:>10}"
            f"{operation.bytes / seconds / 1e9:8,.0f}{least / seconds:10.0%}"
        )
    total = sum(m.seconds for m in measured)
    least = sum(m.least_seconds for m in measured)
    rows.append(f"{'sum':28}{total * 1e3:10,.2f}{'':18}{least / total:10.0%}")
    rows.append(
        f"{'the whole step':28}{step_seconds * 1e3:10,.2f}{'':18}"
        f"{least / step_seconds:10.0%}"
    )
    return "\n".join(rows)
