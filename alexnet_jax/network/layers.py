"""The layers with weights: convolutions, local and full connections, in groups.

Gradients of weights are sums in float32, also where the maps are bfloat16.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax import device
from alexnet_jax.network import cpu
from alexnet_jax.network.convolutions import (
    Margins,
    Padding,
    grid_margins,
    in_groups,
    in_groups_gradients,
    local_connection,
    split,
    wide,
)

AVERAGES = ("mean", "variance")  # of the sums of a layer, over the last batches
EPSILON = 1e-5  # added to a variance


def _parameters(
    module: nn.Module, shape: tuple[int, ...], positions: tuple[int, ...] = ()
):
    """A Gaussian kernel, and a constant bias (§5) for each output at each position."""
    dtype = jnp.promote_types(module.dtype, jnp.float32)
    kernel = module.param("kernel", nn.initializers.normal(module.stddev, dtype), shape)
    start = nn.initializers.constant(module.bias, dtype)
    return kernel, module.param("bias", start, (*positions, shape[-1]))


def batch_normalisation(
    sums: jax.Array, scale: jax.Array, group: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Maps (or units) of mean 0 and variance 1 over images (Ioffe and Szegedy, 2015).

    Args:
        sums: (B, …, K).
        scale: (K,), a factor behind it.
        group: images taken together, a divisor of B: where one device has all of a
            group, the result is the same on every mesh, and nothing is exchanged.

    Returns:
        The maps, and the means over the groups (K,) of their means and variances.
    """
    groups = sums.reshape(-1, group, *sums.shape[1:]).astype(scale.dtype)
    over = tuple(range(1, groups.ndim - 1))
    mean = groups.mean(over, keepdims=True)
    variance = jnp.square(groups - mean).mean(over, keepdims=True)
    result = _standardised(groups, mean, variance, scale).astype(sums.dtype)
    mean, variance = (s.reshape(-1, s.shape[-1]).mean(0) for s in (mean, variance))
    return result.reshape(sums.shape), mean, variance


def _standardised(x, mean, variance, scale) -> jax.Array:
    return (x - mean) * (lax.rsqrt(variance + EPSILON) * scale)


def _normalised(module: nn.Module, sums: jax.Array) -> jax.Array:
    """The sums of a layer, ahead of its bias: `module.batch` says how.

    A training pass leaves what it saw in the collection 'statistics'.
    """
    if module.batch is None:
        return sums
    dtype = jnp.promote_types(module.dtype, jnp.float32)
    scale, mean, variance = (
        module.param(name, nn.initializers.constant(start, dtype), sums.shape[-1:])
        for name, start in zip(("scale", *AVERAGES), (1.0, 0.0, 1.0), strict=True)
    )
    if not module.batch:
        return _standardised(sums, mean, variance, scale).astype(sums.dtype)
    sums, *seen = batch_normalisation(sums, scale, module.batch)
    if module.is_mutable_collection("statistics"):
        for name, value in zip(AVERAGES, seen, strict=True):
            module.put_variable("statistics", name, value)
    return sums


class Convolution(nn.Module):
    """Kernels (size, size, channels per group, kernels) and one bias a kernel.

    `local`: each position has kernels and biases of its own, (H', W',
    size · size · channels per group, kernels) and (H', W', kernels).
    `batch`: images whose sums are normalised together in training, or 0, by the
    averages, in a test pass; None: the layer has no batch normalisation.
    """

    kernels: int
    size: int
    stride: int
    padding: Padding
    groups: int
    stddev: float
    bias: float
    dtype: jnp.dtype
    local: bool = False
    batch: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) → (B, H', W', kernels)."""
        channels = x.shape[-1] // self.groups
        how: dict[str, Any] = {"stride": self.stride, "padding": self.padding}
        how["towers"] = self.groups
        if self.local:
            margins = grid_margins(
                x.shape[1:3], (self.size,) * 2, self.stride, self.padding
            )
            height, width = (
                1 + (side + sum(margin) - self.size) // self.stride
                for side, margin in zip(x.shape[1:3], margins, strict=True)
            )
            shape = (height, width, self.size**2 * channels, self.kernels)
            kernel, bias = _parameters(self, shape, shape[:2])
            x = local_connection(x, kernel, size=self.size, **how)
        else:
            shape = (self.size, self.size, channels, self.kernels)
            kernel, bias = _parameters(self, shape)
            x = convolution(x, kernel, **how)
        return _add_bias(_normalised(self, x), bias)


class FullyConnected(nn.Module):
    """Kernel (inputs per group, units) and one bias a unit.

    The inputs of a group are in height, width, channel order; units of a group are
    contiguous and read the inputs of that group alone. `batch` as in `Convolution`.
    """

    units: int
    stddev: float
    bias: float
    dtype: jnp.dtype
    result: jnp.dtype
    groups: int = 1
    batch: int | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        combine: Callable[[jax.Array], jax.Array] = lambda sums: sums,
    ) -> jax.Array:
        """(B, …, C) → (B, units); `combine` is applied before the bias is added."""
        # (B, groups, inputs): the channels of a group lie side by side.
        x = x.reshape(x.shape[0], -1, self.groups, x.shape[-1] // self.groups)
        x = x.swapaxes(1, 2).reshape(x.shape[0], self.groups, -1)
        kernel, bias = _parameters(self, (x.shape[-1], self.units))
        kernels = jnp.split(kernel, self.groups, axis=-1)
        products = [
            _product(x[:, group], own, self.result) for group, own in enumerate(kernels)
        ]
        x = combine(jnp.concatenate(products, axis=-1))
        return _add_bias(_normalised(self, x), bias)


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Padding = 0,
    towers: int,
) -> jax.Array:
    """Grouped convolution whose output grid covers the image.

    The grid has 1 + ceil((side + 2·padding − size) / stride) positions a side; where
    the last one overhangs, the pixels beyond the bottom and right edge are zeros
    (2012 layer.py). For 224-pixel images and 11×11 kernels at stride 4 these are the
    three implied rows and columns that make 55×55.

    On a CPU it is fast in programs compiled by `device.jit`.

    Args:
        x: (B, H, W, towers · C).
        kernel: (size, size, C, towers · K), rounded to the dtype of x; the kernels of
            one tower are contiguous and read the maps of that tower alone.
        stride: pixels between neighbouring positions.
        padding: rows and columns of zeros on each side, or (before, behind).
        towers: number of groups.

    Returns:
        (B, H', W', towers · K).
    """
    margins = grid_margins(x.shape[1:3], kernel.shape[:2], stride, padding)
    return _of_towers(x, kernel.astype(wide(x)), stride, margins, towers)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _of_towers(
    x: jax.Array, kernel: jax.Array, stride: int, margins: Margins, towers: int
) -> jax.Array:
    """The convolution of each tower's maps with its kernels, in the target's form."""
    return _of_towers_forward(x, kernel, stride, margins, towers)[0]


def _of_towers_forward(x, kernel, stride, margins, towers):
    kernel = kernel.astype(x.dtype)
    own = partial(split, towers=towers)
    # Apart: XLA:CPU otherwise recomputes all of the pooling before conv2 in another
    # axis order, for the gradient of its kernels: 0.75 s where that takes 0.25.
    maps = device.by_target(x, cpu=own if towers == 1 else cpu.apart(own), default=own)

    def grouped(x, maps, kernel):
        return in_groups(x, kernel, stride, margins, towers)

    def one_by_one(x, maps, kernel):
        return cpu.convolution(maps, kernel, stride, margins)

    outputs = device.by_target(x, maps, kernel, cpu=one_by_one, default=grouped)
    return outputs, (x, maps, kernel)


def _of_towers_backward(stride, margins, towers, saved, gradient):
    own = wide(gradient)

    def grouped(x, maps, kernel, gradient, sums=own):
        of_x, of_kernel = in_groups_gradients(
            x, kernel, gradient, stride, margins, towers, sums
        )
        return of_x, of_kernel.astype(own)

    def one_by_one(x, maps, kernel, gradient):
        return cpu.convolution_gradients(maps, kernel, gradient, stride, margins, own)

    # cuDNN sums in float32 and writes the dtype of the maps, so that a replica's
    # gradient is rounded once. For another dtype XLA converts the maps first, and
    # multiplies at half the speed (docs/machines.md).
    cuda = partial(grouped, sums=gradient.dtype)
    return device.by_target(
        *saved, gradient, cpu=one_by_one, cuda=cuda, default=grouped
    )


_of_towers.defvjp(_of_towers_forward, _of_towers_backward)


@jax.custom_vjp
def _add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """(B, …, K) and (…, K) → (B, …, K) in the dtype of x.

    The bias's gradient is a float32 sum: in one of bfloat16s over all positions of a
    batch the last terms are lost.
    """

    def rounded(x, bias):  # cuDNN then adds it, in float32, to what it multiplies
        return x + bias.astype(x.dtype)

    def exact(x, bias):
        return (x + bias).astype(x.dtype)

    return device.by_target(x, bias, cuda=rounded, default=exact)


def _add_bias_forward(x, bias):
    return _add_bias(x, bias), bias


def _add_bias_backward(bias, gradient):
    over = tuple(range(gradient.ndim - bias.ndim))
    return gradient, gradient.astype(bias.dtype).sum(over)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, result: jnp.dtype) -> jax.Array:
    """(B, I) and float32 (I, U) → (B, U); the gradient of the kernel is not rounded."""
    return _product_forward(x, kernel, result)[0]


def _product_forward(x, kernel, result):
    kernel = kernel.astype(x.dtype)
    return jnp.matmul(x, kernel, preferred_element_type=result), (x, kernel)


def _product_backward(result, saved, gradient):
    x, kernel = saved
    of_x = lax.dot_general(gradient, kernel, (((1,), (1,)), ((), ())), None, x.dtype)
    of_kernel = lax.dot_general(gradient, x, (((0,), (0,)), ((), ())), None, wide(x))
    return of_x, of_kernel.T


_product.defvjp(_product_forward, _product_backward)
