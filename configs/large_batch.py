"""Batches of 4,096 to 32,768 images with rates by layer (LARS; You et al., 2017).

    python -m alexnet_jax.main --config=configs/large_batch.py:8192 \
        --workdir=runs/large --config.dataset.train=ILSVRC2012/train \
        --config.dataset.validation=ILSVRC2012/val

The network and the augmentation of 2012's code; with ',bn' behind the batch that of
AlexNet-BN (`variants.batch_normalised`). `accumulation` of two or more computes a batch
in parts, where a device has no room for its share. Not trained here.
"""

from ml_collections import ConfigDict

from configs import paper_2012_code, variants

BATCHES = (4096, 8192, 16384, 32768)
RATE = 10.0  # at 4,096 images; it grows with the square root of the batch


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
    """A batch of BATCHES, 100 epochs; '8192,bn' is AlexNet-BN's."""
    images, _, normalisation = batch.partition(",")
    if images not in map(str, BATCHES) or normalisation not in ("", "bn"):
        raise ValueError(
            f"batch {batch!r}: allowed are {', '.join(map(str, BATCHES))}, and each of "
            "them with ',bn' behind it"
        )
    config = paper_2012_code.get_config()
    if normalisation:
        variants.batch_normalised(config)
    config.batch_size, config.epochs = int(images), 100.0
    return lars(config, RATE * (config.batch_size / BATCHES[0]) ** 0.5)
