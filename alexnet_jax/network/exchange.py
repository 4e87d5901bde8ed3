"""Where the halves of Figure 2 touch: fetching the maps of other devices."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax import device


def gather(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """(…, C) on each device along the axes of a mesh → (…, devices · C) on all.

    Its gradient is a reduce-scatter.
    """
    names = tuple(axes)
    joined = partial(lax.all_gather, axis_name=names, axis=x.ndim - 1, tiled=True)
    return device.by_target(x, tpu=partial(_stacked, axes=names), default=joined)


def _stacked(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """The same by way of (devices, …, C).

    XLA for TPUs scatters along the outermost axis only. Where maps are joined along
    their channels it makes an all-reduce of the gradient, of twice the bytes.
    """
    parts = lax.all_gather(x, axes)
    return jnp.moveaxis(parts, 0, -2).reshape(*x.shape[:-1], -1)
