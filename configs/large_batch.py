"""Batches of 4,096 to 32,768 images with rates by layer (LARS; You et al., 2017).

    python -m alexnet_jax.main --config=configs/large_batch.py:8192 \
        --workdir=runs/large --config.dataset.train=ILSVRC2012/train \
        --config.dataset.validation=ILSVRC2012/val

The network and the augmentation of 2012's code. Words behind the batch, such as
'8192,bn', change it:

bn          AlexNet-BN in place of the network (`variants.batch_normalised`)
cifar10     `ablation.py`'s network on 32-pixel images, 16 of them at once and 16 and 64
            times as many; docs/results.md has the errors
momentum    one rate for all layers in place of LARS, with the same schedule

`accumulation` of two or more computes a batch in parts, where a device has no room for
its share. Not trained here on ImageNet.
"""

from ml_collections import ConfigDict

from alexnet_jax.errors import InputError
from configs import ablation, paper_2012_code, variants

BATCHES = (4096, 8192, 16384, 32768)
BATCHES_OF_CIFAR10 = (16, 256, 1024)
WORDS = ("bn", "cifar10", "momentum")
# The highest rate at 4,096 images of ImageNet and at 1,024 of CIFAR-10; it grows with
# the square root of the batch.
RATE = 10.0


def lars(config: ConfigDict, rate: float) -> ConfigDict:
    """Rates by layer that rise for five epochs and fall with the square of the rest.

    Args:
        config: to be changed.
        rate: the highest; a kernel moves by a thousandth of it, of its own norm.
    """
    optimizer = config.optimizer
    optimizer.rate, optimizer.trust = rate, 0.001
    optimizer.bias_rate_multiple = 0.001  # biases have no rate by layer
    optimizer.schedule, optimizer.warmup_epochs = "polynomial", 5.0
    optimizer.drops = optimizer.layer_drops = ()
    return config


def get_config(batch: str = "4096") -> ConfigDict:
    """A batch of BATCHES or BATCHES_OF_CIFAR10, 100 or 20 epochs, and WORDS."""
    images, *words = batch.split(",")
    small = "cifar10" in words
    batches = BATCHES_OF_CIFAR10 if small else BATCHES
    if images not in map(str, batches) or not set(words) <= set(WORDS):
        raise InputError(
            f"batch {batch!r}: allowed are {', '.join(map(str, batches))}, and behind "
            f"them, each after a comma, {', '.join(WORDS)}"
        )
    config = ablation.get_config() if small else paper_2012_code.get_config()
    if "bn" in words:
        variants.batch_normalised(config)
        if small:  # statistics of as many images at any batch
            config.network.batch_group = BATCHES_OF_CIFAR10[0]
    config.batch_size, config.epochs = int(images), 20.0 if small else 100.0
    reference = BATCHES_OF_CIFAR10[-1] if small else BATCHES[0]
    lars(config, RATE * (config.batch_size / reference) ** 0.5)
    if "momentum" in words:
        optimizer = config.optimizer
        optimizer.trust, optimizer.bias_rate_multiple = 0.0, 1.0
        optimizer.rate = 0.01 * config.batch_size / 128  # §5's, in proportion
    return config
