"""The operations of a training step, each timed alone and compared with its roofline.

The rows follow from `AlexNet.layers`. Units have none: XLA fuses them with the rest.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax import device
from alexnet_jax.benchmark import clock
from alexnet_jax.experiment import Program, make_optimizer
from alexnet_jax.network.alexnet import BATCH_NORMALISE, DROPOUTS, UNITS, AlexNet
from alexnet_jax.network.convolutions import local_connection
from alexnet_jax.network.layers import batch_normalisation, convolution
from alexnet_jax.network.shapes import Stage, stages
from alexnet_jax.step import training_pixels

ROUNDS, READING = 3, 0.1  # seconds
LIMITS = ("matrix product", "memory")  # names of the runs of `limit_runs`
COPIED_BYTES = 256 << 20  # several times the size of any cache
NOUNS = {  # of rows
    "normalise": "normalisation",
    "normalise_within_maps": "spatial normalisation",
    "pool": "pooling",
    "average_pool": "average pooling",
    "batch_normalise": "batch normalisation",
    "inverted_dropout": "inverted dropout",
}


class Limits(NamedTuple):
    """What the machine can do at best."""

    flops: float  # floating-point operations a second of a large matrix product
    bytes: float  # read and written a second by a pass over a large array

    @classmethod
    def read(cls, times: Mapping[str, clock.Times]) -> "Limits":
        """The limits, from the times of `limit_runs`."""
        product, memory = (times[name].least for name in LIMITS)
        return cls(2 * product_side() ** 3 / product, 2 * COPIED_BYTES / memory)

    def seconds(self, flop: float, bytes: float) -> float:
        """The roofline: the least time of an operation, by either limit."""
        return max(flop / self.flops, bytes / self.bytes)


def product_side() -> int:
    """Side of the large matrices."""
    return 3072 if device.on_cpu() else 8192


def limit_runs(dtype: Any) -> clock.Runs:
    """The runs that show the limits, on the default device, for matrices of a dtype."""
    side = product_side()
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product, memory = device.make_product(), jnp.zeros(COPIED_BYTES // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)  # a new array is mapped first
    runs = clock.on_device(lambda: product(matrix, matrix)), _in_place(add, memory)
    for run in runs:
        run(1)  # compiles it
    return dict(zip(LIMITS, runs, strict=True))


def _in_place(function: Callable, first: Any, *others: Any) -> Callable[[int], None]:
    """A run of a function that donates its first argument to its result."""
    held = [first]

    def once() -> Any:
        held[0] = function(held[0], *others)
        return held[0]

    return clock.on_device(once)


class Operation(NamedTuple):
    """A part of a training step."""

    name: str  # layer and operation
    function: Callable[..., Any]  # of arrays
    arguments: tuple[Any, ...]  # shapes and dtypes of the arrays
    flop: int = 0  # of its product
    in_place: bool = False  # its result replaces its first argument

    @property
    def bytes(self) -> int:
        """To read each argument once and to write each result once."""
        results = jax.eval_shape(self.function, *self.arguments)
        arrays = jax.tree.leaves((self.arguments, results))
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)


def measure(operations: Iterable[Operation], limits: Limits) -> list[dict[str, Any]]:
    """Time every operation; the rows of 'layers' in the JSON of `benchmark step`."""
    rows = []
    for part in operations:
        arguments = jax.tree.map(_random, part.arguments)
        if part.in_place:
            run = _in_place(device.jit(part.function, donate_argnums=0), *arguments)
        else:
            function = functools.partial(device.jit(part.function), *arguments)
            run = clock.on_device(function)
        run(1)  # compiles it
        seconds = clock.in_turn({"": run}, ROUNDS, READING)[""].median
        row = {
            "name": part.name,
            "milliseconds": seconds * 1e3,
            "gflops": part.flop / seconds / 1e9,
            "gigabytes_per_second": part.bytes / seconds / 1e9,
            "share_of_limit": limits.seconds(part.flop, part.bytes) / seconds,
        }
        rows.append(row)
    return rows


def _random(shape: jax.ShapeDtypeStruct) -> jax.Array:
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        return jnp.zeros(shape.shape, shape.dtype)
    normal = np.random.default_rng(0).standard_normal(shape.shape, np.float32)
    return jnp.asarray(normal, shape.dtype)


def operations_of(config: Any, program: Program) -> Iterator[Operation]:
    """The operations of a config's training step in the order of the forward pass."""
    side, mean_at = config.augment.crop, config.augment.mean_at
    pixels = functools.partial(training_pixels, side=side, mean_at=mean_at)
    yield Operation("pixels", pixels, (program.batch, program.mean_image))
    network, images = program.network, config.batch_size
    for stage in stages(network, side):
        name = f"{stage.layer} {NOUNS.get(stage.name, stage.name)}"
        alone = network.clone(layers=(stage.name,))
        x = jax.ShapeDtypeStruct((images, *stage.input), network.dtype)
        if stage.kernel:
            reads_pixels = stage.name == network.weighted[0]
            yield from _products(stage, images, network.dtype, reads_pixels)
        elif stage.name in DROPOUTS:
            yield _dropout(name, alone, x)
        elif stage.name == BATCH_NORMALISE:
            yield from _both_ways(name, _batch_normalisation(network, x), x)
        elif stage.name not in UNITS:
            yield from _both_ways(name, functools.partial(alone.apply, {}), x)
    yield _update(config, program)


def _products(
    stage: Stage, images: int, dtype: Any, reads_pixels: bool
) -> Iterator[Operation]:
    """The product of a layer and its gradients, that of pixels left out."""
    name, groups, flop = stage.name, stage.groups, images * stage.flop
    convolves = len(stage.kernel) == 4
    own = stage.input if convolves else (math.prod(stage.input),)
    x = jax.ShapeDtypeStruct((images, *own), dtype)
    kernel = jax.ShapeDtypeStruct(stage.kernel, dtype)
    gradient = jax.ShapeDtypeStruct((images, *stage.output), dtype)

    def multiply(x, kernel):
        if convolves:
            how: dict[str, Any] = {"stride": stage.stride, "padding": stage.padding}
            if stage.local:
                how["size"] = stage.size
                return local_connection(x, kernel, towers=groups, **how)
            return convolution(x, kernel, towers=groups, **how)
        inputs, kernels = (jnp.split(a, groups, axis=-1) for a in (x, kernel))
        products = [a @ b for a, b in zip(inputs, kernels, strict=True)]
        return jnp.concatenate(products, axis=-1)

    # The gradient with respect to one factor does not depend on that factor.
    def of_kernel(x, gradient):
        _, pull_back = jax.vjp(multiply, x, jnp.zeros(kernel.shape, dtype))
        return pull_back(gradient)[1]

    def of_input(kernel, gradient):
        _, pull_back = jax.vjp(multiply, jnp.zeros(x.shape, dtype), kernel)
        return pull_back(gradient)[0]

    yield Operation(f"{name} forward", multiply, (x, kernel), flop)
    yield Operation(f"{name} gradient of weights", of_kernel, (x, gradient), flop)
    if not reads_pixels:
        yield Operation(f"{name} gradient of input", of_input, (kernel, gradient), flop)


def _both_ways(name: str, function: Callable, x: Any) -> Iterator[Operation]:
    def backward(x, gradient):
        return jax.vjp(function, x)[1](gradient)

    yield Operation(f"{name} forward", function, (x,))
    yield Operation(f"{name} backward", backward, (x, jax.eval_shape(function, x)))


def _batch_normalisation(network: AlexNet, x: jax.ShapeDtypeStruct) -> Callable:
    def normalise(x):
        return batch_normalisation(x, scale, network.batch_group)[0]

    scale = jnp.ones(x.shape[-1], jnp.promote_types(x.dtype, jnp.float32))
    return normalise


def _dropout(name: str, alone: Any, x: jax.ShapeDtypeStruct) -> Operation:
    def drop(x, seed):
        key = jax.random.key(seed)
        return alone.apply({}, x, jnp.arange(len(x)), rngs={"dropout": key})

    return Operation(name, drop, (x, jax.ShapeDtypeStruct((), jnp.int32)))


def _update(config: Any, program: Program) -> Operation:
    """Weight decay, velocity and step of all parameters."""
    optimizer = make_optimizer(config)

    def update(params_and_state, gradients, rates):
        params, state = params_and_state
        steps, state = optimizer.update(gradients, state, params, rates=rates)
        return optax.apply_updates(params, steps), state

    params, state = program.state.params, program.state.opt_state
    rates = jax.tree.map(lambda _: jax.ShapeDtypeStruct((), jnp.float32), params)
    return Operation("update", update, ((params, state), params, rates), in_place=True)


def table(rows: list[dict[str, Any]], step_seconds: float) -> str:
    """A line for each row of `measure`, their sum and the whole step."""
    lines = [f"{'':28}{'ms':>10}{'GFLOP/s':>10}{'GB/s':>8}{'of limit':>10}"]
    for name, ms, gflops, gigabytes, share in map(dict.values, rows):
        rate = f"{gflops:,.0f}" if gflops else ""
        lines.append(f"{name:28}{ms:10,.2f}{rate:>10}{gigabytes:8,.0f}{share:10.0%}")
    total = sum(row["milliseconds"] for row in rows)
    for name, ms in (("sum", total), ("the whole step", step_seconds * 1e3)):
        share = least_seconds(rows) * 1e3 / ms
        lines.append(f"{name:28}{ms:10,.2f}{'':18}{share:10.0%}")
    return "\n".join(lines)


def least_seconds(rows: list[dict[str, Any]]) -> float:
    """The sum of the rooflines of all rows."""
    return sum(row["milliseconds"] * row["share_of_limit"] for row in rows) / 1e3
