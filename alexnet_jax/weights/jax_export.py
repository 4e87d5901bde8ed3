"""A network as one StableHLO program of `jax.export`, weights included."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax import export

from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.weights.layout import Tensors

PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    file: Path, params: Tensors, network: AlexNet, mean_image: np.ndarray, crop: int
) -> None:
    """Write the program: uint8 (B, S, S, 3) → float32 (B, classes).

    It takes the centre view, subtracts the mean image and ends with the softmax. B is
    any number from 1, and the program runs on all of `PLATFORMS`.

    Args:
        file: to write, for `jax.export.deserialize`.
        params: float32, inputs first.
        network: computes in its dtype.
        mean_image: float32 (S, S, 3).
        crop: side of the view.
    """
    margin = (len(mean_image) - crop) // 2
    centre = slice(margin, margin + crop)
    variables = {"params": unflatten_dict(params, sep=".")}

    def probabilities(images: jax.Array) -> jax.Array:
        pixels = images[:, centre, centre].astype(jnp.float32)
        logits = network.apply(variables, pixels - mean_image[centre, centre])
        return jax.nn.softmax(jnp.asarray(logits))

    (batch,) = export.symbolic_shape("B")
    images = jax.ShapeDtypeStruct((batch, *mean_image.shape), jnp.uint8)
    program = export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)
    file.write_bytes(program.serialize())
