"""The 2012 network with the schedule that its author scripted for another run, run4.sh.

    python -m alexnet_jax.main --config=configs/paper_2012_run4.py \
        --workdir=runs/paper_2012_run4 \
        --config.dataset.train=ILSVRC2012/train \
        --config.dataset.validation=ILSVRC2012/val

run4.sh and its parameter files trained a four-GPU relative of config 120: weights to
1e-3 at epoch 22, 1e-4 at 49 and 1e-5 at 81; conv1 and conv2 to 1e-5 at 66, when the
colour noise was switched off, and frozen at 73; biases from 0.02 to 0.002 with the
first drop; stopped at 95. The network here is that of config 145, for which no figure
with this schedule was logged.
"""

from configs import paper_2012_code


def get_config():
    """Config 145's network with run4.sh's schedule."""
    config = paper_2012_code.get_config()
    config.epochs = 95.0
    config.augment.colour_noise_until_epoch = 66.0

    optimizer = config.optimizer
    optimizer.drops = ((22.0, 1e-3, 2e-3), (49.0, 1e-4, 2e-3), (81.0, 1e-5, 2e-3))
    optimizer.layer_drops = (
        ("conv1", 66.0, 1e-5, 2e-3), ("conv1", 73.0, 0.0, 0.0),
        ("conv2", 66.0, 1e-5, 2e-3), ("conv2", 73.0, 0.0, 0.0),
    )  # fmt: skip
    return config
