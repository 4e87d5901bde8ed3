"""The same network as it was really run in 2012: layers-145.cfg, with run4.sh's rates.

    python -m alexnet_jax.main --config=configs/paper_2012_code.py \
        --workdir=runs/paper_2012_code \
        --config.dataset.train=ILSVRC2012/train \
        --config.dataset.validation=ILSVRC2012/val

Expect, after 95 epochs of ImageNet, what config 145 logged: 40.66 % top-1 and 18.21 %
top-5 error over ten views of the validation pictures, 1.741 nats. Its rates were
lowered by hand, at epochs 25, 51, 67, 72 and 79 of 91; the schedule here is the
script that its author wrote for another run (run4.sh). There the biases' rate falls to
0.002 with the first drop; in 145 it stayed at 0.02.
"""

from configs.base import base_config


def get_config():
    """Returns the base with every difference between the paper and its code."""
    config = base_config()
    config.epochs = 95.0

    network = config.network
    network.normalise_before_relu = True  # conv1 → normalise → pool → ReLU
    network.response_alpha = 1e-4 / 5  # the code divides by n
    network.spatial_alpha = 0.001 / 25  # a second normalisation after conv2's
    network.stddevs = (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01)

    optimizer = config.optimizer
    optimizer.bias_rate_multiple = 2.0
    optimizer.schedule = "epochs"
    optimizer.drops = ((22.0, 1e-3, 2e-3), (49.0, 1e-4, 2e-3), (81.0, 1e-5, 2e-3))
    optimizer.layer_drops.conv1 = ((66.0, 1e-5, 2e-3), (73.0, 0.0, 0.0))

    augment = config.augment
    augment.offsets = 33
    augment.crop_chunk = 32
    augment.mean_at = "centre"
    augment.colour_noise_divisor = 1.1
    augment.colour_noise_until_epoch = 66.0
    return config
