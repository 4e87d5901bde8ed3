"""The network as it was run in 2012: layers-145.cfg, learning rates lowered by hand.

    python -m alexnet_jax.main --config=configs/paper_2012_code.py \
        --workdir=runs/paper_2012_code \
        --config.dataset.train=ILSVRC2012/train \
        --config.dataset.validation=ILSVRC2012/val

Expect, after 91 epochs of ImageNet, the figures logged for config 145: 40.66 % top-1
and 18.21 % top-5 error over ten views of the validation images, 1.741 nats.

The epochs of each change are those that the run's author noted in
layer-params-145.cfg: weights to 1e-3 at 25, 1e-4 at 51 and 1e-5 at 79; conv1 alone to
1e-5 at 67, when the colour noise was switched off too, and frozen at 72. The learning
rate of the biases stayed at 0.02 to the end. `paper_2012_run4.py` has the schedule of
run4.sh, which is another run's.
"""

from alexnet_jax.config import base_config
from alexnet_jax.network.alexnet import FIGURE_2


def get_config():
    """The base with every difference between the paper and its code."""
    config = base_config()
    config.epochs = 91.0

    network = config.network
    network.layers = (
        "conv1", "normalise", "pool", "relu",  # of conv1's signed outputs
        "conv2", "relu", "normalise", "normalise_within_maps", "pool",
        *FIGURE_2[8:],
    )  # fmt: skip
    network.response_alpha = 1e-4 / 5  # the code divides by n
    network.stddevs = (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01)

    optimizer = config.optimizer
    optimizer.bias_rate_multiple = 2.0
    optimizer.schedule = "epochs"
    optimizer.drops = ((25.0, 1e-3, 2e-2), (51.0, 1e-4, 2e-2), (79.0, 1e-5, 2e-2))
    optimizer.layer_drops = (("conv1", 67.0, 1e-5, 2e-2), ("conv1", 72.0, 0.0, 0.0))

    augment = config.augment
    augment.offsets = 33
    augment.crop_chunk = 32
    augment.mean_at = "centre"
    augment.rescale_noisy = True
    augment.colour_noise_until_epoch = 67.0
    return config
