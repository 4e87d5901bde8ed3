"""Normalisation, pooling and dropout in the forms that the paper needs, made fast.

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

from alexnet_jax.errors import InputError


def response_normalisation(
    x: jax.Array,
    *,
    depth: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    towers: int,
) -> jax.Array:
    """Local response normalisation across maps (§3.3).

        b_i = a_i / (k + α Σ_j a_j²)^β,   j from i − n/2 to i + n/2 in i's own tower

    The sum is not divided by n: the 2012 code's scale 1e-4 over n = 5 is α = 2e-5.

    Args:
        x: (B, H, W, towers · C).
        depth: n, the number of adjacent maps summed over; odd.
        k: added to the sum.
        alpha: factor of the sum.
        beta: exponent.
        towers: windows are cut where one tower's maps end.
    """
    _require_odd("response_depth", depth)
    one = np.arange(x.shape[-1] // towers)
    band = np.abs(one[:, None] - one[None, :]) <= depth // 2

    def adjacent_maps(squares: jax.Array) -> jax.Array:
        # A banded matrix product: five shifted sums take twice as long on a CPU.
        of_towers = squares.reshape(*squares.shape[:-1], towers, one.size)
        own = band.astype(squares.dtype)
        sums = jnp.matmul(of_towers, own, precision=lax.Precision.HIGHEST)
        return sums.reshape(squares.shape)

    return _normalise(adjacent_maps, k, alpha, beta, x)


def spatial_normalisation(
    x: jax.Array,
    *,
    size: int = 5,
    k: float = 1.0,
    alpha: float = 4e-5,
    beta: float = 0.75,
) -> jax.Array:
    """Response normalisation within each map, `rnorm` over conv2 in config 145.

        b_yx = a_yx / (k + α Σ a²)^β   over the size×size neighbourhood, cut at edges

    The paper does not mention it. The code's scale 0.001 over 25 is α = 4e-5.

    Args:
        x: (B, H, W, C).
        size: side of the neighbourhood in pixels; odd.
        k: added to the sum.
        alpha: factor of the sum.
        beta: exponent.
    """
    _require_odd("size of the neighbourhood", size)

    def neighbourhood(squares: jax.Array) -> jax.Array:
        return _window_sums(squares, size, stride=1, before=size // 2)

    return _normalise(neighbourhood, k, alpha, beta, x)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def overlapping_pooling(x: jax.Array, size: int = 3, stride: int = 2) -> jax.Array:
    """Max pooling with windows larger than their stride (§3.4).

    The grid covers the image, 1 + ceil((side − size) / stride) a side, and a window
    that overhangs is cut at the edge (2012 layer.py). In the backward pass every
    position equal to the maximum takes the full gradient, as in the 2012 kernels.

    Args:
        x: (B, H, W, C).
        size: side of a window, in pixels.
        stride: pixels between neighbouring windows.
    """
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


def average_pooling(x: jax.Array, size: int = 3, stride: int = 2) -> jax.Array:
    """Averages over the windows of `overlapping_pooling`.

    A window that overhangs is cut at the edge, and divided by the pixels that are left
    (2012 layer.py). For the CIFAR-10 networks.

    Args:
        x: (B, H, W, C).
        size: side of a window, in pixels.
        stride: pixels between neighbouring windows.
    """
    pixels = _window_sums(jnp.ones((1, *x.shape[1:3], 1), x.dtype), size, stride)
    return _window_sums(x, size, stride) / pixels


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


def _require_odd(name: str, size: int) -> None:
    # An even window is not symmetric, and its transpose would be another window.
    if size % 2 == 0:
        raise InputError(f"{name}={size}: must be odd")


def _grid(side: int, size: int, stride: int) -> tuple[int, tuple[int, int, int]]:
    """Extent of the windows' first pixels along a side, and the padding they need."""
    extent = stride * -(-(side - size) // stride) + 1
    return extent, (0, extent - 1 + size - side, 0)


def _window_sums(x: jax.Array, size: int, stride: int, before: int = 0) -> jax.Array:
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


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _normalise(
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
    return _normalise(window_sum, k, alpha, beta, x), x


def _normalise_backward(window_sum, k, alpha, beta, x, gradient):
    wide, upstream = _widened(x), _widened(gradient)
    denominator = k + alpha * window_sum(wide * wide)
    scaled = upstream * _inverse_power(denominator, beta)
    neighbours = window_sum(scaled * wide / denominator)
    return ((scaled - 2 * alpha * beta * wide * neighbours).astype(x.dtype),)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _inverse_power(x: jax.Array, beta: float) -> jax.Array:
    if beta == 0.75:  # square roots are several times faster than a power
        return jnp.sqrt(jnp.sqrt(x)) / x
    return x**-beta


def _pooling_forward(x, size, stride):
    largest = overlapping_pooling(x, size, stride)
    return largest, (x, largest)


def _pooling_backward(size, stride, saved, gradient):
    x, largest = saved
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
            top = lax.pad(largest, jnp.array(jnp.inf, x.dtype), spread)
            share = lax.pad(gradient, jnp.array(0, x.dtype), spread)
            total += jnp.where(x == top, share, 0)
    return (total,)


overlapping_pooling.defvjp(_pooling_forward, _pooling_backward)
