"""Forms of the operations for XLA's compiler for processors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Margins = tuple[tuple[int, int], tuple[int, int]]  # zeros around maps, of H and of W


def apart(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function, computed from arrays and into an array: fused with nothing.

    XLA fuses nothing into a branch, and a barrier hides from it which one is taken. It
    otherwise computes an operation again in each of the nine places where pooling reads
    it, or in an axis order that is slow (docs/speed.md).
    """

    def branch(*arrays: jax.Array) -> jax.Array:
        result = jax.eval_shape(function, *arrays)
        return lax.cond(
            lax.optimization_barrier(jnp.array(True)),
            function,
            lambda first, *_: jnp.full(result.shape, first.ravel()[0], result.dtype),
            *arrays,
        )

    return branch


def convolution(
    maps: jax.Array, kernel: jax.Array, stride: int, margins: Margins
) -> jax.Array:
    """Each tower's (B, H, W, C) with its kernels → (B, H', W', towers · K)."""
    kernels = jnp.split(kernel, len(maps), axis=-1)
    pairs = zip(maps, kernels, strict=True)
    outputs = [_convolution(*pair, stride, margins) for pair in pairs]
    return jnp.concatenate(outputs, axis=-1)


def convolution_gradients(
    maps: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    stride: int,
    margins: Margins,
    sums: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of x and of the kernel, this one with sums of the dtype `sums`."""
    kernels = jnp.split(kernel, len(maps), axis=-1)
    upstream = jnp.split(gradient, len(maps), axis=-1)
    of_maps, of_kernels = zip(
        *(
            _gradients_of_one(*of_tower, stride, margins, sums)
            for of_tower in zip(maps, kernels, upstream, strict=True)
        ),
        strict=True,
    )
    return jnp.concatenate(of_maps, -1), jnp.concatenate(of_kernels, -1)


def _gradients_of_one(x, kernel, gradient, stride, margins, sums):
    """Both gradients of a tower as convolutions in the axis order NHWC, HWIO.

    XLA:CPU is fast in that order only. It transposes autodiff's layouts into it, except
    inside a scan such as that over micro-batches, where conv2 took minutes.
    """
    steps = (stride, stride)
    mirrored = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    (top, bottom), (left, right) = margins
    rows, columns = kernel.shape[0] - 1, kernel.shape[1] - 1
    around = (rows - top, rows - bottom), (columns - left, columns - right)
    of_x = _convolution(gradient, mirrored, 1, around, lhs_dilation=steps)
    # The batch is summed over: it takes the place of the maps.
    maps_first, batch_third = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    of_kernel = _convolution(
        maps_first,
        batch_third,
        1,
        margins,
        rhs_dilation=steps,
        preferred_element_type=sums,
    )
    return of_x, of_kernel.transpose(1, 2, 0, 3)


def _convolution(
    x: jax.Array, kernel: jax.Array, stride: int, margins: Margins, **how: Any
) -> jax.Array:
    """(B, H, W, C) and (h, w, C, K) → (B, H', W', K)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        margins,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **how,
    )


def adjacent_maps(squares: jax.Array, depth: int, towers: int) -> jax.Array:
    """Sums over the windows of response normalisation, as shifts along the memory.

    All maps of a pixel lie side by side, so the square of the next map is the next
    number; where that is of another pixel or tower, it is left out. A banded product
    takes twice as long.
    """
    maps = squares.shape[-1] // towers
    rows, reach = squares.reshape(-1, maps), min(depth // 2, maps - 1)
    # With zeros around them, in an array of its own: not computed again in each shift.
    around = lax.pad(rows, jnp.zeros((), rows.dtype), ((1, 1, 0), (0, 0, 0)))
    numbers = lax.optimization_barrier(around).reshape(-1)
    # Compared in the loop, which then uses vectors; not so with an array of factors.
    place = lax.broadcasted_iota(jnp.int32, rows.shape, 1)
    total = jnp.zeros_like(rows)
    for away in range(-reach, reach + 1):
        first = maps + away
        shifted = lax.slice_in_dim(numbers, first, first + rows.size)
        own = (place >= -away) & (place < maps - away)
        total += jnp.where(own, shifted.reshape(rows.shape), 0)
    return total.reshape(squares.shape)
