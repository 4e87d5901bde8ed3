"""The layers with weights: grouped convolution and grouped full connection."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax import device

Margins = tuple[tuple[int, int], tuple[int, int]]  # zeros before and behind, H and W


def _parameters(module: nn.Module, shape: tuple[int, ...], stddev: float, bias: float):
    """A Gaussian kernel and a constant bias (§5)."""
    dtype = jnp.promote_types(module.dtype, jnp.float32)
    kernel = module.param("kernel", nn.initializers.normal(stddev, dtype), shape)
    start = nn.initializers.constant(bias, dtype)
    return kernel, module.param("bias", start, shape[-1:])


class Convolution(nn.Module):
    """Kernels (size, size, channels per group, kernels) and one bias a kernel."""

    kernels: int
    size: int
    stride: int
    padding: int
    groups: int
    stddev: float
    bias: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) → (B, H', W', kernels)."""
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.kernels)
        kernel, bias = _parameters(self, shape, self.stddev, self.bias)
        x = convolution(
            x,
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            towers=self.groups,
        )
        # Added in float32: in bfloat16 the bias's gradient would be a sum of bfloat16s
        # over all positions of a batch, in which the last terms are lost.
        return (x + bias).astype(self.dtype)


class FullyConnected(nn.Module):
    """Kernel (inputs per group, units) and one bias a unit.

    The inputs of a group are in height, width, channel order; units of a group are
    contiguous and read the inputs of that group alone.
    """

    units: int
    stddev: float
    bias: float
    dtype: jnp.dtype
    result: jnp.dtype
    groups: int = 1

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
        kernel, bias = _parameters(
            self, (x.shape[-1], self.units), self.stddev, self.bias
        )
        kernels = jnp.split(kernel.astype(self.dtype), self.groups, axis=-1)
        products = [
            jnp.matmul(x[:, group], own, preferred_element_type=self.result)
            for group, own in enumerate(kernels)
        ]
        return (combine(jnp.concatenate(products, axis=-1)) + bias).astype(self.result)


def convolution(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, towers: int
) -> jax.Array:
    """Grouped convolution whose output grid covers the image.

    The grid has 1 + ceil((side + 2·padding − size) / stride) positions a side; where
    the last one overhangs, the pixels beyond the bottom and right edge are zeros
    (2012 layer.py). For 224-pixel images and 11×11 kernels at stride 4 these are the
    three implied rows and columns that make 55×55.

    On a CPU it is fast in programs compiled by `device.jit`.

    Args:
        x: (B, H, W, towers · C).
        kernel: (size, size, C, towers · K); the kernels of one tower are contiguous
            and read the maps of that tower alone.
        stride: pixels between neighbouring positions.
        padding: rows and columns of zeros on each side.
        towers: number of groups.

    Returns:
        (B, H', W', towers · K).
    """

    def margin(side: int, size: int) -> tuple[int, int]:
        return padding, padding + -(side + 2 * padding - size) % stride

    height, width = x.shape[1:3]
    margins = margin(height, kernel.shape[0]), margin(width, kernel.shape[1])
    convolve: Callable[..., jax.Array] = _convolution
    maps: Iterable[jax.Array] = jnp.split(x, towers, axis=-1)
    if device.on_cpu():
        convolve, maps = _convolution_on_cpu, _split_towers(x, towers)
    kernels = jnp.split(kernel, towers, axis=-1)
    outputs = [
        convolve(of_tower, own, stride, margins)
        for of_tower, own in zip(maps, kernels, strict=True)
    ]
    return jnp.concatenate(outputs, axis=-1)


def _convolution(
    x: jax.Array, kernel: jax.Array, stride: int, margins: Margins, **dilation: Any
) -> jax.Array:
    """The convolution of one tower: (B, H, W, C) and (h, w, C, K) → (B, H', W', K)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        margins,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **dilation,
    )


def _convolution_forward(x, kernel, stride, margins):
    return _convolution(x, kernel, stride, margins), (x, kernel)


def _convolution_backward(stride, margins, saved, gradient):
    """Both gradients as convolutions in the axis order NHWC, HWIO.

    XLA:CPU is fast in that order only. It transposes autodiff's layouts into it, except
    inside a scan such as that over micro-batches, where conv2 took minutes.
    """
    x, kernel = saved
    apart = (stride, stride)
    mirrored = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    (top, bottom), (left, right) = margins
    rows, columns = kernel.shape[0] - 1, kernel.shape[1] - 1
    around = (rows - top, rows - bottom), (columns - left, columns - right)
    of_x = _convolution(gradient, mirrored, 1, around, lhs_dilation=apart)
    # The batch is summed over: it takes the place of the maps.
    maps_first, batch_third = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    of_kernel = _convolution(maps_first, batch_third, 1, margins, rhs_dilation=apart)
    return of_x, of_kernel.transpose(1, 2, 0, 3)


_convolution_on_cpu = jax.custom_vjp(_convolution, nondiff_argnums=(2, 3))
_convolution_on_cpu.defvjp(_convolution_forward, _convolution_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _split_towers(x: jax.Array, towers: int) -> jax.Array:
    """(B, H, W, towers · C) → (towers, B, H, W, C).

    A loop, since XLA fuses nothing into it: for the gradient of conv2's kernels it
    otherwise recomputes all of the pooling before it in another axis order, 0.75 s a
    batch of 128 where the gradient itself takes 0.25.
    """
    if towers == 1:
        return x[None]
    maps = x.shape[-1] // towers
    return lax.map(
        lambda tower: lax.dynamic_slice_in_dim(x, tower * maps, maps, axis=-1),
        jnp.arange(towers),
    )


_split_towers.defvjp(
    lambda x, towers: (_split_towers(x, towers), None),
    lambda towers, _, gradients: (jnp.concatenate(list(gradients), axis=-1),),
)
