"""Convolutions in groups, one to a tower, and local connections, for any target."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

Padding = int | tuple[int, int]  # rows and columns of zeros: each side; before, behind
Margins = tuple[tuple[int, int], tuple[int, int]]  # the same of H and of W


def wide(x: jax.Array) -> jnp.dtype:
    """The dtype of sums and of weights: float32, or float64 where x is."""
    return jnp.promote_types(x.dtype, jnp.float32)


def grid_margins(
    sides: tuple[int, ...], sizes: tuple[int, ...], stride: int, padding: Padding
) -> Margins:
    """Zeros around maps of some height and width, for a grid that covers them."""
    before, behind = (padding, padding) if isinstance(padding, int) else padding
    height, width = (
        (before, behind + -(side + before + behind - size) % stride)
        for side, size in zip(sides, sizes, strict=True)
    )
    return height, width


def local_connection(
    x: jax.Array,
    kernel: jax.Array,
    *,
    size: int,
    stride: int = 1,
    padding: Padding = 0,
    towers: int,
) -> jax.Array:
    """A convolution with unshared kernels: each position has its own (2012 layer.py).

    Args:
        x: as for `layers.convolution`.
        kernel: (H', W', size · size · C, towers · K), inputs in the order of rows,
            columns and channels; rounded to the dtype of x.
        size: side of the kernels, in pixels.
        stride: as for `layers.convolution`, as are the next two.
        padding: see there.
        towers: see there.

    Returns:
        (B, H', W', towers · K).
    """
    rows, columns = kernel.shape[:2]
    margins = grid_margins(x.shape[1:3], (size, size), stride, padding)
    x = jnp.pad(x, ((0, 0), *margins, (0, 0)))
    x = x.reshape(*x.shape[:3], towers, -1)
    down, across = (stride * (positions - 1) + 1 for positions in (rows, columns))
    places = [
        x[:, top : top + down : stride, left : left + across : stride]
        for top in range(size)
        for left in range(size)
    ]
    patches = jnp.stack(places, axis=3)
    kernels = kernel.reshape(rows, columns, size**2, x.shape[-1], towers, -1)
    outputs = _at_positions(patches, kernels.astype(wide(x)))
    return outputs.reshape(*outputs.shape[:3], -1)


@jax.custom_vjp
def _at_positions(patches: jax.Array, kernels: jax.Array) -> jax.Array:
    return _at_positions_forward(patches, kernels)[0]


def _at_positions_forward(patches, kernels):
    kernels = kernels.astype(patches.dtype)
    outputs = jnp.einsum("bhwptc,hwpctk->bhwtk", patches, kernels)
    return outputs, (patches, kernels)


def _at_positions_backward(saved, gradient):
    patches, kernels = saved
    forward = partial(jnp.einsum, "bhwptc,hwpctk->bhwtk")
    (of_patches,) = jax.vjp(lambda x: forward(x, kernels), patches)[1](gradient)
    of_kernels = jnp.einsum(
        "bhwptc,bhwtk->hwpctk",
        patches,
        gradient,
        preferred_element_type=wide(patches),
    )
    return of_patches, of_kernels


_at_positions.defvjp(_at_positions_forward, _at_positions_backward)


def in_groups(
    x: jax.Array, kernel: jax.Array, stride: int, margins: Margins, towers: int
) -> jax.Array:
    """(B, H, W, towers · C) and (h, w, C, towers · K) → (B, H', W', towers · K)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        margins,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=towers,
    )


def in_groups_gradients(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    stride: int,
    margins: Margins,
    towers: int,
    sums: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of x and of the kernel, this one with sums of the dtype `sums`."""

    def of_x(x):
        return in_groups(x, kernel, stride, margins, towers)

    of_kernel = lax.conv_general_dilated(  # as JAX transposes it, but for the dtype
        x,
        gradient,
        (1, 1),
        margins,
        rhs_dilation=(stride, stride),
        dimension_numbers=lax.ConvDimensionNumbers(
            (3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1)
        ),
        batch_group_count=towers,
        preferred_element_type=sums,
    )
    return jax.vjp(of_x, x)[1](gradient)[0], of_kernel


def split(x: jax.Array, towers: int) -> jax.Array:
    """(B, H, W, towers · C) → (towers, B, H, W, C)."""
    return jnp.stack(jnp.split(x, towers, axis=-1))
