"""The layers with weights: grouped convolution and grouped full connection."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.network.convolution import convolution


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
