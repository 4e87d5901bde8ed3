"""The operations of §3 that no library has in the form the paper needs, made fast.

Arrays are (batch, height, width, channels); the towers of a layer lie side by side
along the channels. Each operation states the plain formula it computes; the tests
compare it, and its gradient, with that formula.
"""

from collections.abc import Callable, Iterator
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_STRIPE_BYTES = 9 << 19  # 4.5 MiB: larger chunks of images leave the cache


def convolution(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, towers: int
) -> jax.Array:
    """Grouped convolution whose output grid covers the image.

    The grid has 1 + ceil((side + 2·padding − size) / stride) positions a side; where
    the last one overhangs, the pixels beyond the bottom and right edge are zeros
    (2012 layer.py). For 224-pixel images and 11×11 kernels at stride 4 these are the
    three implied rows and columns that make 55×55.

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
    convolve = _convolution_on_cpu if _on_cpu() else _convolution
    return convolve(x, kernel, stride, margin, towers)


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


def _on_cpu() -> bool:
    """The one place where the backend decides how something is computed."""
    return jax.default_backend() == "cpu"


def _convolution(
    x: jax.Array, kernel: jax.Array, stride: int, margin: tuple[int, int], towers: int
) -> jax.Array:
    outputs = [
        lax.conv_general_dilated(
            maps,
            kernels,
            (stride, stride),
            (margin, margin),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for maps, kernels in _each_tower(towers, x, kernel)
    ]
    return jnp.concatenate(outputs, axis=-1)


def _each_tower(towers: int, *arrays: jax.Array) -> Iterator[tuple[jax.Array, ...]]:
    """The part of each array that belongs to a tower, for each tower."""
    return zip(*(jnp.split(x, towers, axis=-1) for x in arrays), strict=True)


def _convolution_on_cpu(
    x: jax.Array, kernel: jax.Array, stride: int, margin: tuple[int, int], towers: int
) -> jax.Array:
    """The same for CPUs: a strided convolution is made dense, then done in stripes.

    Blocks of stride×stride pixels become the channels of one (space to depth), so
    conv1's 11×11 over 3 channels at stride 4 turns into 3×3 over 48 at stride 1.
    """
    if stride == 1:  # where margins are alike
        return _dense_convolution(margin[0], towers, x, kernel)
    outputs = [
        _dense_convolution(0, 1, *_space_to_depth(maps, kernels, stride, margin))
        for maps, kernels in _each_tower(towers, x, kernel)
    ]
    return jnp.concatenate(outputs, axis=-1)


def _space_to_depth(
    x: jax.Array, kernel: jax.Array, stride: int, margin: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Pixels and kernels whose convolution at stride 1 is the one at this stride."""
    size, _, channels, kernels = kernel.shape
    blocks = -(-size // stride)
    spare = blocks * stride - size
    width = x.shape[1] + sum(margin)
    side = (width - size) // stride + blocks
    edge = (margin[0], margin[1] + side * stride - width)  # completes the last block
    x = jnp.pad(x, ((0, 0), edge, edge, (0, 0)))
    x = x.reshape(-1, side, stride, side, stride, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, stride**2 * channels)
    kernel = jnp.pad(kernel, ((0, spare), (0, spare), (0, 0), (0, 0)))
    kernel = kernel.reshape(blocks, stride, blocks, stride, channels, kernels)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    return x, kernel.reshape(blocks, blocks, stride**2 * channels, kernels)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dense_convolution(
    padding: int, towers: int, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Stride-1 convolution as matrix products of stripes with rows of the kernels.

    A few images at a time, so that their stripes stay in the cache, and the towers are
    taken apart and put together there too. On one tower of
    conv2, where the matrix product did 288 GFLOP/s, XLA's own convolution reached 51,
    12 and 16 (forward, gradient of the kernel, of the input), whole size×size patches
    178, 107 and 70, and stripes 163, 161 and 99.
    """
    size, _, channels, kernels = kernel.shape
    side = x.shape[1] + 2 * padding - size + 1
    rows = kernel.reshape(size, size * channels, kernels)

    def some_images(images: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [
                reduce(jnp.add, map(jnp.matmul, _stripes(maps, size, padding), own))
                for maps, own in _each_tower(towers, images, rows)
            ],
            axis=-1,
        )

    outputs = lax.map(some_images, _chunks(x, size, padding, channels))
    return outputs.reshape(-1, side, side, kernels)


def _dense_convolution_forward(padding, towers, x, kernel):
    return _dense_convolution(padding, towers, x, kernel), (x, kernel)


def _dense_convolution_backward(padding, towers, saved, gradient):
    x, kernel = saved
    size, channels, kernels = kernel.shape[0], kernel.shape[2], kernel.shape[3]

    # The zeros around x have no gradient: with them, it would be a quarter more work.
    mirrored = [
        own[::-1, ::-1].transpose(0, 1, 3, 2) for (own,) in _each_tower(towers, kernel)
    ]
    of_x = _dense_convolution(
        size - 1 - padding, towers, gradient, jnp.concatenate(mirrored, axis=-1)
    )

    images = _chunks(x, size, padding, channels)
    gradients = gradient.reshape(len(images), -1, kernels)

    def of_some_images(i):
        parts = [
            jnp.stack([stripe.T @ own for stripe in _stripes(maps, size, padding)])
            for maps, own in _each_tower(towers, images[i], gradients[i])
        ]
        return jnp.concatenate(parts, axis=-1)

    of_kernel = lax.fori_loop(
        1, len(images), lambda i, sum: sum + of_some_images(i), of_some_images(0)
    )
    return of_x, of_kernel.reshape(kernel.shape)


_dense_convolution.defvjp(_dense_convolution_forward, _dense_convolution_backward)


def _stripes(images: jax.Array, size: int, padding: int) -> list[jax.Array]:
    """For each row of a kernel, the pixels that it multiplies at every position.

    Args:
        images: (B, H, W, C).
        size: side of the kernel.
        padding: rows and columns of zeros on every side.

    Returns:
        `size` arrays (B · H' · W', size · C), slices of one array that holds the
        pixels `size` times; whole patches would hold them size² times.
    """
    margin = (padding, padding)
    images = jnp.pad(images, ((0, 0), margin, margin, (0, 0)))
    height, width = images.shape[1] - size + 1, images.shape[2] - size + 1
    wide = jnp.concatenate(
        [images[:, :, left : left + width] for left in range(size)], axis=-1
    )
    return [
        wide[:, top : top + height].reshape(-1, wide.shape[-1]) for top in range(size)
    ]


def _chunks(x: jax.Array, size: int, padding: int, channels: int) -> jax.Array:
    """(B, …) → (chunks, images, …): so many that a tower's stripes stay in cache."""
    batch, height, width, _ = x.shape
    rows, columns = height + 2 * padding, width + 2 * padding - size + 1
    one_image = rows * columns * size * channels * x.dtype.itemsize
    most = max(1, _STRIPE_BYTES // one_image)
    images = max(d for d in range(1, min(batch, most) + 1) if batch % d == 0)
    return x.reshape(-1, images, *x.shape[1:])


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
    if beta == 0.75:  # two square roots are several times faster than a power
        root = lax.rsqrt(x)
        return root * jnp.sqrt(root)
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
