"""64-pixel photographs (Tiny ImageNet) in class folders: half an hour's run on a CPU.

    python -m alexnet_jax.main --config=configs/tiny_imagenet.py \
        --workdir=runs/tiny_imagenet \
        --config.dataset.train=tiny-imagenet/train \
        --config.dataset.validation=tiny-imagenet/val

Expect, for the first hundred of its classes (50,000 images), about 68 % top-1 error
over centre views and 67 % over ten, after half an hour on four cores.

The geometry is adapted, since 11×11 kernels at stride 4 leave nothing of 64 pixels:
crops of 56; conv1 5×5 at stride 2, whose grid overhangs by one pixel and has 27×27
positions, what the paper's conv1 and first pooling have together; then 13×13 and 6×6 as
there, and a last pooling to 3×3. About half as wide as the paper's network.
"""

from alexnet_jax.config import base_config


def get_config():
    """The paper's network at a quarter of its side."""
    config = base_config()
    config.epochs = 16.0
    config.checkpoint_every_steps = 500

    dataset = config.dataset
    dataset.image_size = 64
    dataset.threads = 1  # small images: more only wait for one another

    network = config.network
    network.kernels = (48, 96, 144, 144, 96)
    network.units = (768, 768)
    network.sizes = (5, 5, 3, 3, 3)
    network.strides = (2, 1, 1, 1, 1)
    # The 2012 code's, times √(its inputs to a unit / the inputs here): signals keep
    # the size that they had in the network of full width.
    network.stddevs = (0.022, 0.0141, 0.049, 0.049, 0.049, 0.0327, 0.0231, 0.0231)

    optimizer = config.optimizer
    optimizer.schedule = "epochs"
    optimizer.bias_rate_multiple = 2.0
    optimizer.drops = ((11.0, 1e-3, 2e-3), (14.0, 1e-4, 2e-3))

    augment = config.augment
    augment.crop = 56
    augment.offsets = 9
    return config
