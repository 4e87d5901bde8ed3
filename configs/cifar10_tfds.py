"""CIFAR-10 through TFDS, 32-pixel photographs: half an hour on a CPU.

    tfds build cifar10 --file_format=array_record
    python -m alexnet_jax.main --config=configs/cifar10_tfds.py --workdir=runs/cifar10

Preparing it once needs TensorFlow (`pip install tensorflow`); training does not.
Expect 33 % top-1 error after 8 of its 20 epochs (measured on the same images as JPEGs
in class folders: --config.dataset.source=folder).

The geometry is adapted: crops of 28 as §4.1 takes 224 of 256; conv1 3×3 at stride 1,
13×13 positions after the first pooling, as in the paper after the second, and then 6×6
and 3×3. About a quarter as wide as the paper's network. Not the CIFAR-10 network of
§3.1's Figure 1.
"""

from alexnet_jax.config import base_config


def get_config():
    """The paper's network at an eighth of its side."""
    config = base_config()
    config.epochs = 20.0
    config.checkpoint_every_steps = 500

    dataset = config.dataset
    dataset.source = "tfds"
    dataset.tfds_name = "cifar10"
    dataset.train = "train"
    dataset.validation = "test"
    dataset.image_size = 32
    dataset.threads = 1  # small images: more only wait for one another

    network = config.network
    network.kernels = (32, 64, 96, 96, 64)
    network.units = (512, 512)
    network.sizes = (3, 5, 3, 3, 3)
    network.strides = (1, 1, 1, 1, 1)
    # √(2 / inputs) in conv3 and from fc6 on, by which signals keep their size from one
    # layer to the next; 0.7 of it where kernels read one tower; a tenth of it in conv1,
    # which reads grey levels.
    network.stddevs = (0.027, 0.05, 0.059, 0.048, 0.048, 0.059, 0.0625, 0.0625)
    network.biases = (0.0,) * 8

    optimizer = config.optimizer
    optimizer.schedule = "epochs"
    optimizer.drops = ((14.0, 1e-3, 1e-3), (18.0, 1e-4, 1e-4))

    augment = config.augment
    augment.crop = 28
    augment.offsets = 5
    return config
