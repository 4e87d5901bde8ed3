"""'One weird trick for parallelizing convolutional neural networks' (2014): one tower.

    python -m alexnet_jax.main --config=configs/one_weird_trick.py:torchvision \
        --workdir=runs/torchvision --config.dataset.train=ILSVRC2012/train \
        --config.dataset.validation=ILSVRC2012/val

61,100,840 parameters in both forms. 'cuda_convnet2' is layers-imagenet-1gpu.cfg with
the rates of its layer-params file: expect 42.55 % top-1 and 19.81 % top-5 error over
centre views (docs/sources.md, 'Other implementations'). 'torchvision' is the network of
its `alexnet`, trained by the 2012 code's rule. The published weights have 43.48 % and
20.93 %, by a recipe of their own; `convert` reads them (docs/weights.md).
"""

from ml_collections import ConfigDict

from alexnet_jax.values import one_of
from configs import paper_2012_code

TORCHVISION = (
    "conv1", "relu", "pool",                       # 55×55×64 → 27×27×64
    "conv2", "relu", "pool",                       # 27×27×192 → 13×13×192
    "conv3", "relu", "conv4", "relu",              # 13×13×384, 13×13×256
    "conv5", "relu", "pool", "inverted_dropout",   # 6×6×256
    "fc6", "relu", "inverted_dropout",
    "fc7", "relu",
    "fc8",
)  # fmt: skip

PUBLISHED = {  # top-1 / top-5 error, centre view: (paper, the program's own page)
    "torchvision": ("", "43.48 / 20.93"),
    "cuda_convnet2": ("", "42.55 / 19.81"),
}


def get_config(name: str = "torchvision") -> ConfigDict:
    """'torchvision' or 'cuda_convnet2'."""
    one_of(name, tuple(PUBLISHED), "network")
    config = paper_2012_code.get_config()
    config.epochs = 90.0
    network = config.network
    network.towers = 1
    network.kernels = (64, 192, 384, 256, 256)
    optimizer, augment = config.optimizer, config.augment
    optimizer.layer_drops = ()
    augment.crop_chunk = 1
    if name == "torchvision":
        network.layers = TORCHVISION
        # 2 on each side, but the grid does not cover the last column and row.
        network.paddings = ((2, 1), 2, 1, 1, 1)
        optimizer.drops = ((30.0, 1e-3, 2e-3), (60.0, 1e-4, 2e-4))
    else:
        network.layers = tuple(
            s for s in network.layers if s != "normalise_within_maps"
        )
        # Four equal stages of weights, 250 times slower in all, and two of biases.
        optimizer.drops = ((22.5, 1.587e-3, 2e-2), (45.0, 2.520e-4, 2e-3),
                           (67.5, 4e-5, 2e-3))  # fmt: skip
        augment.colour_noise_until_epoch = 1e9  # its command never stops it
    return config
