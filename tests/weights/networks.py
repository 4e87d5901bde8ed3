"""Small networks that between them have every stage, and weights for them."""

import functools

import numpy as np
from asked import drawings
from flax.traverse_util import unflatten_dict
from small import quick_jit

from alexnet_jax.config import base_config
from alexnet_jax.experiment import make_network
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.weights.layout import shapes
from configs import caffe, cifar10, one_weird_trick, paper_2012_code, variants

CLASSES, IMAGES = 12, 4
MARGIN = 8  # the images are larger than the view


def _local(config):
    """Grouped local layers: 2012's layers.py has them, no network of the paper."""
    layers = " ".join(config.network.layers)
    layers = layers.replace("conv4", "local4").replace("conv5", "local5")
    config.network.layers = tuple(layers.split())


def _average(config):
    config.network.layers = tuple(
        s.replace("pool", "average_pool") for s in config.network.layers
    )


NETWORKS = {
    "paper": base_config,
    "2012 code": paper_2012_code.get_config,
    "caffenet": lambda: caffe.get_config("caffenet"),
    "torchvision": lambda: one_weird_trick.get_config("torchvision"),
    "norm18": lambda: cifar10.get_config("norm18"),
    "norm11": lambda: cifar10.get_config("norm11"),
}
CHANGES = {
    "no_overlap": variants.no_overlap,
    "no_communication": variants.no_communication,
    "without_conv1": variants.without_conv1,
    "logistic": variants.logistic,
    "abs_tanh": variants.abs_tanh,
    "local": _local,
    "batch_normalised": variants.batch_normalised,
    "average": _average,
}


def small_config(name: str):
    """A config whose network has few kernels, and sees few pixels."""
    if name in NETWORKS:
        config = NETWORKS[name]()
    else:
        config = base_config()
        CHANGES[name](config)
    network, augment = config.network, config.augment
    network.kernels = (12, 16, 24, 20, 16)[: len(network.kernels)]
    network.response_alpha = network.spatial_alpha = 1e-2  # so that it matters
    if network.units:  # not those of CIFAR-10
        network.units = (32, 24)
        augment.crop = 99 if augment.crop == 227 else 96
    augment.offsets = 1
    config.dataset.image_size = augment.crop + MARGIN
    return config


def mean_image(size: int) -> np.ndarray:
    """float32 (size, size, 3), not the same everywhere."""
    return np.random.default_rng(2).uniform(90, 140, (size, size, 3)).astype("f4")


@functools.cache
def small_network(name: str) -> tuple[AlexNet, int, dict, np.ndarray]:
    """The network, the side of its view, its weights, and its answers to `drawings`.

    The last layer is set so that the answers depend on the image and on nothing else.
    """
    config = small_config(name)
    network, side = make_network(config, CLASSES), config.augment.crop
    rng, params = np.random.default_rng(4), {}
    for tensor, shape in shapes(network, side).items():
        fan_in = np.prod(shape[-2:-1] if "local" in tensor else shape[:-1])
        deviation = 0.1 if tensor.endswith("bias") else np.sqrt(2 / fan_in)
        if name == "logistic":
            deviation *= 6  # or its units hardly know one image from another
        if not params:
            deviation /= 50  # the first layer sees grey levels
        params[tensor] = rng.normal(0, deviation, shape).astype("f4")
        if tensor.endswith("variance"):
            params[tensor] = rng.uniform(0.5, 2, shape).astype("f4")

    images, mean = drawings(IMAGES, side + MARGIN), mean_image(side + MARGIN)
    centre = slice(MARGIN // 2, MARGIN // 2 + side)
    pixels = images[:, centre, centre].astype("f4") - mean[centre, centre]
    tree = unflatten_dict(params, sep=".")
    logits = np.asarray(quick_jit(network.apply)({"params": tree}, pixels))
    common = logits.mean(axis=0)
    factor = 2 / (logits - common).std()
    last = network.weighted[-1]
    params[f"{last}.kernel"] *= factor
    params[f"{last}.bias"] = factor * (params[f"{last}.bias"] - common)
    grown = np.exp(factor * (logits - common))
    return network, side, params, grown / grown.sum(axis=1, keepdims=True)
