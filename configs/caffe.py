"""The two networks that Caffe distributed: CaffeNet and bvlc_alexnet.

    python -m alexnet_jax.main --config=configs/caffe.py:caffenet \
        --workdir=runs/caffenet --config.dataset.train=ILSVRC2012/train \
        --config.dataset.validation=ILSVRC2012/val

Expect, over centre views of ILSVRC-2012's validation images, 42.6 % top-1 and 19.6 %
top-5 error (CaffeNet), 42.9 % and 19.8 % (bvlc_alexnet): the accuracies of Caffe's
readme (docs/sources.md, 'Other implementations'). Caffe reads blue, green, red; here
the network is trained on red, green, blue, which is the same but for the order.

`convert --source=bvlc_alexnet.caffemodel --mean=imagenet_mean.binaryproto` finds the
config by itself (docs/weights.md).
"""

from ml_collections import ConfigDict

from alexnet_jax.config import base_config
from alexnet_jax.network.alexnet import FIGURE_2
from alexnet_jax.values import one_of

PUBLISHED = {  # top-1 / top-5 error, centre view: (paper, Caffe's readme)
    "caffenet": ("", "42.6 / 19.6"),
    "bvlc_alexnet": ("", "42.9 / 19.8"),
}


def get_config(name: str = "caffenet") -> ConfigDict:
    """'caffenet' or 'bvlc_alexnet'."""
    one_of(name, tuple(PUBLISHED), "network")
    config = base_config()
    config.batch_size = 256
    config.epochs = 90.0  # 450,000 steps

    network = config.network
    layers = " ".join(FIGURE_2).replace("dropout", "inverted_dropout")
    if name == "caffenet":
        layers = layers.replace("normalise pool", "pool normalise")
    network.layers = tuple(layers.split())
    network.response_k, network.response_alpha = 1.0, 1e-4 / 5
    network.response_range = "layer"
    network.stddevs = (0.01,) * 5 + (0.005, 0.005, 0.01)
    bias = 1.0 if name == "caffenet" else 0.1
    network.biases = (0.0, bias, 0.0, bias, bias, bias, bias, 0.0)

    optimizer = config.optimizer
    optimizer.bias_rate_multiple = 2.0
    optimizer.schedule = "epochs"
    # A tenth each 100,000 steps of 256 of the 1,281,167 images.
    optimizer.drops = ((19.98, 1e-3, 2e-3), (39.96, 1e-4, 2e-4), (59.95, 1e-5, 2e-5),
                       (79.93, 1e-6, 2e-6))  # fmt: skip

    augment = config.augment
    augment.crop, augment.offsets = 227, 30
    augment.colour_noise = 0.0
    return config
