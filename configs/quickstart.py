"""A narrow AlexNet on generated images: watch the whole thing work, no download.

    python -m alexnet_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Expect about 9 % top-1 error over centre views and 7 % over ten (4 to 12 % with other
seeds; a linear model: 80 %) after a minute or two on four cores. Crops of 64 pixels:
the paper's 11×11 kernels at stride 4 have 15×15 positions, with the same three implied
rows of zeros.
"""

from alexnet_jax.config import base_config
from alexnet_jax.network.alexnet import FIGURE_2


def get_config():
    """The network made narrow, for 64-pixel crops of generated images."""
    config = base_config()
    config.batch_size = 64
    config.epochs = 22.0
    config.validate_every_epochs = 5.5
    config.checkpoint_every_steps = 500

    config.dataset.source = "generated"
    config.dataset.train = "4000"
    config.dataset.validation = "1000"
    config.dataset.image_size = 72
    config.dataset.threads = 1  # drawing holds Python's lock

    network = config.network
    network.kernels = (32, 64, 96, 96, 64)
    network.units = (256, 256)
    network.layers = ("conv1", "normalise", "pool", "relu", *FIGURE_2[4:])  # as in 2012
    # The 2012 code's, times √(its inputs to a unit / the inputs here): signals keep
    # the size that they had in the network of full width.
    network.stddevs = (0.01, 0.017, 0.06, 0.06, 0.06, 0.12, 0.04, 0.04)

    optimizer = config.optimizer
    optimizer.schedule = "epochs"
    optimizer.drops = ((11.0, 3e-3, 3e-3), (18.0, 1e-3, 1e-3))

    config.augment.crop = 64
    config.augment.offsets = 9
    return config
