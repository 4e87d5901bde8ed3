"""A classifier of your own classes, from a folder of images: minutes on a CPU.

From the weights of another run, or imported ones (alexnet_jax.convert):

    python -m alexnet_jax.main --config=configs/finetune.py:runs/pretrained \
        --workdir=runs/mine --config.dataset.train=pictures

Network, image size, mean image and colours are those of the other run, whose last layer
is replaced by one for your classes, which learns at ten times the rate of the others.
Caffe's fine-tuning does the same. The mean image is the other run's because conv1's
biases were trained on pixels less that image, and that of a few hundred images still
shows them.

From random weights, a network of 64-pixel images:

    python -m alexnet_jax.main --config=configs/finetune.py \
        --workdir=runs/mine --config.dataset.train=pictures

A tenth of each class is held out for validation unless dataset.validation names other
images. docs/data.md has a walk through both, with their results.
"""

from pathlib import Path

from ml_collections import ConfigDict

from alexnet_jax.config import base_config
from alexnet_jax.experiment import make_network
from alexnet_jax.workdir import read_config
from configs import tiny_imagenet


def get_config(pretrained: str = "") -> ConfigDict:
    """Training on a small folder.

    Args:
        pretrained: work directory of the run to start from; '': random weights.
    """
    config = from_run(pretrained) if pretrained else from_random_weights()
    config.batch_size = 32  # many steps in an epoch of few images
    config.dataset.held_out = 0.1
    config.optimizer.schedule = "epochs"
    return config


def from_run(pretrained: str) -> ConfigDict:
    """All layers of another run but the last, 20 epochs."""
    own, config = read_config(Path(pretrained).expanduser()), base_config()
    config.network, config.augment = own.network, own.augment
    config.precision = own.precision
    config.dataset.image_size = own.dataset.image_size
    config.dataset.exif_rotation = own.dataset.exif_rotation

    last = make_network(own, classes=2).weighted[-1]
    config.start.checkpoint = pretrained
    config.start.fresh = (last,)
    config.start.statistics = True

    optimizer = config.optimizer
    optimizer.momentum = own.optimizer.momentum
    optimizer.weight_decay = own.optimizer.weight_decay
    optimizer.layer_decays = own.optimizer.layer_decays
    biases = optimizer.bias_rate_multiple = own.optimizer.bias_rate_multiple
    rate = optimizer.rate = own.optimizer.rate / 10
    config.epochs = 20.0
    optimizer.drops = ((14.0, rate / 10, rate / 10 * biases),)
    optimizer.layer_drops = (
        (last, 0.0, 10 * rate, 10 * rate * biases),
        (last, 14.0, rate, rate * biases),
    )
    return config


def from_random_weights() -> ConfigDict:
    """tiny_imagenet.py's network of 64-pixel images, 40 epochs."""
    config = tiny_imagenet.get_config()
    config.epochs = 40.0
    config.optimizer.drops = ((28.0, 1e-3, 2e-3), (36.0, 1e-4, 2e-3))
    return config
