"""Units, normalisation, pooling and dropout: the plain formulas.

Arrays are (batch, height, width, channels); the towers of a layer lie side by side
along the channels. Each operation states the formula it computes; the tests compare it
and its gradient with that formula.
"""

import math
from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """f(x) = max(0, x) (§3.1).

    Its gradient follows from what it returns, so that no other array is kept, and a
    GPU's convolutions can apply it to what they write. Not from "> 0", of which XLA
    makes a comparison of x.
    """
    return jnp.maximum(x, 0)


relu.defvjp(
    lambda x: (relu(x),) * 2,
    lambda positive, gradient: (jnp.where(positive != 0, gradient, 0),),
)


def largest(x: jax.Array, size: int, stride: int) -> jax.Array:
    """The maximum of each window of `maps.overlapping_pooling`."""
    (rows, overhang_y), (columns, overhang_x) = (
        _grid(side, size, stride) for side in x.shape[1:3]
    )
    lowest = jnp.array(-jnp.inf, x.dtype)
    x = lax.pad(x, lowest, ((0, 0, 0), overhang_y, overhang_x, (0, 0, 0)))
    places = (
        x[:, row : row + rows : stride, column : column + columns : stride]
        for row in range(size)
        for column in range(size)
    )
    return reduce(jnp.maximum, places)


def pooling_gradient(
    x: jax.Array, maxima: jax.Array, gradient: jax.Array, size: int, stride: int
) -> jax.Array:
    """Its gradient: every position equal to a maximum takes the full one."""
    height, width = x.shape[1:3]
    total = jnp.zeros_like(x)
    for row in range(size):
        for column in range(size):
            # Spread the windows so that each lies over its (row, column) pixel.
            spread = (
                (0, 0, 0),
                (row, height - row - _grid(height, size, stride)[0], stride - 1),
                (column, width - column - _grid(width, size, stride)[0], stride - 1),
                (0, 0, 0),
            )
            top = lax.pad(maxima, jnp.array(jnp.inf, x.dtype), spread)
            share = lax.pad(gradient, jnp.array(0, x.dtype), spread)
            total += jnp.where(x == top, share, 0)
    return total


def average_pooling(x: jax.Array, size: int = 3, stride: int = 2) -> jax.Array:
    """Averages over the windows of `maps.overlapping_pooling`.

    A window that overhangs is cut at the edge, and divided by the pixels that are left
    (2012 layer.py). For the CIFAR-10 networks.

    Args:
        x: (B, H, W, C).
        size: side of a window, in pixels.
        stride: pixels between neighbouring windows.
    """
    pixels = window_sums(jnp.ones((1, *x.shape[1:3], 1), x.dtype), size, stride)
    return window_sums(x, size, stride) / pixels


def window_sums(x: jax.Array, size: int, stride: int, before: int = 0) -> jax.Array:
    """Sums over windows, first of rows and then of columns.

    The first window starts `before` pixels ahead of the maps and the last one ends as
    many behind them, or more where it overhangs.
    """
    for axis in (1, 2):
        extent, (_, overhang, _) = _grid(x.shape[axis] + 2 * before, size, stride)
        margins = [(0, 0)] * x.ndim
        margins[axis] = (before, before + overhang)
        padded = jnp.pad(x, margins)
        shifted = (
            lax.slice_in_dim(padded, first, first + extent, stride, axis)
            for first in range(size)
        )
        x = reduce(jnp.add, shifted)
    return x


def dropout(
    x: jax.Array,
    key: jax.Array,
    rows: jax.Array,
    *,
    rate: float,
    towers: jax.Array,
    units: int | None = None,
    first: int | jax.Array = 0,
) -> jax.Array:
    """Zeroes units with probability `rate` and does not rescale the rest (§4.2).

    The mask of a unit depends on the key, on the example's position in the global
    batch and on its place in its tower, never on the device that computes it.

    Args:
        x: (B, U), units of these towers; or their maps (B, H, W, C), all of them.
        key: the random key of this step and this layer.
        rows: int32 (B,), positions of the examples in the global batch.
        rate: the probability of zero.
        towers: int32 (T,), the towers whose units x has, side by side.
        units: number of units of each of these towers; None where x has them all.
        first: position of x's first unit among the T · units.
    """
    units = units or math.prod(x.shape[1:]) // towers.shape[0]

    def one_mask(row: jax.Array, tower: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, row), tower)
        return jax.random.bernoulli(own, 1 - rate, (units,))

    masks = jax.vmap(jax.vmap(one_mask, (None, 0)), (0, None))(rows, towers)
    if x.ndim == 4:
        of_maps = masks.reshape(*masks.shape[:2], *x.shape[1:3], -1)
        return jnp.where(of_maps.transpose(0, 2, 3, 1, 4).reshape(x.shape), x, 0)
    masks = masks.reshape(rows.shape[0], -1)
    return jnp.where(lax.dynamic_slice_in_dim(masks, first, x.shape[-1], 1), x, 0)


def _grid(side: int, size: int, stride: int) -> tuple[int, tuple[int, int, int]]:
    """Extent of the windows' first pixels along a side, and the padding they need."""
    extent = stride * -(-(side - size) // stride) + 1
    return extent, (0, extent - 1 + size - side, 0)


def adjacent_maps(squares: jax.Array, depth: int, towers: int) -> jax.Array:
    """Sums over the windows of response normalisation, as a banded matrix product."""
    one = np.arange(squares.shape[-1] // towers)
    band = np.abs(one[:, None] - one[None, :]) <= depth // 2
    of_towers = squares.reshape(*squares.shape[:-1], towers, one.size)
    own = band.astype(squares.dtype)
    sums = jnp.matmul(of_towers, own, precision=lax.Precision.HIGHEST)
    return sums.reshape(squares.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def normalise(
    window_sum: Callable[[jax.Array], jax.Array],
    k: float,
    alpha: float,
    beta: float,
    x: jax.Array,
) -> jax.Array:
    """X · d^−β with d = k + α · window_sum(x²), computed in float32 or wider.

    The window is symmetric, so its sum is its own transpose and the gradient is
    g · d^−β − 2αβ · x · window_sum(g · x · d^(−β−1)). Automatic differentiation saves
    more arrays and took four times as long.
    """
    wide = _widened(x)
    denominator = k + alpha * window_sum(wide * wide)
    return (wide * _inverse_power(denominator, beta)).astype(x.dtype)


def _normalise_forward(window_sum, k, alpha, beta, x):
    return normalise(window_sum, k, alpha, beta, x), x


def normalise_gradient(
    window_sum: Callable[[jax.Array], jax.Array],
    k: float,
    alpha: float,
    beta: float,
    x: jax.Array,
    gradient: jax.Array,
) -> jax.Array:
    """The gradient of `normalise` with respect to x, of an upstream one."""
    wide, upstream = _widened(x), _widened(gradient)
    denominator = k + alpha * window_sum(wide * wide)
    scaled = upstream * _inverse_power(denominator, beta)
    neighbours = window_sum(scaled * wide / denominator)
    return (scaled - 2 * alpha * beta * wide * neighbours).astype(x.dtype)


normalise.defvjp(_normalise_forward, lambda *args: (normalise_gradient(*args),))


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _inverse_power(x: jax.Array, beta: float) -> jax.Array:
    if beta == 0.75:  # square roots are several times faster than a power
        return jnp.sqrt(jnp.sqrt(x)) / x
    return x**-beta
