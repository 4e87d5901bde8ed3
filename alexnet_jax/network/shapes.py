"""The shapes of a network, stage by stage, and its arithmetic."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_jax.errors import InputError
from alexnet_jax.network.alexnet import (
    BATCH_NORMALISE,
    DROPOUTS,
    LAYERS,
    NORMALISATIONS,
    OPERATIONS,
    POOLS,
    AlexNet,
)
from alexnet_jax.network.convolutions import Padding


class Stage(NamedTuple):
    """One stage of a network, over all towers; shapes are those of one image."""

    name: str  # as in `AlexNet.layers`
    layer: str  # with weights, that it is or follows
    groups: int  # 1 where it reads the maps of all towers; else the towers
    input: tuple[int, ...]  # (H, W, C) or (units,)
    output: tuple[int, ...]
    # (size, size, C a group, K), (H', W', size² · C a group, K) of a local layer, or
    # (inputs a group, units):
    kernel: tuple[int, ...] = ()
    size: int = 0  # side of a convolution's kernels, in pixels
    stride: int = 1  # of a convolution, in pixels
    padding: Padding = 0

    @property
    def label(self) -> str:
        """'conv1', or 'conv1 pool' for an operation behind it."""
        return self.name if self.kernel else f"{self.layer} {self.name}"

    @property
    def flop(self) -> int:
        """Floating-point operations of its product for one image: two a weight."""
        if not self.kernel:
            return 0
        shared = 1 if self.local else math.prod(self.output[:-1])
        return 2 * shared * math.prod(self.kernel)

    @property
    def local(self) -> bool:
        """Whether it is a locally connected layer."""
        return self.name.startswith("local")


def stages(network: AlexNet, side: int) -> list[Stage]:
    """The stages of a network for inputs of `side` pixels, if they fit together."""
    _check_order(network)
    _check_lengths(network)
    return list(_walk(network, side))


def _walk(network: AlexNet, side: int) -> Iterator[Stage]:
    shape: tuple[int, ...] = (side, side, 3)
    layer, groups = "pixels", 1
    convolutions, towers = network.convolutions, network.towers
    for name in network.layers:
        kernel: tuple[int, ...] = ()
        before, size, stride = shape, 0, 1
        padding: Padding = 0
        if name == "exchange":
            groups = 1
            continue
        if name in convolutions:
            conv = convolutions.index(name)
            size, kernels = network.sizes[conv], network.kernels[conv]
            stride, padding = network.strides[conv], network.paddings[conv]
            positions = _positions(name, side, shape[0], size, stride, padding)
            kernel = (size, size, shape[2] // groups, kernels)
            if name.startswith("local"):
                kernel = (positions, positions, math.prod(kernel[:3]), kernels)
            shape = (positions, positions, kernels)
        elif name in POOLS:
            window, step = network.pool_size, network.pool_stride
            positions = _positions(f"{layer} {name}", side, shape[0], window, step)
            shape = (positions, positions, shape[2])
        elif name not in OPERATIONS:
            last = name == network.weighted[-1]
            full = network.weighted.index(name) - len(convolutions)
            units = network.classes if last else network.units[full]
            kernel = (math.prod(shape) // groups, units)
            shape = (units,)
        if kernel:
            layer = name
        yield Stage(name, layer, groups, before, shape, kernel, size, stride, padding)
        if kernel:
            groups = towers


def _positions(
    name: str, input_side: int, side: int, size: int, stride: int, padding: Padding = 0
) -> int:
    """Positions a side of a grid that covers the image (2012 layer.py)."""
    padded = side + (2 * padding if isinstance(padding, int) else sum(padding))
    if padded < size:
        raise InputError(
            f"augment.crop={input_side}: {name} has windows of {size} pixels and gets "
            f"maps of {side}×{side}; set a larger augment.crop, smaller network.sizes "
            "or network.strides, or leave stages out of network.layers"
        )
    return 1 + math.ceil((padded - size) / stride)


def _check_order(network: AlexNet) -> None:
    layers, weighted = network.layers, network.weighted
    convolutions = network.convolutions

    def refuse(why: str) -> None:
        raise InputError(f"network.layers={' '.join(layers)}: {why}")

    for name in weighted:
        if not name.startswith(LAYERS):
            refuse(
                f"{name!r} is neither a layer ({'…, '.join(LAYERS)}…) nor one of "
                f"{', '.join(OPERATIONS)}"
            )
        if weighted.count(name) > 1:
            refuse(f"{name!r} stands there twice; give each layer a name of its own")
    if not weighted or layers[-1] in convolutions or layers[-1] in OPERATIONS:
        refuse("must end in a fully-connected layer, fc…, which gives the logits")
    if weighted[: len(convolutions)] != convolutions:
        refuse("a convolution cannot follow a fully-connected layer")
    first_fc = layers.index(weighted[len(convolutions)])
    for place, name in enumerate(layers):
        if name == "exchange" and layers[place + 1] not in weighted:
            refuse("'exchange' must stand directly before a layer with weights")
        above = [stage for stage in layers[place:first_fc] if stage in weighted]
        if name == BATCH_NORMALISE and (layers[place - 1] not in weighted or place < 1):
            refuse(
                f"{BATCH_NORMALISE!r} must stand directly behind a layer with weights"
            )
        if name in DROPOUTS and above:
            refuse(f"{name!r} must follow the last layer that makes maps (§4.2)")
        if name in (*POOLS, *NORMALISATIONS) and place > first_fc:
            refuse(f"{name!r} must stand before the fully-connected layers")
    if network.towers > 1 and (
        layers[-2] != "exchange" or len(weighted) - len(convolutions) < 2
    ):
        refuse(
            f"{weighted[-1]!r} gives the logits of all {network.towers} towers: "
            "'exchange' must stand before it, and a fully-connected layer before that"
        )


def _check_lengths(network: AlexNet) -> None:
    weighted, convs = network.weighted, len(network.convolutions)
    for key, given, length in (
        ("kernels", network.kernels, convs),
        ("sizes", network.sizes, convs),
        ("strides", network.strides, convs),
        ("paddings", network.paddings, convs),
        ("units", network.units, len(weighted) - convs - 1),
        ("stddevs", network.stddevs, len(weighted)),
        ("biases", network.biases, len(weighted)),
    ):
        if len(given) != length:
            raise InputError(
                f"network.{key}={given}: must have {length} entries, one for each of "
                "its layers in network.layers"
            )


def training_flop(network: AlexNet, side: int) -> int:
    """Floating-point operations of a training step for one image.

    Forward, gradient of the weights and gradient of the input, which the first layer
    does not need. Only the products of layers are counted: 4.136e9 for the network of
    the paper (docs/sources.md).
    """
    products = [stage.flop for stage in stages(network, side) if stage.kernel]
    return 3 * sum(products) - products[0]


def inference_flop(network: AlexNet, side: int) -> int:
    """Floating-point operations of the forward pass for one image."""
    return sum(stage.flop for stage in stages(network, side))
