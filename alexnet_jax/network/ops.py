"""The operations of §3 that no library has in the form the paper needs, made fast.

Arrays are (batch, height, width, channels); the towers of a layer lie side by side
along the channels. Each operation states the plain formula it computes; the tests
compare it, and its gradient, with that formula.
"""

from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax import device

Margin = tuple[int, int]  # of zeros, before and behind


def convolution(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, towers: int
) -> jax.Array:
    """Grouped convolution whose output grid covers the image.

    The grid has 1 + ceil((side + 2·padding − size) / stride) positions a side; where
    the last one overhangs, the pixels beyond the bottom and right edge are zeros
    (2012 layer.py). For 224-pixel images and 11×11 kernels at stride 4 these are the
    three implied rows and columns that make 55×55.

    On a CPU it is fast in programs of `device.jit`.

    Args:
        x: (B, H, W, towers · C).
        kernel: (size, size, C, towers · K); the kernels of one tower are contiguous
            and read the maps of that tower alone.
        stride: pixels between neighbouring positions.
        padding: rows and columns of zeros on every side.
        towers: number of groups.

    Returns:
        (B, H', W', towers · K).
    """
    size, side = kernel.shape[0], x.shape[1]
    overhang = -(side + 2 * padding - size) % stride
    margin = (padding, padding + overhang)
    convolve: Callable[..., jax.Array] = _convolution
    maps: Iterable[jax.Array] = jnp.split(x, towers, axis=-1)
    if device.on_cpu():
        convolve, maps = _convolution_on_cpu, _towers_apart(x, towers)
    kernels = jnp.split(kernel, towers, axis=-1)
    outputs = [
        convolve(of_tower, own, stride, margin)
        for of_tower, own in zip(maps, kernels, strict=True)
    ]
    return jnp.concatenate(outputs, axis=-1)


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
        depth: n, the odd number of adjacent maps summed over.
        k: added to the sum.
        alpha: factor of the sum.
        beta: exponent.
        towers: windows are cut where one tower's maps end.
    """
    one = np.arange(x.shape[-1] // towers)
    band = (np.abs(one[:, None] - one[None, :]) <= depth // 2).astype(np.float32)

    def adjacent_maps(squares: jax.Array) -> jax.Array:
        # A banded matrix product: five shifted sums take twice as long on a CPU.
        of_towers = squares.reshape(*squares.shape[:-1], towers, one.size)
        sums = jnp.matmul(of_towers, band, precision=lax.Precision.HIGHEST)
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
    """
    reach = size // 2

    def neighbourhood(squares: jax.Array) -> jax.Array:
        for axis in (1, 2):
            length = squares.shape[axis]
            margins = [(0, 0)] * 4
            margins[axis] = (reach, reach)
            padded = jnp.pad(squares, margins)
            shifted = (
                lax.slice_in_dim(padded, start, start + length, axis=axis)
                for start in range(size)
            )
            squares = reduce(jnp.add, shifted)
        return squares

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
    side = x.shape[1]
    reach = stride * -(-(side - size) // stride) + 1  # from the first to the last one
    overhang = (0, reach - 1 + size - side, 0)
    lowest = jnp.array(-jnp.inf, x.dtype)
    x = lax.pad(x, lowest, ((0, 0, 0), overhang, overhang, (0, 0, 0)))
    places = (
        x[:, row : row + reach : stride, column : column + reach : stride]
        for row in range(size)
        for column in range(size)
    )
    return reduce(jnp.maximum, places)


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
        x: (B, U), some of the units of these towers.
        key: this update's and this layer's random key.
        rows: int32 (B,), positions of the examples in the global batch.
        rate: the probability of zero.
        towers: int32 (T,), the towers that x has units of, side by side.
        units: of each of these towers; None where x has all of them.
        first: where x begins among their T · units.
    """
    units = units or x.shape[-1] // towers.shape[0]

    def one_mask(row: jax.Array, tower: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, row), tower)
        return jax.random.bernoulli(own, 1 - rate, (units,))

    masks = jax.vmap(jax.vmap(one_mask, (None, 0)), (0, None))(rows, towers)
    masks = masks.reshape(rows.shape[0], -1)
    return jnp.where(lax.dynamic_slice_in_dim(masks, first, x.shape[-1], 1), x, 0)


def _convolution(
    x: jax.Array, kernel: jax.Array, stride: int, margin: Margin, **dilation: Any
) -> jax.Array:
    """The convolution of one tower: (B, H, W, C) and (h, w, C, K) → (B, H', W', K)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (margin, margin),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **dilation,
    )


def _convolution_forward(x, kernel, stride, margin):
    return _convolution(x, kernel, stride, margin), (x, kernel)


def _convolution_backward(stride, margin, saved, gradient):
    """Both gradients as convolutions with their axes in the order of any other.

    XLA for CPUs is fast at no other order. It brings those that automatic gradients
    have into it, but not in a loop, as over the parts of a batch: there conv2 took
    minutes.
    """
    x, kernel = saved
    apart, size = (stride, stride), kernel.shape[0]
    mirrored = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    around = (size - 1 - margin[0], size - 1 - margin[1])
    of_x = _convolution(gradient, mirrored, 1, around, lhs_dilation=apart)
    # The batch is what is summed over: it takes the place of the maps.
    maps_first, batch_third = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    of_kernel = _convolution(maps_first, batch_third, 1, margin, rhs_dilation=apart)
    return of_x, of_kernel.transpose(1, 2, 0, 3)


_convolution_on_cpu = jax.custom_vjp(_convolution, nondiff_argnums=(2, 3))
_convolution_on_cpu.defvjp(_convolution_forward, _convolution_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _towers_apart(x: jax.Array, towers: int) -> jax.Array:
    """(B, H, W, towers · C) → (towers, B, H, W, C).

    In a loop, into which XLA fuses nothing: for the gradient of conv2's kernels it
    otherwise did all of the pooling before it anew, and in another order of the axes,
    0.75 s a batch of 128 where the gradient takes 0.25.
    """
    if towers == 1:
        return x[None]
    maps = x.shape[-1] // towers
    return lax.map(
        lambda tower: lax.dynamic_slice_in_dim(x, tower * maps, maps, axis=-1),
        jnp.arange(towers),
    )


def _towers_apart_forward(x, towers):
    return _towers_apart(x, towers), None


def _towers_apart_backward(towers, _, gradients):
    return (jnp.concatenate(list(gradients), axis=-1),)


_towers_apart.defvjp(_towers_apart_forward, _towers_apart_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _normalise(
    window_sum: Callable[[jax.Array], jax.Array],
    k: float,
    alpha: float,
    beta: float,
    x: jax.Array,
) -> jax.Array:
    """X · d^−β with d = k + α · window_sum(x²), in float32 inside.

    The window is symmetric, so its sum is its own transpose and the gradient is
    g · d^−β − 2αβ · x · window_sum(g · x · d^(−β−1)). Automatic differentiation keeps
    more and took four times as long.
    """
    wide = x.astype(jnp.float32)
    denominator = k + alpha * window_sum(wide * wide)
    return (wide * _inverse_power(denominator, beta)).astype(x.dtype)


def _normalise_forward(window_sum, k, alpha, beta, x):
    return _normalise(window_sum, k, alpha, beta, x), x


def _normalise_backward(window_sum, k, alpha, beta, x, gradient):
    wide, upstream = x.astype(jnp.float32), gradient.astype(jnp.float32)
    denominator = k + alpha * window_sum(wide * wide)
    scaled = upstream * _inverse_power(denominator, beta)
    neighbours = window_sum(scaled * wide / denominator)
    return ((scaled - 2 * alpha * beta * wide * neighbours).astype(x.dtype),)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _inverse_power(x: jax.Array, beta: float) -> jax.Array:
    if beta == 0.75:  # square roots are several times faster than a power
        return jnp.sqrt(jnp.sqrt(x)) / x
    return x**-beta


def _pooling_forward(x, size, stride):
    largest = overlapping_pooling(x, size, stride)
    return largest, (x, largest)


def _pooling_backward(size, stride, saved, gradient):
    x, largest = saved
    side, windows = x.shape[1], largest.shape[1]
    reach = (windows - 1) * stride + 1
    total = jnp.zeros_like(x)
    for row in range(size):
        for column in range(size):
            # Spread the windows so that each lies over its (row, column) pixel.
            spread = (
                (0, 0, 0),
                (row, side - row - reach, stride - 1),
                (column, side - column - reach, stride - 1),
                (0, 0, 0),
            )
            top = lax.pad(largest, jnp.array(jnp.inf, x.dtype), spread)
            share = lax.pad(gradient, jnp.array(0, x.dtype), spread)
            total += jnp.where(x == top, share, 0)
    return (total,)


overlapping_pooling.defvjp(_pooling_forward, _pooling_backward)
