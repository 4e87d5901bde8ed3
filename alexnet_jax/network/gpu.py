"""Forms of the operations for NVIDIA's GPUs.

What XLA fuses well needs none. Response normalisation does: it sums over neighbouring
maps, and XLA passes float32 maps through memory for that, seven times a direction.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

ROWS = 64  # positions that a program normalises


def response_normalisation(
    *arrays: jax.Array, depth: int, k: float, alpha: float, beta: float, towers: int
) -> jax.Array:
    """Response normalisation of bfloat16 maps as one kernel of Triton's.

    Args:
        arrays: x; or x and an upstream gradient, for the gradient with respect to x.
        depth: as for `maps.response_normalisation`, as are the others.
        k: see there.
        alpha: see there.
        beta: see there.
        towers: see there.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    flat = [a.reshape(-1, a.shape[-1]) for a in arrays]
    positions, channels = flat[0].shape
    how = {"depth": depth, "k": k, "alpha": alpha, "beta": beta}
    result = pl.pallas_call(
        partial(_kernel, maps=channels // towers, **how),
        out_shape=jax.eval_shape(lambda a: a, flat[0]),
        grid=(pl.cdiv(positions, ROWS), towers),
        compiler_params=triton.CompilerParams(num_warps=4),
        name="response_normalisation",
    )(*flat)
    return result.reshape(arrays[0].shape)


def _kernel(*refs, maps, depth, k, alpha, beta):
    """One tower's maps at `ROWS` positions, their gradient where one is given.

    The sums over neighbours are products with a band, in TensorFloat-32 on tensor
    cores: a kernel of Triton's cannot shift what its registers hold.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    *inputs, output = refs
    width = pl.next_power_of_2(maps)  # Triton has no others
    row, tower = ROWS * pl.program_id(0), pl.program_id(1)
    here = pl.ds(row, ROWS), pl.ds(tower * maps, width)
    down, across = (
        lax.broadcasted_iota(jnp.int32, (ROWS, width), axis) for axis in (0, 1)
    )
    exists = (across < maps) & (row + down < output.shape[0])
    x, *upstream = (
        triton.load(ref.at[here], mask=exists, other=0).astype(jnp.float32)
        for ref in inputs
    )
    one, other = (
        lax.broadcasted_iota(jnp.int32, (width, width), axis) for axis in (0, 1)
    )
    band = (abs(one - other) <= depth // 2).astype(jnp.float32)
    denominator = k + alpha * triton.dot(x * x, band)
    if beta == 0.75:
        root = lax.rsqrt(denominator)
        power = root * jnp.sqrt(root)
    else:
        power = denominator**-beta
    result = x * power
    if upstream:
        scaled = upstream[0] * power
        neighbours = triton.dot(scaled * x / denominator, band)
        result = scaled - 2 * alpha * beta * x * neighbours
    triton.store(output.at[here], result.astype(output.dtype), mask=exists)


def adjacent_maps(squares: jax.Array, depth: int, towers: int) -> jax.Array:
    """Sums over the windows of response normalisation, as masked shifts.

    A product of float32 matrices would be one of TensorFloat-32, or slow.
    """
    maps = squares.shape[-1] // towers
    place = jnp.arange(squares.shape[-1]) % maps
    total, zero = squares, jnp.zeros((), squares.dtype)
    others = [(0, 0, 0)] * (squares.ndim - 1)
    for apart in range(1, min(depth // 2, maps - 1) + 1):
        behind = lax.pad(squares, zero, [*others, (-apart, apart, 0)])
        ahead = lax.pad(squares, zero, [*others, (apart, -apart, 0)])
        total += jnp.where(place < maps - apart, behind, 0)
        total += jnp.where(place >= apart, ahead, 0)
    return total
