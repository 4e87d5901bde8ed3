"""The network of §3, to be read beside Figure 2.

The figure's two halves are the two towers. A network is a sequence of stages, as in
the 2012 code's layers-*.cfg: `FIGURE_2` is the paper's, and `AlexNet` runs it. The four
places where the halves of the figure touch are the four lines that say "exchange".

`AlexNet` is written for one device that holds one or both towers (`towers_here`). A
device may also hold only a slice of the fully-connected layers, as in 'One weird trick
for parallelizing convolutional neural networks' (Krizhevsky, 2014): `all_examples` then
fetches the examples of the devices that share these layers.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from alexnet_jax.network import exchange, maps, ops
from alexnet_jax.network.convolutions import Padding
from alexnet_jax.network.layers import AVERAGES, Convolution, FullyConnected

FIGURE_2 = (
    # 224×224×3 in both towers                 # what leaves the line, in one tower:
    "conv1", "relu", "normalise", "pool",      # 55×55×48 → 27×27×48
    "conv2", "relu", "normalise", "pool",      # 27×27×128 → 13×13×128
    "exchange",                                # 13×13×256, the maps of both towers
    "conv3", "relu",                           # 13×13×192
    "conv4", "relu",                           # 13×13×192
    "conv5", "relu", "pool",                   # 13×13×128 → 6×6×128
    "exchange",                                # 6×6×256
    "fc6", "relu", "dropout",                  # 2048
    "exchange",                                # 4096
    "fc7", "relu", "dropout",                  # 2048
    "exchange",                                # as sums: see `AlexNet.add_towers`
    "fc8",                                     # 1000, the same in both
)  # fmt: skip

UNITS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": ops.relu,  # f(x) = max(0, x) (§3.1)
    "tanh": jnp.tanh,  # §3.1's comparison
    "logistic": nn.sigmoid,  # (1 + e^−x)^−1 (§3.1)
    "abs_tanh": lambda x: jnp.abs(jnp.tanh(x)),  # Jarrett et al., 2009 (§3.1)
}
NORMALISATIONS = ("normalise", "normalise_within_maps")
POOLS = ("pool", "average_pool")
DROPOUTS = ("dropout", "inverted_dropout")  # inverted: Caffe, PyTorch
# Of the sums of the layer before it, ahead of its biases.
BATCH_NORMALISE = "batch_normalise"
OPERATIONS = (*UNITS, *NORMALISATIONS, *POOLS, *DROPOUTS, BATCH_NORMALISE, "exchange")
LAYERS = ("conv", "local", "fc")  # how names of layers with weights begin


class AlexNet(nn.Module):
    """Five convolutional and three fully-connected layers (§3.5).

    The attributes up to `dropout` are the keys of the config's `network`, where each is
    described. Tuples have an entry for each convolution or locally connected layer,
    each fully-connected layer but the last (`units`), or each layer with weights
    (`stddevs`, `biases`).

    Attributes:
        layers: the stages from the pixels to the logits. Names that begin as in
            `LAYERS` are layers with weights; the others are `OPERATIONS`. 'exchange'
            stands before a layer that reads the maps of both towers.
        classes: outputs of the last layer.
        dtype: of the computation. Parameters, their gradients and logits are float32
            (float64 where this is); on a GPU cuDNN rounds a convolution's gradient.
        towers_here: towers on this device; None: all.
        tower_axis: mesh axis over which the towers are spread; None: no mesh.
        fc_axis: mesh axis over which the units of each tower's fully-connected layers
            are spread, and the examples with them; None: they are not.
        fc_parts: devices along that axis.
    """

    layers: tuple[str, ...] = FIGURE_2
    #                           conv1, conv2, conv3, conv4, conv5
    kernels: tuple[int, ...] = (96,    256,   384,   384,   256)  # fmt: skip
    sizes: tuple[int, ...] =   (11,    5,     3,     3,     3)  # fmt: skip
    strides: tuple[int, ...] = (4,     1,     1,     1,     1)  # fmt: skip
    paddings: tuple[Padding, ...] = (0, 2,    1,     1,     1)  # fmt: skip
    #                         fc6,  fc7
    units: tuple[int, ...] = (4096, 4096)
    towers: int = 2
    pool_size: int = 3
    pool_stride: int = 2
    response_depth: int = 5
    response_k: float = 2.0
    response_alpha: float = 1e-4
    response_beta: float = 0.75
    response_range: str = "tower"
    spatial_size: int = 5
    spatial_alpha: float = 0.001 / 25
    batch_group: int = 128
    stddevs: tuple[float, ...] = (0.01,) * 8
    biases: tuple[float, ...] = (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    dropout: float = 0.5
    classes: int = 1000
    dtype: jnp.dtype = jnp.float32
    towers_here: int | None = None
    tower_axis: str | None = None
    fc_axis: str | None = None
    fc_parts: int = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, rows: jax.Array | None = None, until: str = ""
    ) -> jax.Array:
        """Map pixels to logits.

        Args:
            x: (B, H, W, 3), grey levels less the mean image; 224×224 in the paper.
            rows: int32 (B,), positions in the global batch of the examples that the
                fully-connected layers see here (B·fc_parts where they are shared).
                Given: a training pass, with dropout masks drawn from the 'dropout'
                rng. None: a test pass, where dropout multiplies by one half.
            until: a layer with weights, to return its activations, behind its unit.

        Returns:
            (B, classes), float32 or wider.
        """
        x = x.astype(self.dtype)
        reads_all = True  # both towers look at the same pixels
        done = ""  # the last layer with weights
        for stage, following in zip(self.layers, (*self.layers[1:], ""), strict=True):
            if until and done == until and stage not in (*UNITS, BATCH_NORMALISE):
                break
            match stage:
                case "exchange":
                    x, reads_all = self.both_towers(x, before=following), True
                case "normalise":
                    x = self.normalise(x)
                case "normalise_within_maps":
                    size, alpha = self.spatial_size, self.spatial_alpha
                    x = maps.spatial_normalisation(x, size=size, alpha=alpha)
                case "pool":
                    x = maps.overlapping_pooling(x, self.pool_size, self.pool_stride)
                case "average_pool":
                    x = ops.average_pooling(x, self.pool_size, self.pool_stride)
                case "dropout":
                    x = self.drop(x, rows)
                case "inverted_dropout":
                    x = x if rows is None else self.drop(x, rows) / (1 - self.dropout)
                case unit if unit in UNITS:
                    x = UNITS[unit](x)
                case _ if stage in self.weighted:  # with 'batch_normalise' behind it
                    x = self.layer(stage, reads_all, x, trains=rows is not None)
                    reads_all, done = False, stage
        return x

    def layer(self, name: str, reads_all: bool, x: jax.Array, trains: bool):
        """Apply a layer with weights, the part of it that lives here."""
        here, index = self.local_towers, self.weighted.index(name)
        how: dict[str, Any] = {
            "stddev": self.stddevs[index],
            "bias": self.biases[index],
            "groups": 1 if reads_all else here,
            "dtype": self.dtype,
            "name": name,
        }
        if name in self.batch_normalised:
            how["batch"] = self.batch_group if trains else 0
        if name in self.convolutions:
            conv = self.convolutions.index(name)
            return Convolution(
                kernels=self.kernels[conv] * here // self.towers,
                size=self.sizes[conv],
                stride=self.strides[conv],
                padding=self.paddings[conv],
                local=name.startswith("local"),
                **how,
            )(x)
        if x.ndim == 4:
            x = self.all_examples(x)
        if name == self.weighted[-1]:
            result = jnp.promote_types(self.dtype, jnp.float32)  # not rounded
            logits = FullyConnected(units=self.classes, result=result, **how)
            return logits(x, combine=self.add_towers)
        units = self.units[index - len(self.convolutions)] * here // self.towers
        return FullyConnected(units=units // self.fc_parts, result=self.dtype, **how)(x)

    def both_towers(self, x: jax.Array, before: str) -> jax.Array:
        """Fetch the other tower's maps: the kernels that follow read all (§3.2).

        Units (B, U) come from every device that has some of them.
        """
        across = []  # towers first, then the slices of a tower
        if self.local_towers < self.towers:
            across.append(self.tower_axis)
        if self.fc_axis is not None and x.ndim == 2:
            across.append(self.fc_axis)
        if not across or before == self.weighted[-1]:
            return x
        with jax.named_scope(f"exchange_{before}"):
            return exchange.gather(x, across)

    def all_examples(self, x: jax.Array) -> jax.Array:
        """Fetch the examples whose fully-connected layers are computed together."""
        if self.fc_axis is None:
            return x
        first = self.weighted[len(self.convolutions)]
        with jax.named_scope(f"exchange_{first}"):
            return lax.all_gather(x, self.fc_axis, tiled=True)

    def add_towers(self, x: jax.Array) -> jax.Array:
        """Add up the contributions of the towers to the logits.

        fc8 multiplies the 2048 units of each tower where they are: 1000 numbers cross
        in place of 2048, and none in the backward pass. Devices that share the layers
        each keep the sums of their own examples.
        """
        if self.tower_axis is None:
            return x
        with jax.named_scope(f"exchange_{self.weighted[-1]}"):
            if self.fc_axis is not None:
                x = lax.psum_scatter(x, self.fc_axis, tiled=True)
            return lax.psum(x, self.tower_axis)

    def normalise(self, x: jax.Array) -> jax.Array:
        """§3.3 with this network's constants."""
        return maps.response_normalisation(
            x,
            depth=self.response_depth,
            k=self.response_k,
            alpha=self.response_alpha,
            beta=self.response_beta,
            towers=1 if self.response_range == "layer" else self.local_towers,
        )

    def drop(self, x: jax.Array, rows: jax.Array | None) -> jax.Array:
        """§4.2: a random half of the units in training, each one halved at test."""
        if rows is None:
            return x * (1 - self.dropout)
        towers, first = jnp.arange(self.local_towers), jnp.array(0)
        if self.tower_axis is not None:
            towers += self.local_towers * lax.axis_index(self.tower_axis)
        if self.fc_axis is not None:
            first += x.shape[-1] * lax.axis_index(self.fc_axis)
        return ops.dropout(
            x,
            self.make_rng("dropout"),
            rows,
            rate=self.dropout,
            towers=towers,
            units=math.prod(x.shape[1:]) * self.fc_parts // self.local_towers,
            first=first,
        )

    @property
    def local_towers(self) -> int:
        """Towers on this device."""
        return self.towers if self.towers_here is None else self.towers_here

    @property
    def weighted(self) -> tuple[str, ...]:
        """The layers with weights, in order: conv1 to fc8."""
        return tuple(stage for stage in self.layers if stage not in OPERATIONS)

    @property
    def batch_normalised(self) -> tuple[str, ...]:
        """Those among them that `BATCH_NORMALISE` follows."""
        following = zip(self.layers, self.layers[1:], strict=False)
        return tuple(layer for layer, stage in following if stage == BATCH_NORMALISE)

    @property
    def convolutions(self) -> tuple[str, ...]:
        """Those among them that make maps, locally connected ones included."""
        return tuple(name for name in self.weighted if not name.startswith("fc"))

    def parameter_specs(self) -> dict[str, dict[str, P]]:
        """Which axis of each parameter lies along which axes of the mesh.

        Kernels are split by their outputs: a tower owns the kernels whose maps it
        makes. The last layer's is split by its inputs: see `add_towers`.

        Returns:
            {layer: {'kernel': spec, 'bias': spec}}, and those of `layers.AVERAGES`.
        """
        tower, fc = self.tower_axis, self.fc_axis
        units = (tower,) if fc is None else (tower, fc)
        by_kernel = P(None, None, None, tower)
        kinds = {
            "conv": {"kernel": by_kernel, "bias": P(tower)},
            "local": {"kernel": by_kernel, "bias": P(None, None, tower)},
            "fc": {"kernel": P(None, units), "bias": P(units)},
        }
        specs = {n: kinds[k] for n in self.weighted for k in LAYERS if n.startswith(k)}
        for name in self.batch_normalised:
            by_map = P(units if name.startswith("fc") else tower)
            specs[name] = {**specs[name], **dict.fromkeys(("scale", *AVERAGES), by_map)}
        return {**specs, self.weighted[-1]: {"kernel": P(units, None), "bias": P()}}
