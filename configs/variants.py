"""Variants of the 2012 network, each a few lines: what is left out or added.

    python -m alexnet_jax.main --config=configs/variants.py:no_normalisation \
        --workdir=runs/no_normalisation --config.dataset.train=ILSVRC2012/train \
        --config.dataset.validation=ILSVRC2012/val

Known names: see VARIANTS. Numbers are those of the configs of 2012 (docs/sources.md,
'Logged errors').
"""

from configs import paper_2012_code


def tanh(config):
    """Units of §3.1's comparison in place of ReLUs."""
    config.network.layers = tuple(
        "tanh" if stage == "relu" else stage for stage in config.network.layers
    )


def no_normalisation(config):
    """Config 148: 42.03 / 19.36 %, where 145 has 40.66 / 18.21 %."""
    config.network.layers = tuple(
        stage for stage in config.network.layers if not stage.startswith("normalise")
    )


def sixth_convolution(config):
    """Config 146: one more convolution over the last pooling layer (§6)."""
    network = config.network
    at = network.layers.index("fc6") - 1  # before the exchange
    more = ("exchange", "conv6", "relu")
    network.layers = (*network.layers[:at], *more, *network.layers[at:])
    network.kernels = (*network.kernels, network.kernels[-1])
    network.sizes = (*network.sizes, 3)
    network.strides = (*network.strides, 1)
    network.paddings = (*network.paddings, 1)
    network.stddevs = (*network.stddevs[:5], network.stddevs[4], *network.stddevs[5:])
    network.biases = (*network.biases[:5], network.biases[4], *network.biases[5:])


def one_tower(config):
    """Every kernel reads all maps of the layer before it: 62,378,344 parameters."""
    config.network.towers = 1


def no_overlap(config):
    """Config 147, pooling 2/2: 41.06 / 18.51 %. Its paddings keep the sizes of maps."""
    config.network.pool_size = config.network.pool_stride = 2
    config.network.paddings = (0, 1, 1, 1, 0)


VARIANTS = {
    change.__name__: change
    for change in (tanh, no_normalisation, sixth_convolution, one_tower, no_overlap)
}


def get_config(name: str = "tanh"):
    """The 2012 network with one change."""
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r}: allowed are {', '.join(VARIANTS)}")
    config = paper_2012_code.get_config()
    VARIANTS[name](config)
    return config
