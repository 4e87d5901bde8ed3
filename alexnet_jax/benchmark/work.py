"""What a training step has to compute, counted from the shapes of its layers."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.network.alexnet import AlexNet, Convolution, FullyConnected


class Layer(NamedTuple):
    """A layer with weights.

    Attributes:
        name: conv1 to fc8.
        module: its fields.
        input: (B, H, W, C) or (B, inputs).
        kernel: (size, size, C per group, K) or (inputs, units).
        output: (B, H', W', K) or (B, units).
    """

    name: str
    module: Convolution | FullyConnected
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def flop(self) -> int:
        """Of its product: two for each weight at each position."""
        positions = math.prod(self.output[:-1])
        return 2 * positions * math.prod(self.kernel)


def layers_of(network: AlexNet, batch_size: int, side: int) -> list[Layer]:
    """The layers with weights, conv1 to fc8.

    Args:
        network: with both towers on one device.
        batch_size: images in the batch.
        side: of the network's input, in pixels.
    """
    seen: dict[Any, Any] = {}

    def watch(method, args, kwargs, context):
        result = method(*args, **kwargs)
        if isinstance(context.module, Convolution | FullyConnected):
            seen[context.module.name] = (context.module, args[0].shape, result.shape)
        return result

    pixels = jax.ShapeDtypeStruct((batch_size, side, side, 3), jnp.float32)
    with nn.intercept_methods(watch):
        made = jax.eval_shape(network.init, jax.random.key(0), pixels)
    return [
        Layer(name, module, input, made["params"][name]["kernel"].shape, output)
        for name, (module, input, output) in seen.items()
    ]


def training_flop(layers: list[Layer]) -> int:
    """Forward, gradient of the weights, gradient of the input, which conv1 needs not.

    Only the products of layers are counted, as in facts.md 10: 4.136e9 an image for
    the network of the paper.
    """
    return sum(layer.flop for layer in layers) * 3 - layers[0].flop


def inference_flop(layers: list[Layer]) -> int:
    """Forward alone."""
    return sum(layer.flop for layer in layers)
