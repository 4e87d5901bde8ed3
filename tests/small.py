"""A network and a batch so small that compiling them takes a second or two."""

import functools

import jax
import numpy as np

from alexnet_jax.network.alexnet import AlexNet

SIDE, CLASSES = 64, 10


def small_network(**changes) -> AlexNet:
    """Figure 2 on 64 pixels, a twelfth as wide, whose signals do not fade."""
    values = {
        "classes": CLASSES,
        "kernels": (8, 16, 16, 16, 8),
        "units": (32, 32),
        "stddevs": (0.01, 0.1, 0.1, 0.1, 0.1, 0.3, 0.2, 0.2),
        "biases": (0.0, 0.1, 0.0, 0.1, 0.1, 0.1, 0.1, 0.0),
    }
    return AlexNet(**{**values, **changes})


@functools.cache
def small_params(network: AlexNet, side: int = SIDE):
    """Its weights as they are drawn for a run."""
    init = quick_jit(network.init)
    return init(jax.random.key(3), np.zeros((1, side, side, 3)))["params"]


def small_pixels(batch_size: int, side: int = SIDE) -> np.ndarray:
    """Mean-free grey levels, float32 (B, side, side, 3)."""
    levels = np.random.default_rng(5).integers(0, 256, (batch_size, side, side, 3))
    return levels.astype(np.float32) - 127


def small_batch(
    batch_size: int, margin: int = 8, seed: int = 6
) -> dict[str, np.ndarray]:
    """What `data.loader.training_batches` gives, of pictures `margin` larger."""
    rng, size = np.random.default_rng(seed), SIDE + margin
    return {
        "image": rng.integers(0, 256, (batch_size, size, size, 3)).astype(np.uint8),
        "crop": rng.integers(0, margin + 1, (batch_size, 2)).astype(np.int32),
        "flip": rng.random(batch_size) < 0.5,
        "colour_offset": rng.normal(0, 8, (batch_size, 3)).astype(np.float32),
        "scale": np.full(batch_size, 1 / 1.1, np.float32),
        "label": rng.integers(0, CLASSES, batch_size).astype(np.int32),
        "weight": np.ones(batch_size, np.float32),
    }


def mean_image(margin: int = 8) -> np.ndarray:
    """A mean image that is not the same everywhere, float32 (S, S, 3)."""
    side = SIDE + margin
    levels = np.random.default_rng(7).uniform(90, 140, (side, side, 3))
    return levels.astype(np.float32)


def quick_jit(function, **options):
    """`jax.jit` that compiles in half the time, to code that runs more slowly."""
    cheap = {"xla_backend_optimization_level": 0}
    return jax.jit(function, compiler_options=cheap, **options)
