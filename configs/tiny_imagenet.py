"""64-pixel photographs in class folders."""

from configs.base import base_config


def get_config():
    """Returns the network adapted to 56-pixel crops."""
    config = base_config()
    config.epochs = 30.0
    config.checkpoint_every_steps = 500
    config.dataset.image_size = 64

    network = config.network
    network.kernels = (64, 128, 192, 192, 128)
    network.units = (1024, 1024)
    network.conv1_size = 5
    network.conv1_stride = 2
    network.normalise_before_relu = True
    network.stddevs = (0.022, 0.0122, 0.042, 0.042, 0.042, 0.028, 0.02, 0.02)

    optimizer = config.optimizer
    optimizer.schedule = "epochs"
    optimizer.bias_rate_multiple = 2.0
    optimizer.drops = ((20.0, 1e-3, 2e-3), (26.0, 1e-4, 2e-3))

    config.augment.crop = 56
    config.augment.offsets = 9
    return config
