"""Imagenette, ten easy classes of ImageNet, through TFDS: a first run on one GPU.

    tfds build imagenette/320px-v2 --file_format=array_record
    python -m alexnet_jax.main --config=configs/imagenette.py --workdir=runs/imagenette

Preparing it once needs TensorFlow (`pip install tensorflow`); training does not. Its
9,469 images are 74 steps an epoch: the network of the 2012 code in its full size,
for 60 epochs. No result is given, for it has not been run here: Imagenette cannot be
downloaded where this was written. Any other image classification data set of TFDS goes
the same way, by --config.dataset.tfds_name and the names of its splits.
"""

from configs import paper_2012_code


def get_config():
    """The 2012 code's network and rule, on a hundredth of its images."""
    config = paper_2012_code.get_config()
    config.epochs = 60.0

    dataset = config.dataset
    dataset.source = "tfds"
    dataset.tfds_name = "imagenette/320px-v2"
    dataset.train = "train"
    dataset.validation = "validation"

    optimizer = config.optimizer
    optimizer.drops = ((40.0, 1e-3, 2e-3), (52.0, 1e-4, 2e-4))
    optimizer.layer_drops = ()
    return config
