"""The network of §3, read top to bottom beside Figure 2.

The figure's two halves are the two towers. Written for one device that holds one or
both of them: `towers_here` says how many, and the four places where the halves of the
figure touch are the four lines that call `both_towers` and `add_towers`.

A device may also hold only a slice of the fully-connected layers, as in 'One weird
trick for parallelizing convolutional neural networks' (Krizhevsky, 2014): then
`all_examples` fetches the examples of the devices that share these layers with it, and
the same lines as before fetch their units.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.network.ops import (
    convolution,
    dropout,
    overlapping_pooling,
    response_normalisation,
    spatial_normalisation,
)

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


class AlexNet(nn.Module):
    """Five convolutional and three fully-connected layers (§3.5).

    Attributes:
        classes: outputs of fc8.
        kernels: of conv1 to conv5, over all towers (96-256-384-384-256).
        units: of fc6 and fc7, over all towers (4096-4096).
        towers: 2 as in Figure 2; 1 makes every layer dense.
        conv1_size: side of conv1's kernels in pixels (11).
        conv1_stride: their stride in pixels (4).
        normalise_before_relu: conv1 → normalise → pool → ReLU, as the 2012 code does
            (facts 1.2), in place of §3.5's ReLU → normalise → pool.
        response_depth: n of §3.3.
        response_k: k of §3.3.
        response_alpha: α of §3.3; the 2012 code divides it by n.
        response_beta: β of §3.3.
        response_range: 'tower': windows end with the maps of a tower, as in the 2012
            code; 'layer': N is the number of kernels in the layer, as §3.3 says.
        spatial_alpha: α of the 5×5 normalisation that the 2012 code has after conv2's;
            0 leaves it out, as the paper does.
        stddevs: of the Gaussian weights, conv1 to fc8 (§5).
        biases: the constants that biases start from, conv1 to fc8 (§5).
        dropout_rate: of fc6 and fc7 (§4.2).
        dtype: of the computation; parameters, their gradients and logits are float32
            always.
        towers_here: towers on this device, 1 or `towers`.
        tower_axis: mesh axis over which the towers are spread; None where there is
            no mesh around, as in `init`.
        fc_axis: mesh axis over which the units of each tower's fully-connected layers
            are spread once more, and the examples with them; None: they are not.
        fc_parts: devices along that axis.
    """

    classes: int = 1000
    kernels: tuple[int, ...] = (96, 256, 384, 384, 256)
    units: tuple[int, ...] = (4096, 4096)
    towers: int = 2
    conv1_size: int = 11
    conv1_stride: int = 4
    normalise_before_relu: bool = False
    response_depth: int = 5
    response_k: float = 2.0
    response_alpha: float = 1e-4
    response_beta: float = 0.75
    response_range: str = "tower"
    spatial_alpha: float = 0.0
    stddevs: tuple[float, ...] = (0.01,) * 8
    biases: tuple[float, ...] = (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    dropout_rate: float = 0.5
    dtype: jnp.dtype = jnp.float32
    towers_here: int = 2
    tower_axis: str | None = None
    fc_axis: str | None = None
    fc_parts: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array | None = None) -> jax.Array:
        """Maps pixels to logits; the comments give the shape in one tower.

        Args:
            x: (B, 224, 224, 3), grey levels less the mean image.
            rows: int32 (B,), positions in the global batch of the examples that the
                fully-connected layers see here (B·fc_parts where they are shared):
                trains, with dropout masks drawn from the 'dropout' rng. None tests,
                where dropout multiplies by one half.

        Returns:
            float32 (B, classes).
        """
        towers = self.towers_here
        x = x.astype(self.dtype)

        x = self.conv("conv1", self.conv1_size, self.conv1_stride)(x)  # 55×55×48
        if self.normalise_before_relu:
            x = nn.relu(overlapping_pooling(self.normalise(x)))  # 27×27×48
        else:
            x = overlapping_pooling(self.normalise(nn.relu(x)))  # 27×27×48

        x = self.conv("conv2", 5, padding=2, groups=towers)(x)  # 27×27×128
        x = self.normalise(nn.relu(x))
        if self.spatial_alpha:
            x = spatial_normalisation(x, alpha=self.spatial_alpha)
        x = overlapping_pooling(x)  # 13×13×128

        x = self.both_towers(x, before="conv3")  # 13×13×256
        x = nn.relu(self.conv("conv3", 3, padding=1)(x))  # 13×13×192
        x = nn.relu(self.conv("conv4", 3, padding=1, groups=towers)(x))  # 13×13×192
        x = nn.relu(self.conv("conv5", 3, padding=1, groups=towers)(x))  # 13×13×128
        x = overlapping_pooling(x)  # 6×6×128

        x = self.both_towers(x, before="fc6")  # 6×6×256
        x = self.all_examples(x)
        x = nn.relu(self.fc("fc6")(x.reshape(x.shape[0], -1)))  # 2048
        x = self.drop(x, rows)

        x = self.both_towers(x, before="fc7")  # 4096
        x = nn.relu(self.fc("fc7")(x))  # 2048
        x = self.drop(x, rows)

        return self.fc("fc8")(x, combine=self.add_towers)  # 1000, the same in both

    def both_towers(self, x: jax.Array, before: str) -> jax.Array:
        """Fetches the other tower's maps: the kernels that follow read all (§3.2).

        Units (B, U) come from every device that has some of them.
        """
        across = []  # towers first, then the slices of a tower
        if self.towers_here < self.towers:
            across.append(self.tower_axis)
        if self.fc_axis is not None and x.ndim == 2:
            across.append(self.fc_axis)
        if not across:
            return x
        with jax.named_scope(f"exchange_{before}"):
            return lax.all_gather(x, tuple(across), axis=x.ndim - 1, tiled=True)

    def all_examples(self, x: jax.Array) -> jax.Array:
        """Fetches the examples whose fully-connected layers are computed together."""
        if self.fc_axis is None:
            return x
        with jax.named_scope("exchange_fc6"):
            return lax.all_gather(x, self.fc_axis, tiled=True)

    def add_towers(self, x: jax.Array) -> jax.Array:
        """Sums what each tower contributes to the logits.

        fc8 multiplies the 2048 units of each tower where they are: 1000 numbers cross
        in place of 2048, and none in the backward pass. Devices that share the layers
        each keep the sums of their own examples.
        """
        if self.tower_axis is None:
            return x
        with jax.named_scope("exchange_fc8"):
            if self.fc_axis is not None:
                x = lax.psum_scatter(x, self.fc_axis, tiled=True)
            return lax.psum(x, self.tower_axis)

    def normalise(self, x: jax.Array) -> jax.Array:
        """§3.3 with this network's constants."""
        return response_normalisation(
            x,
            depth=self.response_depth,
            k=self.response_k,
            alpha=self.response_alpha,
            beta=self.response_beta,
            towers=1 if self.response_range == "layer" else self.towers_here,
        )

    def drop(self, x: jax.Array, rows: jax.Array | None) -> jax.Array:
        """§4.2: a random half of the units in training, all of them halved at test."""
        if rows is None:
            return x * (1 - self.dropout_rate)
        towers, first = jnp.arange(self.towers_here), jnp.array(0)
        if self.tower_axis is not None:
            towers += self.towers_here * lax.axis_index(self.tower_axis)
        if self.fc_axis is not None:
            first += x.shape[-1] * lax.axis_index(self.fc_axis)
        return dropout(
            x,
            self.make_rng("dropout"),
            rows,
            rate=self.dropout_rate,
            towers=towers,
            units=x.shape[-1] * self.fc_parts // self.towers_here,
            first=first,
        )

    def conv(
        self, name: str, size: int, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> "Convolution":
        """A convolutional layer: the part of its kernels that lives here."""
        layer = LAYERS.index(name)
        return Convolution(
            kernels=self.kernels[layer] * self.towers_here // self.towers,
            size=size,
            stride=stride,
            padding=padding,
            groups=groups,
            stddev=self.stddevs[layer],
            bias=self.biases[layer],
            dtype=self.dtype,
            name=name,
        )

    def fc(self, name: str) -> "FullyConnected":
        """A fully-connected layer: the part of its units that lives here."""
        layer = LAYERS.index(name)
        parts = self.towers // self.towers_here * self.fc_parts
        fc6, fc7 = (units // parts for units in self.units)
        return FullyConnected(
            units={"fc6": fc6, "fc7": fc7, "fc8": self.classes}[name],
            stddev=self.stddevs[layer],
            bias=self.biases[layer],
            dtype=self.dtype,
            result=jnp.float32
            if name == "fc8"
            else self.dtype,  # logits are not rounded
            name=name,
        )


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
        kernel = self.param("kernel", nn.initializers.normal(self.stddev), shape)
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.kernels,))
        x = convolution(
            x,
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            towers=self.groups,
        )
        # Added in float32: in bfloat16 the bias's gradient would be a sum of bfloat16s
        # over all positions of a batch, of which the last ones no longer count.
        return (x + bias).astype(self.dtype)


class FullyConnected(nn.Module):
    """Kernel (inputs, units) and one bias a unit; inputs in height, width, channel."""

    units: int
    stddev: float
    bias: float
    dtype: jnp.dtype
    result: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, combine=lambda partial_sums: partial_sums):
        """(B, inputs) → (B, units); `combine` is called before the bias is added."""
        shape = (x.shape[-1], self.units)
        kernel = self.param("kernel", nn.initializers.normal(self.stddev), shape)
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.units,))
        x = jnp.matmul(x, kernel.astype(self.dtype), preferred_element_type=self.result)
        return (combine(x) + bias).astype(self.result)
