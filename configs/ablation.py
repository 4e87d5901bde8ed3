"""The claims of §3.1 to §4.2 at a size that a laptop trains: one row, one change.

    for class in cifar10/train/*/; do
        mkdir -p "cifar10-small/train/$(basename "$class")"
        ls "$class"* | head -n 1000 |
            xargs cp -t "cifar10-small/train/$(basename "$class")"
    done
    cp -r cifar10/val cifar10-small/val
    python -m alexnet_jax.prepare --source=cifar10-small --destination=cifar10-10k \
        --image_size=32 --encoding=raw
    python launch/sweep.py --workdir=runs/ablation --seeds=0,1 \
        $(printf 'configs/ablation.py:%s ' whole no_normalisation no_overlap tanh \
            no_dropout no_colour_noise no_crops half without_conv3 without_conv4 \
            without_conv5) \
        -- --config.dataset.train=cifar10-10k --config.dataset.validation=cifar10-10k

The network of the paper a quarter to a sixth as wide, with 256 units, on 28-pixel crops
of 10,000 CIFAR-10 images, 50 times each: few enough to overfit, as the paper's network
does on ImageNet. The changes are those of variants.py. docs/results.md has the errors.
"""

from ml_collections import ConfigDict

from alexnet_jax.values import one_of
from configs import cifar10_tfds, variants

ROWS = (
    *("whole", "no_normalisation", "no_overlap", "tanh", "no_dropout"),
    *("no_colour_noise", "no_crops", "half"),
    *("without_conv3", "without_conv4", "without_conv5"),
)
PUBLISHED = {row: variants.PUBLISHED[row] for row in ROWS if row in variants.PUBLISHED}


def get_config(name: str = "whole") -> ConfigDict:
    """A row of ROWS."""
    one_of(name, ROWS, "row")
    config = cifar10_tfds.get_config()
    config.epochs = 50.0
    config.validate_every_epochs = 5.0
    config.dataset.source = "records"
    config.network.kernels = (24, 48, 64, 64, 48)
    config.network.units = (256, 256)
    config.optimizer.drops = ((35.0, 1e-3, 1e-3), (45.0, 1e-4, 1e-4))
    variants.VARIANTS[name](config)
    if name == "no_overlap":  # 26 → 13 → 11 → 6 → 3 positions, as with 3/2
        config.network.paddings = (0, 1, 1, 1, 1)
    return config
