"""The layers with weights: convolutions, local and full connections, in groups."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax import device

Padding = int | tuple[int, int]  # rows and columns of zeros: each side; before, behind
Margins = tuple[tuple[int, int], tuple[int, int]]  # the same of H and of W


def _parameters(module: nn.Module, shape: tuple[int, ...], bias_axes: int = 1):
    """A Gaussian kernel and a constant bias (§5) over the last axis, or all but C."""
    dtype = jnp.promote_types(module.dtype, jnp.float32)
    kernel = module.param("kernel", nn.initializers.normal(module.stddev, dtype), shape)
    start = nn.initializers.constant(module.bias, dtype)
    positions = shape[: bias_axes - 1]
    return kernel, module.param("bias", start, (*positions, shape[-1]))


class Convolution(nn.Module):
    """Kernels (size, size, channels per group, kernels) and one bias a kernel.

    `local`: each position has kernels and biases of its own, (H', W',
    size · size · channels per group, kernels) and (H', W', kernels).
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
            kernel, bias = _parameters(self, shape, bias_axes=3)
            x = local_connection(x, kernel.astype(self.dtype), size=self.size, **how)
        else:
            shape = (self.size, self.size, channels, self.kernels)
            kernel, bias = _parameters(self, shape)
            x = convolution(x, kernel.astype(self.dtype), **how)
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
        kernel, bias = _parameters(self, (x.shape[-1], self.units))
        kernels = jnp.split(kernel.astype(self.dtype), self.groups, axis=-1)
        products = [
            jnp.matmul(x[:, group], own, preferred_element_type=self.result)
            for group, own in enumerate(kernels)
        ]
        return (combine(jnp.concatenate(products, axis=-1)) + bias).astype(self.result)


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
        kernel: (size, size, C, towers · K); the kernels of one tower are contiguous
            and read the maps of that tower alone.
        stride: pixels between neighbouring positions.
        padding: rows and columns of zeros on each side, or (before, behind).
        towers: number of groups.

    Returns:
        (B, H', W', towers · K).
    """
    margins = grid_margins(x.shape[1:3], kernel.shape[:2], stride, padding)
    return _of_towers(x, kernel, stride, margins, towers)


def local_connection(
    x: jax.Array,
    kernel: jax.Array,
    *,
    size: int,
    stride: int = 1,
    padding: Padding = 0,
    towers: int,
) -> jax.Array:
    """The same with unshared kernels: each position has its own (2012 layer.py).

    Args:
        x: as for `convolution`.
        kernel: (H', W', size · size · C, towers · K), inputs in the order of rows,
            columns and channels.
        size: side of the kernels, in pixels.
        stride: as for `convolution`, as are the next two.
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
    outputs = jnp.einsum("bhwptc,hwpctk->bhwtk", patches, kernels)
    return outputs.reshape(*outputs.shape[:3], -1)


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


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _of_towers(
    x: jax.Array, kernel: jax.Array, stride: int, margins: Margins, towers: int
) -> jax.Array:
    """The convolution of each tower's maps with its kernels, in the target's form."""
    return _of_towers_forward(x, kernel, stride, margins, towers)[0]


def _of_towers_forward(x, kernel, stride, margins, towers):
    maps = device.by_target(
        x, cpu=partial(_cut, towers=towers), default=partial(_split, towers=towers)
    )

    def in_groups(x, maps, kernel):
        return _convolution(x, kernel, stride, margins, feature_group_count=towers)

    def one_by_one(x, maps, kernel):
        kernels = jnp.split(kernel, towers, axis=-1)
        pairs = zip(maps, kernels, strict=True)
        outputs = [_convolution(*pair, stride, margins) for pair in pairs]
        return jnp.concatenate(outputs, axis=-1)

    outputs = device.by_target(x, maps, kernel, cpu=one_by_one, default=in_groups)
    return outputs, (x, maps, kernel)


def _of_towers_backward(stride, margins, towers, saved, gradient):
    def in_groups(x, maps, kernel, gradient):
        def convolution(x, kernel):
            return _convolution(x, kernel, stride, margins, feature_group_count=towers)

        return jax.vjp(convolution, x, kernel)[1](gradient)

    def one_by_one(x, maps, kernel, gradient):
        kernels = jnp.split(kernel, towers, axis=-1)
        upstream = jnp.split(gradient, towers, axis=-1)
        of_maps, of_kernels = zip(
            *(
                _gradients_of_one(*of_tower, stride, margins)
                for of_tower in zip(maps, kernels, upstream, strict=True)
            ),
            strict=True,
        )
        return jnp.concatenate(of_maps, -1), jnp.concatenate(of_kernels, -1)

    return device.by_target(*saved, gradient, cpu=one_by_one, default=in_groups)


_of_towers.defvjp(_of_towers_forward, _of_towers_backward)


def _gradients_of_one(x, kernel, gradient, stride, margins):
    """Both gradients of a tower as convolutions in the axis order NHWC, HWIO.

    XLA:CPU is fast in that order only. It transposes autodiff's layouts into it, except
    inside a scan such as that over micro-batches, where conv2 took minutes.
    """
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


def _split(x: jax.Array, towers: int) -> jax.Array:
    """(B, H, W, towers · C) → (towers, B, H, W, C)."""
    return jnp.stack(jnp.split(x, towers, axis=-1))


def _cut(x: jax.Array, towers: int) -> jax.Array:
    """The same in a loop, since XLA fuses nothing into one.

    For the gradient of conv2's kernels it otherwise recomputes all of the pooling
    before it in another axis order, 0.75 s a batch of 128 where the gradient itself
    takes 0.25.
    """
    if towers == 1:
        return x[None]
    maps = x.shape[-1] // towers
    return lax.map(
        lambda tower: lax.dynamic_slice_in_dim(x, tower * maps, maps, axis=-1),
        jnp.arange(towers),
    )
