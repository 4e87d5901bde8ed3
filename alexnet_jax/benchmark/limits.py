"""What this machine can do at best: multiply matrices, and move memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet_jax import device
from alexnet_jax.benchmark import clock

RUNS = ("matrix product", "memory")
COPIED_BYTES = 256 << 20  # several times what any cache holds


class Limits(NamedTuple):
    """Rates of the best round.

    Attributes:
        flops: floating-point operations a second of a large matrix product.
        bytes: read and written a second by a pass over a large array.
    """

    flops: float
    bytes: float

    def seconds(self, flop: float, bytes: float) -> float:
        """The least time for so much work: whichever of the two takes longer."""
        return max(flop / self.flops, bytes / self.bytes)


def product_side() -> int:
    """Side of the large matrices: large enough for the device, and soon done."""
    return 3072 if device.on_cpu() else 8192


def _product() -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A matrix product; transposed, XLA for CPUs has the faster library do it."""
    return device.jit(lambda x, y: x.T @ y)


def make_runs(dtype: Any) -> dict[str, Callable[[int], None]]:
    """Runs for `clock.in_turn`, on the default device.

    Args:
        dtype: of the matrices.
    """
    side = product_side()
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = _product()
    # In place: for a new array, an operating system first has to find the pages.
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    memory = [jnp.zeros(COPIED_BYTES // 4, jnp.float32)]

    def pass_over() -> jax.Array:
        memory[0] = step(memory[0])
        return memory[0]

    passes = (lambda: product(matrix, matrix), pass_over)
    runs = dict(zip(RUNS, map(clock.on_device, passes), strict=True))
    for run in runs.values():
        run(1)  # compiles it
    return runs


def product_flops(mesh: Mesh, dtype: Any) -> float:
    """FLOP/s of large matrix products on all devices of a mesh, after a moment's look.

    One device is looked at, for less than half a second. Devices that XLA has made of
    one processor share its cores, and count once for each process.

    Args:
        mesh: the devices.
        dtype: of the matrices.
    """
    on_cpu = device.on_cpu()
    side = 1536 if on_cpu else product_side()  # an eighth of the work
    matrix, product = jnp.ones((side, side), dtype), _product()
    run = clock.on_device(lambda: product(matrix, matrix))
    run(1)  # compiles it
    rate = 2 * side**3 / clock.in_turn({"": run}, 3)[""].least
    processes = {device.process_index for device in mesh.devices.flat}
    return rate * (len(processes) if on_cpu else mesh.size)


def read(times: dict[str, clock.Times]) -> Limits:
    """The limits, from times of `make_runs`."""
    product, memory = (times[name].least for name in RUNS)
    return Limits(2 * product_side() ** 3 / product, 2 * COPIED_BYTES / memory)
